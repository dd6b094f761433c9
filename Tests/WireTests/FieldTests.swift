// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@Suite struct IntegerTests {
    @Test func littleEndian() {
        var bytes: [UInt8] = []
        bytes.appendInteger(UInt16(0x0102))
        bytes.appendInteger(UInt32(0x0304_0506))
        bytes.appendInteger(UInt8(7))
        #expect(bytes == [2, 1, 6, 5, 4, 3, 7])
        bytes.setInteger(UInt32(0xffee_ddcc), at: 1)
        #expect(bytes == [2, 0xcc, 0xdd, 0xee, 0xff, 3, 7])
    }

    @Test func roundTrips() {
        var generator = SeededGenerator(1)
        for _ in 0..<1_000 {
            let value = generator.next()
            let offset = Int(generator.next() % 9)
            var bytes = [UInt8](repeating: 0xaa, count: offset)
            bytes.appendInteger(value)
            #expect(bytes.integer(at: offset) == value)
            #expect(bytes.integer(at: offset) == UInt32(truncatingIfNeeded: value))
            #expect(bytes.integer(at: offset) == UInt16(truncatingIfNeeded: value))
            #expect(bytes.integer(at: offset) == UInt8(truncatingIfNeeded: value))
            bytes.setInteger(~value, at: offset)
            #expect(bytes.integer(at: offset) == ~value)
        }
    }

    @Test(arguments: [-1, 1, 2, 8, 9, Int.max, Int.min, Int.max - 3]) func pastTheEnd(offset: Int) {
        let bytes = [UInt8](repeating: 1, count: 8)
        #expect(bytes.integer(at: offset, as: UInt64.self) == nil)
    }
}

@Suite struct FieldTests {
    @Test func golden() {
        var writer = FieldWriter()
        writer.append(1, Array("hi".utf8))
        writer.append(0x0203, number: UInt32(5))
        #expect(writer.bytes == [1, 0, 2, 0, 0, 0, 0x68, 0x69, 3, 2, 4, 0, 0, 0, 5, 0, 0, 0])
    }

    @Test func roundTrips() {
        var generator = SeededGenerator(2)
        for _ in 0..<300 {
            let fields = (0..<generator.next() % 8).map { _ in
                (
                    UInt16(truncatingIfNeeded: generator.next()),
                    (0..<generator.next() % 40).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
                )
            }
            var writer = FieldWriter()
            for (tag, bytes) in fields { writer.append(tag, bytes) }
            var reader = FieldReader(writer.bytes)
            for (tag, bytes) in fields {
                let field = reader.next()
                #expect(field?.tag == tag)
                #expect(field?.bytes == bytes)
            }
            #expect(reader.next() == nil)
            #expect(!reader.isMalformed)
        }
    }

    /// A number is read by its low bytes, however wide its writer made it.
    @Test func numbersOfAnyWidth() {
        var writer = FieldWriter()
        writer.append(1, number: UInt8(200))
        writer.append(1, number: UInt64.max)
        writer.append(1, [])
        writer.append(1, [1, 0, 0, 0, 0, 0, 0, 0, 9, 9])
        var reader = FieldReader(writer.bytes)
        #expect(reader.next()?.number == 200)
        #expect(reader.next()?.number == .max)
        #expect(reader.next()?.number == 0)
        #expect(reader.next()?.number == 1)
    }

    @Test(
        arguments: [
            [1], [1, 0, 1, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 0xff, 0xff, 0xff, 0xff], [1, 0, 0, 0, 0, 0, 7],
        ] as [[UInt8]])
    func malformed(bytes: [UInt8]) {
        var reader = FieldReader(bytes)
        while reader.next() != nil {}
        #expect(reader.isMalformed)
        #expect(reader.next() == nil)
    }

    @Test func fuzz() {
        var generator = SeededGenerator(3)
        for _ in 0..<20_000 {
            let bytes = (0..<generator.next() % 64).map { _ in
                generator.next() % 3 == 0 ? UInt8(truncatingIfNeeded: generator.next()) : UInt8(0)
            }
            var reader = FieldReader(bytes)
            var total = 0
            while let field = reader.next() { total += 6 + field.bytes.count }
            #expect(total <= bytes.count)
            #expect(reader.isMalformed == (total < bytes.count))
        }
    }
}
