// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import KVM
internal import MachineAPI
internal import Virtio

/// What a snapshot's memory file has.
package enum SnapshotKind: Equatable, Sendable {
    /// All of the guest's memory.
    case full
    /// The pages that were written since the snapshot before.
    case diff
}

/// A number that no other snapshot has.
struct SnapshotIdentifier: Equatable, Sendable, CustomStringConvertible {
    static let size = 16
    /// `size` of them.
    let bytes: [UInt8]

    /// A fresh one.
    static func random() -> SnapshotIdentifier {
        var generator = SystemRandomNumberGenerator()
        return SnapshotIdentifier(bytes: (0..<size).map { _ in UInt8.random(in: 0...255, using: &generator) })
    }

    var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}

/// What is in a slot, by its name in the configuration.
enum DeviceIdentity: Hashable, Sendable {
    case drive(String)
    case interface(String)
    case vsock
    case entropy

    var type: UInt32 {
        switch self {
        case .drive: VirtioDeviceType.block
        case .interface: VirtioDeviceType.network
        case .vsock: VirtioDeviceType.socket
        case .entropy: VirtioDeviceType.entropy
        }
    }

    var name: String {
        switch self {
        case .drive(let name), .interface(let name): name
        case .vsock, .entropy: ""
        }
    }

    init?(type: UInt32, name: String) {
        switch type {
        case VirtioDeviceType.block: self = .drive(name)
        case VirtioDeviceType.network: self = .interface(name)
        case VirtioDeviceType.socket: self = .vsock
        case VirtioDeviceType.entropy: self = .entropy
        default: return nil
        }
    }
}

/// A virtio device of a saved machine.
struct SavedDevice: Equatable, Sendable {
    let slot: Int
    let identity: DeviceIdentity
    let state: VirtioDeviceState
}

/// Everything about a machine but the bytes of its memory: what a snapshot's state file has, and what a fork goes on
/// from.
struct MachineState: Equatable, Sendable {
    var identifier: SnapshotIdentifier
    var kind = SnapshotKind.full
    /// The snapshot whose memory a diff goes on from.
    var parent: SnapshotIdentifier?
    /// When it was taken, in nanoseconds since 1970.
    var wallClock: UInt64
    var configuration: MachineConfiguration
    /// The guest-physical ranges of the memory, in the order in which the memory file has them.
    var memoryRanges: [Range<UInt64>]
    /// The parts of the memory file that a diff has, by offset, ascending.
    var memoryParts: [Range<UInt64>] = []
    var host: HostAbilities
    var chipset: ChipsetState
    var vcpus: [VCPUState]
    var serial: UARTRegisters
    /// As after a reset where an older file says nothing of it.
    var keyboard = KeyboardController()
    var slotCount: Int
    var devices: [SavedDevice]

    /// In bytes.
    var memorySize: UInt64 { memoryRanges.reduce(0) { $0 + ($1.upperBound - $1.lowerBound) } }
}
