// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// The floors of the house, lowest first; a target may depend only on floors below its own (Docs/ARCHITECTURE.md).

/// What every Swift target is built with.
let house: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .treatAllWarnings(as: .error),
    // The runtime is asked for a generic type's metadata by a call, not by a mangled name that it has to take apart first:
    // most of our programs live for milliseconds, and needed a tenth of them to read names.
    .unsafeFlags(["-Xfrontend", "-disable-concrete-type-metadata-mangled-name-accessors"]),
]

/// What the floors 0–2 of the monitor and the fabric are built with: each unsafe expression is marked as such.
let lowFloors: [SwiftSetting] =
    house + [
        .strictMemorySafety(),
        .enableExperimentalFeature("Lifetimes"),
    ]

/// Programs that run where there may be no shared library at all: the monitor's jail, the emulated host.
let fullyStatic: [LinkerSetting] = [.unsafeFlags(["-static-executable"])]

/// A large program that is started often: at a fixed address nothing in it has to be adjusted when it is loaded, which
/// would touch thousands of its pages.
let atFixedAddress: [LinkerSetting] = [.unsafeFlags(["-Xclang-linker", "-no-pie"])]

func tests(
    _ name: String, _ dependencies: [Target.Dependency], resources: [Resource]? = nil, exclude: [String] = []
) -> Target {
    .testTarget(
        name: name, dependencies: dependencies + ["TestSupport"], exclude: exclude, resources: resources,
        swiftSettings: house)
}

let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let httpClient = Target.Dependency.product(name: "AsyncHTTPClient", package: "async-http-client")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")

