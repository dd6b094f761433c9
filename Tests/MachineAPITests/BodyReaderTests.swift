// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@testable import MachineAPI

@Suite struct BodyReaderTests {
    private func error(_ schema: BodySchema, _ text: String) -> String? {
        do throws(BodyError) {
            _ = try schema.read(Array(text.utf8))
            return nil
        } catch { return error.description }
    }

    /// What Firecracker says of these bodies, word by word.
    static let bad: [(BodySchema, String, String)] = [
        (.machine, #"{"mem_size_mib": 128}"#, "missing field `vcpu_count` at line 1 column 21"),
        (.machine, #"{"vcpu_count": 2}"#, "missing field `mem_size_mib` at line 1 column 17"),
        (
            .machine, #"{"vcpu_count": "-2"}"#,
            #"invalid type: string "-2", expected u8 at line 1 column 19"#
        ),
        (
            .machine, #"{"vcpu_count": -2}"#, "invalid value: integer `-2`, expected u8 at line 1 column 17"
        ),
        (
            .machine, #"{"vcpu_count": 256}"#, "invalid value: integer `256`, expected u8 at line 1 column 18"
        ),
        (
            .machine, #"{"mem_size_mib": 18446744073709551616}"#,
            "invalid type: floating point `1.8446744073709552e19`, expected usize at line 1 column 37"
        ),
        (.machine, #"{"smt": "x"}"#, #"invalid type: string "x", expected a boolean at line 1 column 11"#),
        (.machine, #"{"smt": null}"#, "invalid type: null, expected a boolean at line 1 column 12"),
        (
            .machine, #"{"cpu_template": "T9"}"#,
            "unknown variant `T9`, expected one of `C3`, `T2`, `T2S`, `None`, `T2CL`, `T2A` at line 1 column 21"
        ),
        (.machine, #"{"smt": true, "smt": true}"#, "duplicate field `smt` at line 1 column 19"),
        (.vmState, #"{"state": "Off"}"#, "unknown variant `Off`, expected `Paused` or `Resumed` at line 1 column 15"),
        (.vmState, #"{"state": 1}"#, "expected value at line 1 column 11"),
        (.vmState, #"{"stat": 1}"#, "unknown field `stat`, expected `state` at line 1 column 7"),
        (
            .driveUpdate, #"{"drive_id": "a", "is_read_only": true}"#,
            "unknown field `is_read_only`, expected one of `drive_id`, `path_on_host`, `rate_limiter` "
                + "at line 1 column 32"
        ),
        (
            .snapshotLoading, #"{"snapshot_path": 1}"#,
            "invalid type: integer `1`, expected path string at line 1 column 19"
        ),
        (
            .snapshotLoading, #"{"mem_backend": {"backend_path": "bar"}}"#,
            "missing field `backend_type` at line 1 column 39"
        ),
        (
            .snapshotLoading, #"{"mem_backend": {"backend_type": "foo"}}"#,
            "unknown variant `foo`, expected `File` or `Uffd` at line 1 column 38"
        ),
        (
            .networkInterface, #"{"guest_mac": "x"}"#,
            "The provided MAC address is invalid. at line 1 column 18"
        ),
        (.logger, #"{"level": "loud"}"#, "Invalid LevelFilter at line 1 column 17"),
        (.logger, "", "EOF while parsing a value at line 1 column 0"),
        (.logger, "{", "EOF while parsing an object at line 1 column 1"),
        (.logger, "{\n\"level\"", "EOF while parsing an object at line 2 column 7"),
        (.logger, "{x", "key must be a string at line 1 column 2"),
        (.logger, #"{"level" 1}"#, "expected `:` at line 1 column 10"),
        (.logger, #"{"level": "info",}"#, "trailing comma at line 1 column 18"),
        (.logger, #"{"level": "info" "x"}"#, "expected `,` or `}` at line 1 column 18"),
        (.logger, #"{} x"#, "trailing characters at line 1 column 4"),
        (.logger, #"{"level": "in"#, "EOF while parsing a string at line 1 column 13"),
        (.logger, "7", "invalid type: integer `7`, expected struct LoggerConfig at line 1 column 1"),
        (
            .drive, #"{"rate_limiter": {"bandwidth": {"size": 1}}}"#,
            "missing field `refill_time` at line 1 column 42"
        ),
    ]

    @Test(arguments: bad) func faultsAreNamedAsClientsKnowThem(schema: BodySchema, text: String, problem: String) {
        #expect(error(schema, text) == problem)
    }

    @Test func goodBodies() throws {
        let drive = try BodySchema.drive.read(
            Array(
                #" { "drive_id" : "a\u0041\n" , "is_root_device":false, "rate_limiter":null,"cache_type":"Unsafe"} "#
                    .utf8))
        #expect(drive["drive_id"] == "aA\n")
        #expect(drive["rate_limiter"] == nil)
        #expect(drive["is_root_device"] == false)
        // Members that nobody reads may be anything.
        let metrics = try BodySchema.metrics.read(
            Array(#"{"metrics_path":"p","more":[{"x":[1,-2.5e3,"s",null,true]},[]],"properties":{"a":"b"}}"#.utf8))
        #expect(metrics["properties"]?["a"] == "b")
    }

    /// Whatever comes, reading ends and never traps; what is taken has the members that the schema wants.
    @Test func fuzz() {
        var generator = SeededGenerator(11)
        let schemas = APIRoute.all.compactMap(\.schema)
        let corpus =
            Self.bad.map(\.1) + [
                #"{"vcpu_count":1,"mem_size_mib":128,"smt":false,"huge_pages":"2M"}"#,
                #"{"drive_id":"a","path_on_host":"/p","is_root_device":true,"extents":[{"path":"/e","length":5}]}"#,
                #"{"snapshot_path":"a","mem_backend":{"backend_path":"b","backend_type":"Uffd"},"network_overrides":[]}"#,
            ]
        let words = [#"""#, "{", "}", "[", "]", ",", ":", "null", "true", "-", "1e9", "\\u", "\u{0}", "é", "0", " "]
        for _ in 0..<8000 {
            var bytes = Array((corpus.randomElement(using: &generator) ?? "").utf8)
            for _ in 0..<Int.random(in: 0...5, using: &generator) {
                let place = Int.random(in: 0...bytes.count, using: &generator)
                if Bool.random(using: &generator), place < bytes.count {
                    bytes.removeSubrange(place..<min(bytes.count, place + Int.random(in: 1...4, using: &generator)))
                } else {
                    bytes.insert(contentsOf: (words.randomElement(using: &generator) ?? "").utf8, at: place)
                }
            }
            guard let schema = schemas.randomElement(using: &generator) else { continue }
            guard let value = try? schema.read(bytes) else { continue }
            for field in schema.fields where field.isRequired {
                #expect(value[field.name] != nil || field.alternative.map { value[$0] != nil } == true)
            }
            #expect((try? JSON(parsing: bytes)) != nil || schema == .metrics)
        }
        let deep = [UInt8](repeating: 0x5b, count: 100_000)
        #expect(throws: BodyError.self) { try BodySchema.metrics.read(Array(#"{"x":"#.utf8) + deep) }
    }
}
