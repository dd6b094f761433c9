// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// One piece of output in a machine's log, as Docs/STATE.md specifies it. Records follow one another; each begins with
/// 16 bytes:
///
///     0         4        6          8
///     | length  | stream | reserved | time |      all integers little-endian
package struct LogRecord: Equatable, Sendable {
    package static let headerByteCount = 16
    /// The longest piece. A longer one in a file means that the file is not a log, or damaged.
    package static let byteLimit = 65_536

    package enum Stream: UInt16, Sendable {
        case output = 1
        case errors = 2
    }

    package var stream: Stream
    /// Nanoseconds since 1970.
    package var time: UInt64
    package var bytes: [UInt8]

    package init(stream: Stream, time: UInt64, bytes: [UInt8]) {
        self.stream = stream
        self.time = time
        self.bytes = bytes
    }

    package func write(to output: inout [UInt8]) {
        output.appendInteger(UInt32(truncatingIfNeeded: bytes.count))
        output.appendInteger(stream.rawValue)
        output.appendInteger(UInt16(0))
        output.appendInteger(time)
        output.append(contentsOf: bytes)
    }
}

/// Cuts a log file's bytes into records. What is not whole at the end (its writer was killed) stays unread; pure.
package struct LogReader: Sendable {
    private var buffer: [UInt8] = []
    private var position = 0
    /// A head that no writer of ours writes: what follows cannot be understood.
    package private(set) var isBroken = false

    package init() {}

    /// Adds what was read. Take all records with `next` before adding more: that bounds the memory.
    package mutating func append(_ bytes: some Collection<UInt8>) {
        if position > 0 {
            buffer.removeFirst(position)
            position = 0
        }
        if !isBroken { buffer.append(contentsOf: bytes) }
    }

    /// The next whole record, or nil until more bytes come. Streams that a later version may add are skipped.
    package mutating func next() -> LogRecord? {
        while !isBroken {
            guard let length: UInt32 = buffer.integer(at: position),
                let kind: UInt16 = buffer.integer(at: position + 4),
                let time: UInt64 = buffer.integer(at: position + 8)
            else { return nil }
            guard length <= UInt32(LogRecord.byteLimit) else {
                isBroken = true
                buffer = []
                position = 0
                return nil
            }
            let start = position + LogRecord.headerByteCount
            let end = start + Int(length)
            guard end <= buffer.count else { return nil }
            position = end
            guard let stream = LogRecord.Stream(rawValue: kind) else { continue }
            return LogRecord(stream: stream, time: time, bytes: Array(buffer[start..<end]))
        }
        return nil
    }
}