var targets: [Target] = [
    // Floor 0
    .target(name: "CLinux"),
    .target(name: "Platform", dependencies: ["CLinux"], swiftSettings: lowFloors),
    .systemLibrary(name: "CISAL", providers: [.apt(["libisal-dev"])]),
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),

    // Floor 1
    .target(name: "Wire", swiftSettings: lowFloors),
    .target(name: "GuestProtocol", dependencies: ["Wire"], swiftSettings: lowFloors),
    .target(name: "KVM", dependencies: ["CLinux", "Platform"], swiftSettings: lowFloors),
    .target(name: "Virtio", dependencies: ["CLinux", "Platform", "Wire"], swiftSettings: lowFloors),

    // Floor 2
    .target(name: "MachineAPI", dependencies: ["Wire"], swiftSettings: lowFloors),
    .target(
        name: "Machine", dependencies: ["CLinux", "Platform", "Wire", "KVM", "Virtio", "MachineAPI"],
        swiftSettings: lowFloors),
    .target(name: "Packet", swiftSettings: lowFloors),
    .target(
        name: "DiskImage", dependencies: ["CLinux", "Platform", "Wire", "CISAL", "CZstd", crypto],
        swiftSettings: lowFloors),
    .target(
        name: "OCI",
        dependencies: [
            "CLinux", "Platform", "CISAL", "CZstd", httpClient, crypto, nioCore, nioHTTP1, nioPosix, nioSSL,
        ],
        swiftSettings: house),
    .target(name: "TCP", swiftSettings: lowFloors),
    .target(name: "FabricAPI", dependencies: ["Wire", "Packet"], swiftSettings: lowFloors),

    // Floor 3
    .target(
        name: "ImageStore", dependencies: ["CLinux", "Platform", "OCI", "DiskImage", nioCore], swiftSettings: house),

    .target(
        name: "Sessions", dependencies: ["CLinux", "Platform", "Wire", "GuestProtocol"], swiftSettings: lowFloors),

    .target(name: "Fabric", dependencies: ["CLinux", "Platform", "Wire", "Packet"], swiftSettings: lowFloors),

    .target(name: "PageServer", dependencies: ["CLinux", "Platform", "Wire", "MachineAPI"], swiftSettings: lowFloors),

    .target(
        name: "Networks", dependencies: ["CLinux", "Platform", "Wire", "Packet", "FabricAPI"],
        swiftSettings: lowFloors),

    .target(
        name: "Snapshots", dependencies: ["CLinux", "Platform", "Wire", "Machine", "MachineAPI", crypto],
        swiftSettings: house),

    // Floor 4
    .target(
        name: "Gateway", dependencies: ["CLinux", "Platform", "Packet", "Fabric", "FabricAPI", "TCP"],
        swiftSettings: lowFloors),
    .target(
        name: "Worker",
        dependencies: [
            "CLinux", "Platform", "Wire", "Packet", "GuestProtocol", "MachineAPI", "FabricAPI", "Networks", "Sessions",
        ],
        swiftSettings: lowFloors),
    .target(
        name: "EmulatedHost",
        dependencies: [
            "CLinux", "Platform", "Wire", "Packet", "GuestProtocol", "FabricAPI", "Fabric", "Networks", "Sessions",
        ],
        swiftSettings: lowFloors),

    // Floor 5
    .target(
        name: "FabricService",
        dependencies: ["CLinux", "Platform", "Wire", "Packet", "Fabric", "FabricAPI", "Gateway"],
        swiftSettings: lowFloors),

    // Floor 6
    .target(
        name: "Launch",
        dependencies: [
            "CLinux", "Platform", "Wire", "Packet", "KVM", "GuestProtocol", "FabricAPI", "Networks", "Sessions",
            "Worker", "EmulatedHost",
        ],
        swiftSettings: house),

    // Floor 7
    .executableTarget(
        name: "martlet-vmm", dependencies: ["Platform", "Wire", "KVM", "Machine", "MachineAPI"],
        swiftSettings: lowFloors, linkerSettings: fullyStatic),
    .executableTarget(
        name: "martlet-fabric", dependencies: ["FabricService", "Platform"], swiftSettings: lowFloors,
        linkerSettings: fullyStatic),
    .executableTarget(
        name: "martlet-pages", dependencies: ["PageServer", "Platform"], swiftSettings: lowFloors,
        linkerSettings: fullyStatic),
    .executableTarget(
        name: "martlet-supervisor", dependencies: ["Platform", "Wire", "GuestProtocol", "Worker"],
        swiftSettings: lowFloors, linkerSettings: fullyStatic),
    .executableTarget(
        name: "martlet", dependencies: ["Launch", "Platform", "Worker"], swiftSettings: house,
        linkerSettings: fullyStatic),
    .executableTarget(
        name: "martlet-commands",
        dependencies: [
            "Launch", "Platform", "Wire", "GuestProtocol", "KVM", "MachineAPI", "OCI", "ImageStore", "Sessions",
            "Worker", "Packet", "FabricAPI", "Networks", "Machine", "Snapshots", "PageServer", "EmulatedHost",
            argumentParser,
        ],
        swiftSettings: house, linkerSettings: atFixedAddress),

    // What tests of every room use: random numbers with a seed, bytes as views take them, network namespaces.
    .target(
        name: "TestSupport", dependencies: ["CLinux", "Platform"], path: "Tests/TestSupport", swiftSettings: house),
    // What tests of images share: images made on the spot, registries on loopback.
    .target(
        name: "OCITesting", dependencies: ["Platform", "OCI", "TestSupport", nioCore, nioHTTP1, nioPosix, nioSSL],
        path: "Tests/OCITesting", swiftSettings: house),
    // Not installed: what a benchmark runs.
    .target(name: "AllocationCounter", path: "Benchmarks/router/Counter"),
    .executableTarget(
        name: "route-frames", dependencies: ["AllocationCounter", "Fabric", "Packet", "Platform", "TestSupport"],
        path: "Benchmarks/router/Sources", swiftSettings: house),
    .executableTarget(
        name: "convert-layer", dependencies: ["DiskImage", "Platform"], path: "Benchmarks/convert/Sources",
        swiftSettings: house),

    tests("PlatformTests", ["Platform", "CLinux"]),
    tests("WireTests", ["Wire"]),
    tests("GuestProtocolTests", ["GuestProtocol", "Wire"]),
    tests("KVMTests", ["KVM", "Platform"]),
    // A virtio driver in plain Swift, for the tests of queues and devices.
    .target(
        name: "VirtioTestSupport", dependencies: ["Virtio", "Platform"], path: "Tests/VirtioTestSupport",
        swiftSettings: house),
    tests("VirtioTests", ["Virtio", "VirtioTestSupport", "CLinux", "Platform", "Wire"]),
    tests("FabricAPITests", ["FabricAPI", "Packet", "Wire"]),
    tests("MachineAPITests", ["MachineAPI", "Wire"]),
    tests(
        "MachineTests", ["Machine", "Virtio", "VirtioTestSupport", "CLinux", "KVM", "Platform", "MachineAPI", "Wire"],
        resources: [.copy("Snapshots")], exclude: ["page-handler.py"]),
    // Takes machines through their lives, where KVM works, for tests of pausing, saving and restoring.
    .executableTarget(
        name: "machine-fixture", dependencies: ["CLinux", "Platform", "KVM", "Machine", "MachineAPI", "TestSupport"],
        path: "Tests/MachineFixture", exclude: ["guest.c"], swiftSettings: house, linkerSettings: fullyStatic),
    tests("MonitorTests", ["Platform"]),
    tests("PacketTests", ["Packet", "Platform"]),
    tests("FabricTests", ["Fabric", "Packet", "Platform", "CLinux", "Wire"]),
    // What `martlet-fabric` does, and a machine's network device without a machine, as a program for the tests of it.
    .executableTarget(
        name: "fabric-fixture", dependencies: ["CLinux", "Platform", "Packet", "Fabric", "FabricService"],
        path: "Tests/FabricFixture", swiftSettings: house),
    tests(
        "FabricServiceTests",
        [
            "CLinux", "Fabric", "FabricAPI", "FabricService", "Networks", "Packet", "Platform", "Wire",
            "fabric-fixture",
        ]),
    tests(
        "GatewayTests", ["CLinux", "Fabric", "FabricAPI", "Gateway", "Packet", "Platform", "Wire", "fabric-fixture"]),
    tests("DiskImageTests", ["DiskImage", "Platform", "CLinux"]),
    tests("OCITests", ["OCI", "Platform", "OCITesting", nioCore, nioHTTP1, nioPosix, nioSSL]),
    .executableTarget(
        name: "ImageStoreProbe", dependencies: ["ImageStore", "OCI"], path: "Tests/ImageStoreProbe",
        swiftSettings: house),
    tests(
        "ImageStoreTests",
        ["ImageStore", "ImageStoreProbe", "OCI", "OCITesting", "DiskImage", "Platform", nioHTTP1]),
    tests("TCPTests", ["TCP"]),
    tests("NetworksTests", ["Networks", "FabricAPI", "Packet", "Platform", "Wire"]),
    tests(
        "WorkerTests",
        ["FabricAPI", "GuestProtocol", "MachineAPI", "Packet", "Platform", "Sessions", "Wire", "Worker"],
        resources: [.copy("Corpus")]),
    tests("PageServerTests", ["CLinux", "MachineAPI", "PageServer", "Platform", "Wire"]),
    tests(
        "SnapshotsTests", ["Snapshots", "Machine", "MachineAPI", "Platform", "Wire"], resources: [.copy("Corpus")]),
    tests("SessionsTests", ["Sessions", "GuestProtocol", "Platform"]),
    // What `martlet host` does, as a program for the tests of it.
    .executableTarget(
        name: "host-fixture", dependencies: ["EmulatedHost", "GuestProtocol", "Platform", "Sessions"],
        path: "Tests/HostFixture",
        swiftSettings: house),
    tests("EmulatedHostTests", ["CLinux", "EmulatedHost", "GuestProtocol", "Platform", "Sessions", "host-fixture"]),
    tests("EndToEndTests", ["Platform", "Wire"]),
]

// `MARTLET_ONLY=DiskImageTests swift test` builds one room and what it stands on, nothing else.
if let only = Context.environment["MARTLET_ONLY"] {
    var wanted = Set(only.split(separator: ",").map(String.init))
    var reached: Set<String> = []
    while let name = wanted.popFirst() {
        guard reached.insert(name).inserted, let target = targets.first(where: { $0.name == name }) else { continue }
        for dependency in target.dependencies {
            if case .byNameItem(let name, _) = dependency { wanted.insert(name) }
        }
    }
    targets.removeAll { !reached.contains($0.name) }
}

let package = Package(
    name: "martlet",
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
    ],
    targets: targets
)
