// SPDX-License-Identifier: Apache-2.0

/// `struct virtio_net_hdr_v1` (virtio 1.2 §5.1.6), which goes before each frame. From a guest, believe nothing in it.
@usableFromInline package struct VirtioNetHeader: Equatable, Sendable {
    @inlinable package static var length: Int { 12 }

    @inlinable package static var needsChecksum: UInt8 { 1 }
    @inlinable package static var dataValid: UInt8 { 2 }
    @inlinable package static var segmentationNone: UInt8 { 0 }
    @inlinable package static var segmentationTCPv4: UInt8 { 1 }
    @inlinable package static var segmentationUDP: UInt8 { 3 }
    @inlinable package static var segmentationTCPv6: UInt8 { 4 }
    /// Added to the kind where the segment carries explicit congestion notification.
    @inlinable package static var segmentationECN: UInt8 { 0x80 }

    @usableFromInline package var flags: UInt8 = 0
    @usableFromInline package var segmentation: UInt8 = 0
    @usableFromInline package var headerLength: UInt16 = 0
    /// The most payload that one segment may have.
    @usableFromInline package var segmentSize: UInt16 = 0
    /// From the frame's start.
    @usableFromInline package var checksumStart: UInt16 = 0
    /// From `checksumStart`.
    @usableFromInline package var checksumOffset: UInt16 = 0
    @usableFromInline package var bufferCount: UInt16 = 0

    @inlinable package init() {}

    /// Reads the first 12 bytes of a record, little-endian; nil where they are not there.
    @inlinable
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= VirtioNetHeader.length else { return nil }
        flags = bytes.byte(0)
        segmentation = bytes.byte(1)
        headerLength = bytes.u16(2).byteSwapped
        segmentSize = bytes.u16(4).byteSwapped
        checksumStart = bytes.u16(6).byteSwapped
        checksumOffset = bytes.u16(8).byteSwapped
        bufferCount = bytes.u16(10).byteSwapped
    }

    /// Writes the 12 bytes.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(flags, at: offset)
        bytes.put(segmentation, at: offset + 1)
        bytes.put(headerLength.byteSwapped, at: offset + 2)
        bytes.put(segmentSize.byteSwapped, at: offset + 4)
        bytes.put(checksumStart.byteSwapped, at: offset + 6)
        bytes.put(checksumOffset.byteSwapped, at: offset + 8)
        bytes.put(bufferCount.byteSwapped, at: offset + 10)
    }

    @inlinable package var isPartial: Bool { flags & VirtioNetHeader.needsChecksum != 0 }
    @inlinable package var isSegmented: Bool { segmentation & ~VirtioNetHeader.segmentationECN != 0 }

    /// Whether a missing checksum would lie in a frame of this length.
    package func checksumLies(inFrameOf length: Int) -> Bool {
        Int(checksumStart) + Int(checksumOffset) + 2 <= length
    }

    /// Computes the checksum that is missing in a frame and stores it there; false where it lies outside.
    package func completeChecksum(_ frame: inout MutableRawSpan) -> Bool {
        guard isPartial else { return true }
        guard checksumLies(inFrameOf: frame.byteCount) else { return false }
        let start = Int(checksumStart)
        var checksum = Checksum()
        checksum.add(frame.bytes.dropping(start))
        let value = checksum.value
        frame.put(value == 0 ? 0xFFFF : value, at: start + Int(checksumOffset))
        return true
    }
}
