// SPDX-License-Identifier: Apache-2.0

/// The control bits of a TCP header (RFC 9293 §3.1).
@usableFromInline package struct TCPFlags: OptionSet, Hashable, Sendable {
    @usableFromInline package let rawValue: UInt8
    @inlinable package init(rawValue: UInt8) { self.rawValue = rawValue }
    package static var finish: TCPFlags { TCPFlags(rawValue: 0x01) }
    package static var synchronize: TCPFlags { TCPFlags(rawValue: 0x02) }
    package static var reset: TCPFlags { TCPFlags(rawValue: 0x04) }
    package static var push: TCPFlags { TCPFlags(rawValue: 0x08) }
    package static var acknowledge: TCPFlags { TCPFlags(rawValue: 0x10) }
    package static var urgent: TCPFlags { TCPFlags(rawValue: 0x20) }
    package static var congestionEcho: TCPFlags { TCPFlags(rawValue: 0x40) }
    package static var congestionReduced: TCPFlags { TCPFlags(rawValue: 0x80) }
}

/// A TCP segment (RFC 9293): its header is whole. The checksum is not looked at.
@usableFromInline package struct TCPView: ~Escapable {
    package let bytes: RawSpan
    /// 20 to 60.
    package let headerLength: Int

    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= TCPHeader.length else { return nil }
        let headerLength = Int(bytes.byte(12) >> 4) * 4
        guard headerLength >= TCPHeader.length, headerLength <= bytes.byteCount else { return nil }
        self.bytes = bytes
        self.headerLength = headerLength
    }

    package var sourcePort: UInt16 { bytes.u16(0) }
    package var destinationPort: UInt16 { bytes.u16(2) }
    package var sequence: UInt32 { bytes.u32(4) }
    package var acknowledgment: UInt32 { bytes.u32(8) }
    package var flags: TCPFlags { TCPFlags(rawValue: bytes.byte(13)) }
    /// As sent, not yet scaled.
    package var window: UInt16 { bytes.u16(14) }
    package var checksum: UInt16 { bytes.u16(16) }
    package var urgentPointer: UInt16 { bytes.u16(18) }
    package var payload: RawSpan { @_lifetime(copy self) get { bytes.dropping(headerLength) } }
    /// The options, one after the other; they end where one has an impossible length.
    package var rawOptions: IPv4Options {
        @_lifetime(copy self) get { IPv4Options(bytes.slice(TCPHeader.length, headerLength - TCPHeader.length)) }
    }

    /// The options that matter, read in one go. Those of a wrong length count as not there.
    package var options: TCPOptions {
        var result = TCPOptions()
        guard headerLength > TCPHeader.length else { return result }
        var rest = rawOptions
        while let option = rest.next() {
            let value = option.value
            switch (option.kind, value.byteCount) {
            case (TCPOptions.maximumSegmentSizeKind, 2): result.maximumSegmentSize = value.u16(0)
            case (TCPOptions.windowScaleKind, 1): result.windowScale = value.byte(0)
            case (TCPOptions.selectivePermittedKind, 0): result.selectivePermitted = true
            case (TCPOptions.timestampsKind, 8):
                result.timestamps = TCPTimestamps(value: value.u32(0), echo: value.u32(4))
            case (TCPOptions.selectiveKind, 8), (TCPOptions.selectiveKind, 16), (TCPOptions.selectiveKind, 24),
                (TCPOptions.selectiveKind, 32):
                result.blockCount = value.byteCount / 8
                for index in 0..<result.blockCount {
                    result.blocks[index] = TCPBlock(start: value.u32(index * 8), end: value.u32(index * 8 + 4))
                }
            default: break
            }
        }
        return result
    }
}

/// RFC 7323 §3.2.
@usableFromInline package struct TCPTimestamps: Equatable, Sendable {
    package var value: UInt32
    package var echo: UInt32

    package init(value: UInt32, echo: UInt32) {
        self.value = value
        self.echo = echo
    }
}

/// A range of sequence numbers that has arrived, the end not included (RFC 2018 §3).
@usableFromInline package struct TCPBlock: Equatable, Sendable {
    package var start: UInt32
    package var end: UInt32

    package init(start: UInt32, end: UInt32) {
        self.start = start
        self.end = end
    }
}

