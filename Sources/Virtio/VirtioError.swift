// SPDX-License-Identifier: Apache-2.0

/// What can be wrong with that which a driver put into guest memory or asked of a device. All of it is the guest's own
/// doing: the device that meets it stops and asks for a reset (virtio 1.2 §2.1.2), nothing else happens.
package enum VirtioError: Error, Equatable, Sendable {
    /// A range that is not guest memory.
    case outOfRange(address: UInt64, count: UInt64)
    /// A queue whose rings cannot be used.
    case badRing(RingFault)
    /// A descriptor chain that cannot be followed.
    case badChain(ChainFault)
}

/// Why a queue's rings cannot be used (virtio 1.2 §2.7).
package enum RingFault: Equatable, Sendable {
    /// The size is zero, no power of two, or above the device's limit.
    case size
    /// A ring is not aligned as §2.7 asks.
    case alignment
    /// A ring is not, or not in one piece, in guest memory.
    case placement
    /// The available index runs further ahead than the queue is long.
    case availableIndex
}

/// Why a descriptor chain cannot be followed (virtio 1.2 §2.7.4, §2.7.5).
package enum ChainFault: Equatable, Sendable {
    /// A descriptor's number is not below the size of its table.
    case descriptorNumber
    /// More descriptors than the queue has: a loop, or a chain that §2.7.5.3.1 forbids.
    case tooLong
    /// The chain names 4 GiB or more.
    case tooLarge
    /// A buffer for the device to read comes after one for it to write.
    case readableAfterWritable
    /// An indirect descriptor that was not negotiated, lies in an indirect table, has a successor, or whose table is
    /// empty or no whole number of descriptors.
    case indirect
}
