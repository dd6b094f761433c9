// SPDX-License-Identifier: Apache-2.0

/// Where the next byte of a message of unknown length goes. What does not fit is left out and remembered: look at
/// `overflowed` before the message is used.
package struct OutputCursor: Sendable {
    package var position: Int
    /// The first place that must not be written.
    package let end: Int
    package private(set) var overflowed = false

    /// - Parameter end: at most the length of the bytes that are written to.
    package init(from position: Int, to end: Int) {
        self.position = position
        self.end = end
    }

    /// Whether `count` bytes fit; says that the message overflowed when not.
    package mutating func reserve(_ count: Int) -> Bool {
        guard !overflowed, count <= end - position else {
            overflowed = true
            return false
        }
        return true
    }

    package mutating func put(_ value: UInt8, to bytes: inout MutableRawSpan) {
        guard reserve(1) else { return }
        bytes.put(value, at: position)
        position += 1
    }

    package mutating func put(_ value: UInt16, to bytes: inout MutableRawSpan) {
        guard reserve(2) else { return }
        bytes.put(value, at: position)
        position += 2
    }

    package mutating func put(_ value: UInt32, to bytes: inout MutableRawSpan) {
        guard reserve(4) else { return }
        bytes.put(value, at: position)
        position += 4
    }

    package mutating func put(_ address: IPv4Address, to bytes: inout MutableRawSpan) { put(address.value, to: &bytes) }

    package mutating func put(_ address: IPv6Address, to bytes: inout MutableRawSpan) {
        guard reserve(16) else { return }
        bytes.put(address, at: position)
        position += 16
    }

    package mutating func put(_ address: MACAddress, to bytes: inout MutableRawSpan) {
        guard reserve(6) else { return }
        bytes.put(address, at: position)
        position += 6
    }

    package mutating func put(_ source: RawSpan, to bytes: inout MutableRawSpan) {
        guard reserve(source.byteCount) else { return }
        bytes.put(source, at: position)
        position += source.byteCount
    }

    package mutating func put(_ source: [UInt8], to bytes: inout MutableRawSpan) {
        guard reserve(source.count) else { return }
        bytes.put(source, at: position)
        position += source.count
    }

    package mutating func putZeros(_ count: Int, to bytes: inout MutableRawSpan) {
        guard reserve(count) else { return }
        bytes.zero(at: position, count: count)
        position += count
    }
}
