// SPDX-License-Identifier: Apache-2.0

import Testing
import Wire

@testable import MachineAPI

@Suite struct MetricsReportTests {
    @Test func linesHaveWhatWasCountedSinceTheLast() throws {
        var settings = MetricsSettings(path: "m")
        settings.emitsIdentifier = true
        settings.properties = [("rack", "7")]
        var report = MetricsReport(settings, identifier: "m1")
        var values = MetricsValues()
        values["block_a", "read_bytes"] = 512
        values["block_b", "read_bytes"] = 1024
        values["latencies_us", "pause_vm"] = 40
        values["vcpu", "exit_io_out"] = 3
        func line() throws -> JSON {
            try JSON(parsing: report.line(values, drives: ["a", "b"], interfaces: [], timeInMilliseconds: 5))
        }
        let first = try line()
        #expect(first["utc_timestamp_ms"] == 5)
        #expect(first["id"] == "m1")
        #expect(first["properties"] == ["rack": "7"])
        #expect(first["block_a"]?["read_bytes"] == 512)
        #expect(first["block"]?["read_bytes"] == 1536)
        #expect(first["latencies_us"]?["pause_vm"] == 40)
        values["block_b", "read_bytes"] = 2024
        let second = try line()
        #expect(second["block_a"]?["read_bytes"] == 0)
        #expect(second["block_b"]?["read_bytes"] == 1000)
        #expect(second["vcpu"]?["exit_io_out"] == 0)
        #expect(second["latencies_us"]?["pause_vm"] == 40)
        // All names are there, whatever was counted.
        #expect(first.objectValue?.names.count == MetricsTable.groups.count + 5)
        #expect(first["vcpu"]?["exit_io_in_agg"] == ["min_us": 0, "max_us": 0, "sum_us": 0])
        #expect(first["signals"]?["sigbus"] == 0)
    }
}
