// SPDX-License-Identifier: Apache-2.0

package import Virtio

/// A buffer of a chain, as the driver hands it to the device.
package struct DriverBuffer: Equatable, Sendable {
    package var address: UInt64
    package var count: UInt32
    package var isWritable: Bool

    package init(_ address: UInt64, _ count: Int, writable: Bool = false) {
        self.address = address
        self.count = UInt32(count)
        isWritable = writable
    }
}

/// The driver's side of a split virtqueue, written from the specification's text (virtio 1.2 §2.7.13, §2.7.14) with no
/// look at ours: slow, plain, checked.
package final class DriverQueue {
    package struct Used: Equatable {
        package let head: UInt16
        package let count: UInt32

        package init(head: UInt16, count: UInt32) {
            self.head = head
            self.count = count
        }
    }

    package enum Mistake: Error {
        case unknownHead(UInt16)
    }

    package let memory: GuestMemory
    package let size: UInt16
    package let descriptorTable: UInt64
    package let availableRing: UInt64
    package let usedRing: UInt64
    private let indirectArea: UInt64
    package let usesEventIndex: Bool

    private var freeDescriptors: [UInt16]
    private var chains: [UInt16: [UInt16]] = [:]
    package private(set) var availableIndex: UInt16
    package private(set) var lastUsed: UInt16
    private var lastKick: UInt16

    /// Bytes that a queue of 256 takes, indirect tables included.
    package static let footprint: UInt64 = 0x20000

    /// - Parameters:
    ///   - base: where rings and indirect tables lie; `footprint` bytes.
    ///   - firstIndex: where both indices start, to be near their wrap.
    package init(
        _ memory: GuestMemory, base: UInt64, size: UInt16, eventIndex: Bool, firstIndex: UInt16 = 0
    ) throws {
        self.memory = memory
        self.size = size
        usesEventIndex = eventIndex
        descriptorTable = base
        availableRing = base + 0x2000
        usedRing = base + 0x4000
        indirectArea = base + 0x8000
        freeDescriptors = (0..<size).reversed()
        availableIndex = firstIndex
        lastUsed = firstIndex
        lastKick = firstIndex
        try memory.store(firstIndex, at: availableRing + 2)
        try memory.store(firstIndex, at: usedRing + 2)
        try wantInterrupt()
    }

    package var state: QueueState {
        var state = QueueState()
        state.size = size
        state.isReady = true
        state.descriptorTable = descriptorTable
        state.availableRing = availableRing
        state.usedRing = usedRing
        state.nextAvailable = availableIndex
        state.nextUsed = lastUsed
        state.consideredUsed = lastUsed
        return state
    }

    package var freeCount: Int { freeDescriptors.count }
    package var inFlight: Int { chains.count }

    private func put(
        _ table: UInt64, _ number: UInt16, _ address: UInt64, _ count: UInt32, flags: UInt16, next: UInt16
    ) throws {
        let entry = table + 16 * UInt64(number)
        try memory.store(address, at: entry)
        try memory.store(count, at: entry + 8)
        try memory.store(flags, at: entry + 12)
        try memory.store(next, at: entry + 14)
    }

    /// Makes a chain available; nil when there are too few descriptors. An indirect one has at most 128 buffers.
    package func add(_ buffers: [DriverBuffer], indirect: Bool = false) throws -> UInt16? {
        let needed = indirect ? 1 : buffers.count
        guard needed <= freeDescriptors.count, !buffers.isEmpty else { return nil }
        var numbers: [UInt16] = []
        for _ in 0..<needed { numbers.append(freeDescriptors.removeLast()) }
        if indirect {
            let table = indirectArea + UInt64(numbers[0] % 8) * 128 * 16
            for (index, buffer) in buffers.enumerated() {
                let isLast = index == buffers.count - 1
                try put(
                    table, UInt16(index), buffer.address, buffer.count,
                    flags: (isLast ? 0 : 1) | (buffer.isWritable ? 2 : 0), next: isLast ? 0 : UInt16(index + 1))
            }
            try put(descriptorTable, numbers[0], table, UInt32(16 * buffers.count), flags: 4, next: 0)
        } else {
            for (index, buffer) in buffers.enumerated() {
                let isLast = index == buffers.count - 1
                try put(
                    descriptorTable, numbers[index], buffer.address, buffer.count,
                    flags: (isLast ? 0 : 1) | (buffer.isWritable ? 2 : 0), next: isLast ? 0 : numbers[index + 1])
            }
        }
        chains[numbers[0]] = numbers
        try memory.store(numbers[0], at: availableRing + 4 + 2 * UInt64(availableIndex % size))
        availableIndex &+= 1
        try memory.store(availableIndex, at: availableRing + 2)
        return numbers[0]
    }

    /// Whether the device wants to hear of what was added since the last call.
    package func needsKick() throws -> Bool {
        let before = lastKick
        lastKick = availableIndex
        guard before != availableIndex else { return false }
        guard usesEventIndex else { return try memory.load(UInt16.self, at: usedRing) & 1 == 0 }
        let event = try memory.load(UInt16.self, at: usedRing + 4 + 8 * UInt64(size))
        return availableIndex &- event &- 1 < availableIndex &- before
    }

    /// The next chain that the device gave back.
    package func takeUsed() throws -> Used? {
        guard try memory.load(UInt16.self, at: usedRing + 2) != lastUsed else { return nil }
        let entry = usedRing + 4 + 8 * UInt64(lastUsed % size)
        let head = UInt16(truncatingIfNeeded: try memory.load(UInt32.self, at: entry))
        let count = try memory.load(UInt32.self, at: entry + 4)
        guard let numbers = chains.removeValue(forKey: head) else { throw Mistake.unknownHead(head) }
        freeDescriptors += numbers.reversed()
        lastUsed &+= 1
        return Used(head: head, count: count)
    }

    /// Asks for an interrupt at the next chain that is given back.
    package func wantInterrupt() throws {
        if usesEventIndex {
            try memory.store(lastUsed, at: availableRing + 4 + 2 * UInt64(size))
        } else {
            try memory.store(UInt16(0), at: availableRing)
        }
    }

    /// Asks for no interrupt, as far as can be asked.
    package func refuseInterrupt() throws {
        if usesEventIndex {
            try memory.store(lastUsed &- 1, at: availableRing + 4 + 2 * UInt64(size))
        } else {
            try memory.store(UInt16(1), at: availableRing)
        }
    }
}
