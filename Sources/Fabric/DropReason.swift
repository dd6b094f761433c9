// SPDX-License-Identifier: Apache-2.0

/// Why a frame goes no further. Every frame that is not passed on is counted under one of these.
package enum DropReason: Int, CaseIterable, Sendable {
    // What a machine must not send.
    case malformedFrame, malformedOffload, malformedARP, malformedIPv4, malformedIPv6, malformedNDP, malformedDHCP
    case spoofedMAC, spoofedIPv4, spoofedIPv6, spoofedARP, spoofedNDP
    case rogueRouter, rogueServer, redirect, sourceRoute, vlanTag, otherEtherType
    case badChecksum, tooLarge, multicastLimit, errorLimit, queryLimit, streamLimit, nameDenied
    case fragmentOverlap, fragmentLimit, fragmentLength, fragmentTimeout
    // Not lost: kept until the rest of its packet comes.
    case fragmentWaits
    // What has nowhere to go.
    case unattachedPort, unknownMAC, misdirected, noSuchNeighbor, notAttached, networkIsInternal, timeExceeded
    case noRoute, noAddress
    // What is of no use to anybody.
    case announcement, membershipReport, probe, notForUs
    // What could not be passed on.
    case queueFull, receiverGone, receiverLacksOffload

    package static let count = allCases.count
    package var name: String { String(describing: self) }
}

/// What has been counted at one port.
package struct PortCounters: Sendable {
    package var framesFromMachine: UInt64 = 0
    package var bytesFromMachine: UInt64 = 0
    package var framesToMachine: UInt64 = 0
    package var bytesToMachine: UInt64 = 0
    private var drops: InlineArray<64, UInt64> = .init(repeating: 0)

    package init() {}

    package subscript(reason: DropReason) -> UInt64 {
        get { drops[reason.rawValue] }
        set { drops[reason.rawValue] = newValue }
    }

    package var dropped: UInt64 { DropReason.allCases.reduce(0) { $0 &+ self[$1] } }

    package mutating func add(_ other: PortCounters) {
        framesFromMachine &+= other.framesFromMachine
        bytesFromMachine &+= other.bytesFromMachine
        framesToMachine &+= other.framesToMachine
        bytesToMachine &+= other.bytesToMachine
        for index in 0..<DropReason.count { drops[index] &+= other.drops[index] }
    }
}
