// SPDX-License-Identifier: Apache-2.0

/// A log's records as lines: counts them, leaves out the first ones, puts the time before each. A line begins at the
/// record that begins it; the two streams' lines are apart. Pure.
package struct LogLines: Sendable {
    private let skip: Int
    private let since: UInt64
    private let hasTimestamps: Bool
    /// Lines begun so far.
    package private(set) var count = 0
    private var output = Stream()
    private var errors = Stream()

    private struct Stream {
        /// The last byte was a line's end, or there was none.
        var isAtStart = true
        /// The line that is not ended yet is one of those that are wanted.
        var isShown = false
    }

    package init(skip: Int, since: UInt64, hasTimestamps: Bool) {
        self.skip = skip
        self.since = since
        self.hasTimestamps = hasTimestamps
    }

    /// What of a record is to be printed.
    package mutating func take(_ record: LogRecord) -> [UInt8] {
        guard record.time >= since else { return [] }
        var stream = record.stream == .output ? output : errors
        defer { if record.stream == .output { output = stream } else { errors = stream } }
        var result: [UInt8] = []
        var rest = record.bytes[...]
        while !rest.isEmpty {
            if stream.isAtStart {
                stream.isShown = count >= skip
                count += 1
                if stream.isShown, hasTimestamps { result += Array("\(Timestamp.text(record.time)) ".utf8) }
            }
            let end = rest.firstIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? rest.endIndex
            if stream.isShown { result += rest[..<end] }
            stream.isAtStart = rest[end - 1] == UInt8(ascii: "\n")
            rest = rest[end...]
        }
        return result
    }
}
