// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import Worker

@Suite struct LogTests {
    private static func record(_ text: String, _ stream: LogRecord.Stream = .output, time: UInt64 = 0) -> LogRecord {
        LogRecord(stream: stream, time: time, bytes: Array(text.utf8))
    }

    @Test func readsWhatWasWrittenInAnyPieces() {
        let records = [
            Self.record("one\n"), Self.record("", .errors, time: 5), Self.record("two", .errors, time: .max),
            Self.record(String(repeating: "x", count: LogRecord.byteLimit)),
        ]
        var bytes: [UInt8] = []
        for record in records { record.write(to: &bytes) }
        for step in [1, 7, 16, 4096, bytes.count] {
            var reader = LogReader()
            var found: [LogRecord] = []
            for start in stride(from: 0, to: bytes.count, by: step) {
                reader.append(bytes[start..<min(start + step, bytes.count)])
                while let record = reader.next() { found.append(record) }
            }
            #expect(found == records)
            #expect(!reader.isBroken)
        }
    }

    @Test func goldenBytes() {
        var bytes: [UInt8] = []
        Self.record("hi", .errors, time: 0x0102).write(to: &bytes)
        #expect(bytes == [2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0x68, 0x69])
    }

    @Test func aTornEndStaysUnread() {
        var bytes: [UInt8] = []
        Self.record("whole").write(to: &bytes)
        let whole = bytes.count
        Self.record("torn").write(to: &bytes)
        for length in whole..<bytes.count {
            var reader = LogReader()
            reader.append(bytes[..<length])
            #expect(reader.next() == Self.record("whole"))
            #expect(reader.next() == nil)
            #expect(!reader.isBroken)
        }
    }

    @Test func unknownStreamsAreSkipped() {
        var bytes: [UInt8] = [3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]
        Self.record("known").write(to: &bytes)
        var reader = LogReader()
        reader.append(bytes)
        #expect(reader.next() == Self.record("known"))
    }

    @Test func lines() {
        var lines = LogLines(skip: 1, since: 0, hasTimestamps: true)
        var text = ""
        for record in [
            Self.record("a\nb"), Self.record("x\n", .errors, time: 1_000_000_000), Self.record("c\n\nd"),
        ] {
            text += String(decoding: lines.take(record), as: UTF8.self)
        }
        let zero = "1970-01-01T00:00:00.000000000Z"
        #expect(text == "\(zero) b1970-01-01T00:00:01.000000000Z x\nc\n\(zero) \n\(zero) d")
        #expect(lines.count == 5)
    }

    @Test func since() {
        var lines = LogLines(skip: 0, since: 10, hasTimestamps: false)
        #expect(lines.take(Self.record("old\n", time: 9)) == [])
        #expect(lines.take(Self.record("new\n", time: 10)) == Array("new\n".utf8))
        #expect(lines.count == 1)
    }
}

@Suite struct LogFuzz {
    @Test func anyBytes() {
        var generator = SeededGenerator(1)
        for _ in 0..<20_000 {
            var bytes: [UInt8] = []
            for _ in 0..<Int.random(in: 0...4, using: &generator) {
                let stream: LogRecord.Stream = Bool.random(using: &generator) ? .output : .errors
                let count = Int.random(in: 0...40, using: &generator)
                LogRecord(stream: stream, time: generator.next(), bytes: Array(repeating: 65, count: count))
                    .write(to: &bytes)
            }
            for _ in 0..<Int.random(in: 0...3, using: &generator) where !bytes.isEmpty {
                bytes[Int.random(in: bytes.indices, using: &generator)] = UInt8(truncatingIfNeeded: generator.next())
            }
            if Bool.random(using: &generator), !bytes.isEmpty {
                bytes.removeLast(Int.random(in: 0...bytes.count, using: &generator))
            }
            var reader = LogReader()
            var lines = LogLines(skip: 0, since: 0, hasTimestamps: false)
            var total = 0
            reader.append(bytes)
            while let record = reader.next() {
                total += record.bytes.count
                _ = lines.take(record)
            }
            #expect(total <= bytes.count)
        }
    }
}
