// SPDX-License-Identifier: Apache-2.0

internal import Synchronization

/// What a queue is and where it stands: all that has to be kept to set it up again.
package struct QueueState: Equatable, Sendable {
    /// In descriptors; a power of two.
    package var size: UInt16 = 0
    package var isReady = false
    /// Guest physical addresses.
    package var descriptorTable: UInt64 = 0
    package var availableRing: UInt64 = 0
    package var usedRing: UInt64 = 0
    /// The index, not reduced to the size, of the next available entry to take.
    package var nextAvailable: UInt16 = 0
    /// The index, not reduced to the size, of the next used entry to fill.
    package var nextUsed: UInt16 = 0
    /// The used index when the driver was last considered for an interrupt.
    package var consideredUsed: UInt16 = 0

    package init() {}
}

/// A split virtqueue, the device's side of it (virtio 1.2 §2.7).
///
/// Touched by one thread only, the device loop's. Neither allocates nor locks after init. Whatever the driver does, a
/// queue either goes on or throws; a queue that has thrown is not used again before it is set up anew.
@safe package struct VirtQueue {
    package static let indirectDescriptors: UInt64 = 1 << 28
    package static let eventIndex: UInt64 = 1 << 29

    private enum Flag {
        static let next: UInt16 = 1
        static let write: UInt16 = 2
        static let indirect: UInt16 = 4
    }

    /// One entry of a descriptor table, copied out of guest memory.
    private struct Descriptor {
        var address: UInt64
        var count: UInt32
        var flags: UInt16
        var next: UInt16
    }

    private let memory: GuestMemory
    private let usesEventIndex: Bool
    private let allowsIndirect: Bool
    private let mask: UInt16
    // Each ring in one piece, aligned, inside guest memory: checked at init.
    private let descriptors: UnsafeRawPointer
    private let available: UnsafeMutableRawPointer
    private let used: UnsafeMutableRawPointer
    /// Where the queue stands; its addresses and size never change.
    package private(set) var state: QueueState

    /// Sets a queue up as the driver, or an earlier state, describes it.
    /// - Parameters:
    ///   - state: how the driver has laid it out.
    ///   - maximumSize: the device's limit.
    ///   - features: those negotiated.
    package init(
        _ state: QueueState, maximumSize: UInt16, features: UInt64, memory: GuestMemory
    ) throws(VirtioError) {
        let size = state.size
        guard size > 0, size <= maximumSize, size & (size - 1) == 0 else { throw .badRing(.size) }
        guard state.descriptorTable % 16 == 0, state.availableRing % 2 == 0, state.usedRing % 4 == 0 else {
            throw .badRing(.alignment)
        }
        let length = UInt64(size)
        // Flags, index, ring and the event index after it: §2.7.6, §2.7.8.
        guard let descriptors = unsafe memory.contiguous(state.descriptorTable, 16 * length),
            let available = unsafe memory.contiguous(state.availableRing, 6 + 2 * length),
            let used = unsafe memory.contiguous(state.usedRing, 6 + 8 * length)
        else { throw .badRing(.placement) }
        self.state = state
        self.memory = memory
        mask = size - 1
        usesEventIndex = features & Self.eventIndex != 0
        allowsIndirect = features & Self.indirectDescriptors != 0
        unsafe self.descriptors = UnsafeRawPointer(descriptors)
        unsafe self.available = unsafe available
        unsafe self.used = unsafe used
    }

    /// A queue that the driver has not set up: there is never anything in it.
    package init(inactiveIn memory: GuestMemory) {
        state = QueueState()
        self.memory = memory
        mask = 0
        usesEventIndex = false
        allowsIndirect = false
        // Never followed: a queue of size 0 has no entry to look at.
        unsafe descriptors = UnsafeRawPointer(memory.regions[0].hostStart)
        unsafe available = memory.regions[0].hostStart
        unsafe used = memory.regions[0].hostStart
    }

    // MARK: - Indices shared with the driver

    private var availableIndex: UnsafeMutablePointer<Atomic<UInt16>> {
        unsafe (available + 2).assumingMemoryBound(to: Atomic<UInt16>.self)
    }

    private var usedIndex: UnsafeMutablePointer<Atomic<UInt16>> {
        unsafe (used + 2).assumingMemoryBound(to: Atomic<UInt16>.self)
    }

    /// Where the driver says at which used index it wants an interrupt (§2.7.7.1).
    private var usedEvent: UnsafeMutablePointer<Atomic<UInt16>> {
        unsafe (available + 4 + 2 * Int(state.size)).assumingMemoryBound(to: Atomic<UInt16>.self)
    }

    /// Where we say at which available index we want to be notified (§2.7.10.1).
    private var availableEvent: UnsafeMutablePointer<Atomic<UInt16>> {
        unsafe (used + 4 + 8 * Int(state.size)).assumingMemoryBound(to: Atomic<UInt16>.self)
    }

    // MARK: - Available

    /// How many chains the driver has made available that were not taken yet.
    package func waiting() throws(VirtioError) -> UInt16 {
        guard state.size > 0 else { return 0 }
        let count = unsafe availableIndex.pointee.load(ordering: .acquiring) &- state.nextAvailable
        guard count <= state.size else { throw .badRing(.availableIndex) }
        return count
    }

    /// Takes the next chain; false when there is none.
    package mutating func pop(into chain: DescriptorChain) throws(VirtioError) -> Bool {
        guard try waiting() > 0 else { return false }
        let entry = 4 + 2 * Int(state.nextAvailable & mask)
        let head = UInt16(littleEndian: unsafe available.load(fromByteOffset: entry, as: UInt16.self))
        chain.begin(head: head)
        try follow(head, into: chain)
        chain.finish()
        state.nextAvailable &+= 1
        return true
    }

    /// Puts the last `count` chains that were taken, and not given back, where they were.
    package mutating func unpop(_ count: UInt16 = 1) {
        state.nextAvailable &-= count
    }

    private func follow(_ head: UInt16, into chain: DescriptorChain) throws(VirtioError) {
        var number = head
        var rest = state.size
        while true {
            guard number < state.size else { throw .badChain(.descriptorNumber) }
            guard rest > 0 else { throw .badChain(.tooLong) }
            let descriptor = unsafe Self.copy(descriptors + 16 * Int(number))
            if descriptor.flags & Flag.indirect != 0 {
                // §2.7.5.3.1: no successor beside a table.
                guard allowsIndirect, descriptor.flags & Flag.next == 0 else { throw .badChain(.indirect) }
                return try followIndirect(descriptor, rest, into: chain)
            }
            try chain.append(
                descriptor.address, descriptor.count, writable: descriptor.flags & Flag.write != 0, memory)
            guard descriptor.flags & Flag.next != 0 else { return }
            number = descriptor.next
            rest -= 1
        }
    }

    private func followIndirect(
        _ table: Descriptor, _ limit: UInt16, into chain: DescriptorChain
    ) throws(VirtioError) {
        let length = table.count / 16
        guard table.count % 16 == 0, length > 0 else { throw .badChain(.indirect) }
        var number: UInt32 = 0
        var rest = limit
        while true {
            guard number < length else { throw .badChain(.descriptorNumber) }
            guard rest > 0 else { throw .badChain(.tooLong) }
            let (address, overflow) = table.address.addingReportingOverflow(16 * UInt64(number))
            guard !overflow else { throw .outOfRange(address: table.address, count: UInt64(table.count)) }
            let descriptor = try copy(at: address)
            guard descriptor.flags & Flag.indirect == 0 else { throw .badChain(.indirect) }
            try chain.append(
                descriptor.address, descriptor.count, writable: descriptor.flags & Flag.write != 0, memory)
            guard descriptor.flags & Flag.next != 0 else { return }
            number = UInt32(descriptor.next)
            rest -= 1
        }
    }

    private func copy(at address: UInt64) throws(VirtioError) -> Descriptor {
        if let host = unsafe memory.contiguous(address, 16) { return unsafe Self.copy(UnsafeRawPointer(host)) }
        let low = try memory.load(UInt64.self, at: address)
        let high = try memory.load(UInt64.self, at: address &+ 8)
        return Self.descriptor(low, high)
    }

    @inline(__always)
    private static func copy(_ host: UnsafeRawPointer) -> Descriptor {
        let low = unsafe UInt64(littleEndian: host.loadUnaligned(as: UInt64.self))
        let high = unsafe UInt64(littleEndian: host.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        // What was judged must be what is used: the compiler may not load again after the fence.
        atomicMemoryFence(ordering: .acquiring)
        return descriptor(low, high)
    }

    @inline(__always)
    private static func descriptor(_ low: UInt64, _ high: UInt64) -> Descriptor {
        Descriptor(
            address: low, count: UInt32(truncatingIfNeeded: high), flags: UInt16(truncatingIfNeeded: high >> 32),
            next: UInt16(truncatingIfNeeded: high >> 48))
    }

    // MARK: - Used

    /// Gives a chain back, of whose writable part the first `written` bytes were written.
    package mutating func push(head: UInt16, written: Int) {
        stage(head: head, written: written, at: 0)
        publish(1)
    }

    /// Fills the used entry `position` places after the next one; the driver sees it when it is published.
    package func stage(head: UInt16, written: Int, at position: UInt16) {
        let entry = 4 + 8 * Int((state.nextUsed &+ position) & mask)
        memory.noteWrite(state.usedRing + UInt64(entry), count: 8)
        let value = UInt64(head) | UInt64(UInt32(clamping: written)) << 32
        unsafe (used + entry).storeBytes(of: value.littleEndian, as: UInt64.self)
    }

    /// Shows the driver the next `count` used entries, all at once.
    package mutating func publish(_ count: UInt16) {
        state.nextUsed &+= count
        memory.noteWrite(state.usedRing, count: 4)
        unsafe usedIndex.pointee.store(state.nextUsed.littleEndian, ordering: .releasing)
    }

    /// Whether the driver wants an interrupt for what was given back since the last call (§2.7.7.2).
    package mutating func needsInterrupt() -> Bool {
        let before = state.consideredUsed
        guard before != state.nextUsed else { return false }
        state.consideredUsed = state.nextUsed
        // The used index must be visible before we read whether the driver looks at it.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        if usesEventIndex {
            let event = UInt16(littleEndian: unsafe usedEvent.pointee.load(ordering: .relaxed))
            return state.nextUsed &- event &- 1 < state.nextUsed &- before
        }
        let flags = unsafe available.assumingMemoryBound(to: Atomic<UInt16>.self).pointee.load(ordering: .relaxed)
        return UInt16(littleEndian: flags) & 1 == 0
    }

    // MARK: - Notifications

    /// Asks the driver for no notifications: the queue is being worked off. A hint (§2.7.10).
    package func suppressNotifications() {
        // With event indices the driver stays quiet as long as the index is not renewed.
        guard !usesEventIndex, state.size > 0 else { return }
        memory.noteWrite(state.usedRing, count: 2)
        unsafe used.assumingMemoryBound(to: Atomic<UInt16>.self).pointee.store(
            UInt16(1).littleEndian, ordering: .relaxed)
    }

    /// Asks the driver for a notification of the next chain; true when one has come meanwhile, and is to be worked off.
    /// - Parameter seen: how many of the waiting chains the device knows of and leaves where they are.
    package func requestNotifications(beyond seen: UInt16 = 0) throws(VirtioError) -> Bool {
        guard state.size > 0 else { return false }
        if usesEventIndex {
            memory.noteWrite(state.usedRing + 4 + 8 * UInt64(state.size), count: 2)
            unsafe availableEvent.pointee.store((state.nextAvailable &+ seen).littleEndian, ordering: .relaxed)
        } else {
            memory.noteWrite(state.usedRing, count: 2)
            unsafe used.assumingMemoryBound(to: Atomic<UInt16>.self).pointee.store(0, ordering: .relaxed)
        }
        // The wish must be visible before we look for what came before it.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return try waiting() > seen
    }
}
