// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// The guest's own package, for editors and tests: ordinary Swift, against the C library of the machine at hand. What
// runs in machines is built by `./build`, which compiles the same sources as one module of Embedded Swift with musl.
// `Wire` and `GuestProtocol` are links to the host's sources.

let house: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .treatAllWarnings(as: .error),
]

let package = Package(
    name: "martlet-guest",
    targets: [
        .target(name: "Wire", swiftSettings: house + [.enableExperimentalFeature("Lifetimes")]),
        .target(name: "GuestProtocol", dependencies: ["Wire"], swiftSettings: house),
        .target(name: "CGuest"),
        .target(name: "GuestCore", swiftSettings: house),
        .executableTarget(
            name: "martlet-init", dependencies: ["CGuest", "GuestCore", "GuestProtocol", "Wire"],
            swiftSettings: house),
        .testTarget(name: "GuestCoreTests", dependencies: ["CGuest", "GuestCore"], swiftSettings: house),
        .testTarget(
            name: "MartletInitTests", dependencies: ["GuestProtocol", "Wire"], swiftSettings: house),
    ]
)
