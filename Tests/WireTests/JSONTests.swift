// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import Wire

@Suite struct JSONReaderTests {
    static let good: [(String, JSON)] = [
        ("null", .null), (" true\n", true), ("false", false), ("0", 0), ("-1", -1),
        ("9223372036854775807", .integer(.max)), ("-9223372036854775808", .integer(.min)),
        ("9223372036854775808", .unsigned(1 << 63)), ("18446744073709551615", .unsigned(.max)),
        ("18446744073709551616", .double(18446744073709551616)), ("1.5", .double(1.5)), ("-2e3", .double(-2000)),
        ("1E-2", .double(0.01)), ("\"\"", ""), (#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{c}\n\r\tz"),
        (#""\u00e9\ud83d\ude00é""#, "é😀é"), ("[]", []), ("[1, [2], {}]", [1, [2], [:]]),
        (#"{"b":1,"a":[null]}"#, ["b": 1, "a": [.null]]),
    ]

    @Test(arguments: good) func reads(text: String, value: JSON) throws {
        #expect(try JSON(parsing: Array(text.utf8)) == value)
    }

    @Test(arguments: good) func writesWhatItReads(text: String, value: JSON) throws {
        #expect(try JSON(parsing: value.encoded()) == value)
        #expect(try JSON(parsing: value.encoded(indented: true)) == value)
    }

    static let bad: [(String, Int, Int, String)] = [
        ("", 1, 1, "ends where a value"), ("  ", 1, 3, "ends where a value"), ("{", 1, 2, "name in double quotes"),
        ("[1,]", 1, 4, "a value is expected"), ("[1 2]", 1, 4, "a comma or ]"), ("{\"a\" 1}", 1, 6, "a colon"),
        ("{\"a\":1 \"b\":2}", 1, 8, "a comma or }"), ("{\n \"a\": 1,\n \"a\": 2}", 3, 2, "comes twice"),
        ("01", 1, 1, "no JSON number"), ("-", 1, 1, "no JSON number"), ("1.", 1, 3, "digits"), ("1e", 1, 3, "digits"),
        ("1e999", 1, 1, "too large"), ("tru", 1, 1, "a value is expected"), ("nul", 1, 1, "a value"),
        ("1 1", 1, 3, "something follows"), ("\"a", 1, 1, "has no end"), ("\"\u{1}\"", 1, 2, "control character"),
        (#""\x""#, 1, 2, "no such escape"), (#""\ud800""#, 1, 2, "surrogate"), (#""\udc00""#, 1, 2, "surrogate"),
        (#""\ud800A""#, 1, 2, "surrogate"), (#""\u12g4""#, 1, 6, "hexadecimal"), ("+1", 1, 1, "a value"),
        ("NaN", 1, 1, "a value"), ("'a'", 1, 1, "a value"), ("[1]]", 1, 4, "something follows"),
    ]

    @Test(arguments: bad) func refuses(text: String, line: Int, column: Int, problem: String) {
        do throws(JSONSyntaxError) {
            _ = try JSON(parsing: Array(text.utf8))
            Issue.record("\(text) was read")
        } catch {
            #expect(error.position.line == line && error.position.column == column, "\(text): \(error)")
            #expect(error.problem.contains(problem), "\(text): \(error)")
        }
    }

    @Test func invalidUTF8IsRefused() {
        for bytes: [UInt8] in [[0x80], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80], [0xe2, 0x82]] {
            #expect(throws: JSONSyntaxError.self) { try JSON(parsing: [0x22] + bytes + [0x22]) }
        }
    }

    @Test func limitsHold() {
        var limits = JSONLimits()
        limits.depth = 4
        limits.values = 10
        limits.sizeInBytes = 100
        #expect(throws: Never.self) { try JSON(parsing: Array("[[[1]]]".utf8), limits: limits) }
        for text in ["[[[[1]]]]", "[1,2,3,4,5,6,7,8,9,10]", String(repeating: " ", count: 100) + "1"] {
            #expect(throws: JSONSyntaxError.self) { try JSON(parsing: Array(text.utf8), limits: limits) }
        }
        let deep = [UInt8](repeating: 0x5b, count: 1 << 20)
        #expect(throws: JSONSyntaxError.self) { try JSON(parsing: deep) }
    }

    @Test func objectsWithManyMembersKeepOrderAndFindAll() throws {
        var object = JSONObject()
        for index in 0..<100 { object["k\(index)"] = .number(index) }
        object["k50"] = "changed"
        #expect(object.names == (0..<100).map { "k\($0)" })
        #expect(object["k50"] == "changed")
        #expect(object["k99"] == 99)
        #expect(object["nothing"] == nil)
        #expect(try JSON(parsing: JSON.object(object).encoded()) == .object(object))
    }

    @Test func placesAreFoundByPath() throws {
        let text = Array("{\n  \"a\": [1,\n   {\"b\": 7}]\n}".utf8)
        let path = JSONPath([.member("a"), .element(1), .member("b")])
        #expect(JSON.position(of: path, in: text)?.description == "line 3, column 10")
        #expect(path.description == "a[1].b")
        #expect(JSON.position(of: JSONPath([.member("c")]), in: text) == nil)
    }
}

@Suite struct JSONFuzz {
    /// Whatever the bytes are, the reader ends, and what it took it takes again when written.
    @Test func mutatedTextsNeitherTrapNorChange() {
        let corpus =
            JSONReaderTests.good.map { Array($0.0.utf8) } + [
                Array(#"{"boot-source":{"kernel_image_path":"/k","boot_args":"a\u00e9"},"drives":[{"n":-1.5e3}]}"#.utf8)
            ]
        let signs = Array("{}[]\",:\\u0eE-.1 \u{0}".utf8)
        var random = SeededGenerator(7)
        for _ in 0..<20_000 {
            var bytes = corpus[random.below(corpus.count)]
            for _ in 0..<(1 + random.below(4)) {
                let place = random.below(bytes.count + 1)
                switch random.below(4) {
                case 0 where place < bytes.count: bytes[place] = UInt8(random.below(256))
                case 1 where place < bytes.count: bytes.remove(at: place)
                case 2: bytes.insert(signs[random.below(signs.count)], at: place)
                default: bytes += corpus[random.below(corpus.count)]
                }
            }
            guard let value = try? JSON(parsing: bytes) else { continue }
            #expect((try? JSON(parsing: value.encoded())) == value)
        }
    }
}

extension SeededGenerator {
    fileprivate mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
}