/// The options of a TCP header that are understood; read and written without allocation.
@usableFromInline package struct TCPOptions: Sendable {
    static var maximumSegmentSizeKind: UInt8 { 2 }
    static var windowScaleKind: UInt8 { 3 }
    static var selectivePermittedKind: UInt8 { 4 }
    static var selectiveKind: UInt8 { 5 }
    static var timestampsKind: UInt8 { 8 }

    /// In segments that synchronise only (RFC 9293 §3.7.1).
    package var maximumSegmentSize: UInt16?
    /// In segments that synchronise only; a shift above 14 counts as 14 (RFC 7323 §2.3), which is the reader's to do.
    package var windowScale: UInt8?
    package var selectivePermitted = false
    package var timestamps: TCPTimestamps?
    /// The first `blockCount` of these are meant.
    package var blocks: InlineArray<4, TCPBlock> = .init(repeating: TCPBlock(start: 0, end: 0))
    /// 0 to 4; 3 where timestamps are there too.
    package var blockCount = 0

    package init() {}

    /// The bytes that they take up, a multiple of 4, at most 40 provided that there are no more blocks than may be.
    package var length: Int {
        var count = 0
        if maximumSegmentSize != nil { count += 4 }
        if windowScale != nil { count += 4 }
        if selectivePermitted { count += 4 }
        if timestamps != nil { count += 12 }
        if blockCount > 0 { count += 4 + blockCount * 8 }
        return count
    }

    /// Writes `length` bytes, each option filled up to a multiple of 4.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        var position = offset
        if let maximumSegmentSize {
            bytes.put(0x0204_0000 | UInt32(maximumSegmentSize), at: position)
            position += 4
        }
        if let windowScale {
            bytes.put(0x0103_0300 | UInt32(windowScale), at: position)
            position += 4
        }
        if selectivePermitted {
            bytes.put(0x0101_0402 as UInt32, at: position)
            position += 4
        }
        if let timestamps {
            bytes.put(0x0101_080A as UInt32, at: position)
            bytes.put(timestamps.value, at: position + 4)
            bytes.put(timestamps.echo, at: position + 8)
            position += 12
        }
        if blockCount > 0 {
            bytes.put(0x0101_0500 | UInt32(2 + blockCount * 8), at: position)
            position += 4
            for index in 0..<blockCount {
                bytes.put(blocks[index].start, at: position)
                bytes.put(blocks[index].end, at: position + 4)
                position += 8
            }
        }
    }
}

/// A TCP header to be written.
@usableFromInline package struct TCPHeader: Sendable {
    @inlinable package static var length: Int { 20 }
    package var sourcePort: UInt16
    package var destinationPort: UInt16
    package var sequence: UInt32
    package var acknowledgment: UInt32
    package var flags: TCPFlags
    package var window: UInt16
    package var urgentPointer: UInt16 = 0
    package var options = TCPOptions()

    package init(
        sourcePort: UInt16, destinationPort: UInt16, sequence: UInt32, acknowledgment: UInt32, flags: TCPFlags,
        window: UInt16
    ) {
        self.sourcePort = sourcePort
        self.destinationPort = destinationPort
        self.sequence = sequence
        self.acknowledgment = acknowledgment
        self.flags = flags
        self.window = window
    }

    /// 20 to 60.
    package var encodedLength: Int { TCPHeader.length + options.length }

    /// Where the checksum lies in the header, as `csum_offset` of a virtio header says it.
    @inlinable package static var checksumOffset: Int { 16 }

    /// Writes `encodedLength` bytes; the checksum is left zero, for `Transport` to fill in.
    package func write(to bytes: inout MutableRawSpan, at offset: Int) {
        bytes.put(sourcePort, at: offset)
        bytes.put(destinationPort, at: offset + 2)
        bytes.put(sequence, at: offset + 4)
        bytes.put(acknowledgment, at: offset + 8)
        bytes.put(UInt8(encodedLength / 4) << 4, at: offset + 12)
        bytes.put(flags.rawValue, at: offset + 13)
        bytes.put(window, at: offset + 14)
        bytes.put(0 as UInt16, at: offset + 16)
        bytes.put(urgentPointer, at: offset + 18)
        options.write(to: &bytes, at: offset + TCPHeader.length)
    }
}
