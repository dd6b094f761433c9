// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Worker

@Suite struct QuantitiesTests {
    @Test(
        arguments: [
            ("1", 1), ("0", 0), ("512m", 512 << 20), ("1g", 1 << 30), ("1.5G", 3 << 29), ("64MiB", 64 << 20),
            ("2kb", 2048), ("10b", 10), ("1 g", 1 << 30), ("0.25k", 256), ("1t", 1 << 40),
        ] as [(String, UInt64)])
    func bytes(text: String, value: UInt64) throws {
        #expect(try Quantities.bytes(text) == value)
    }

    @Test(arguments: [
        "", "m", "-1", "1x", "1..5g", "1.", ".5g", "1e9", "99999999999999999999", "99999999999t", "１", "0x10", "1.2.3",
    ])
    func badBytes(_ text: String) {
        #expect(throws: WorkerError.self) { try Quantities.bytes(text) }
    }

    @Test(
        arguments: [
            ("10", 10_000), ("1.5", 1500), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000), ("1d", 86_400_000),
            ("0", 0),
        ] as [(String, UInt64)])
    func milliseconds(text: String, value: UInt64) throws {
        #expect(try Quantities.milliseconds(text) == value)
    }

    @Test(arguments: ["", "s", "-5", "5y", "10 000d!", "99999999999999d"])
    func badMilliseconds(_ text: String) {
        #expect(throws: WorkerError.self) { try Quantities.milliseconds(text) }
    }

    @Test(
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"),
            (6 << 30, "6 GiB"),
            (UInt64.max, "16 EiB"),
        ] as [(UInt64, String)])
    func describeBytes(bytes: UInt64, text: String) {
        #expect(Quantities.describe(bytes: bytes) == text)
    }

    @Test(
        arguments: [
            (0, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7199, "119 minutes"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
        ] as [(UInt64, String)])
    func describeSeconds(seconds: UInt64, text: String) {
        #expect(Quantities.describe(seconds: seconds) == text)
    }
}

@Suite struct SignalNameTests {
    @Test(
        arguments: [
            ("TERM", 15), ("SIGTERM", 15), ("sigterm", 15), ("9", 9), ("usr1", 10), ("RTMIN", 34), ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63), ("64", 64),
        ] as [(String, Int32)])
    func numbers(text: String, number: Int32) throws {
        #expect(try SignalName.number(text) == number)
    }

    @Test(arguments: ["", "0", "65", "-9", "FOO", "SIG", "RTMIN+99", "RTMIN+-1", "TERM "])
    func bad(_ text: String) {
        #expect(throws: WorkerError.self) { try SignalName.number(text) }
    }

    @Test func text() {
        #expect(SignalName.text(9) == "SIGKILL")
        #expect(SignalName.text(40) == "signal 40")
    }
}

@Suite struct TimestampTests {
    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00.000000000Z"), (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_709_164_800_123_456_789, "2024-02-29T00:00:00.123456789Z"),
            (4_102_444_799_999_999_999, "2099-12-31T23:59:59.999999999Z"),
        ] as [(UInt64, String)])
    func text(time: UInt64, text: String) {
        #expect(Timestamp.text(time) == text)
        #expect(Timestamp.parse(text) == time)
    }

    @Test func everyDayThereAndBack() {
        for day in 0..<(366 * 150) as Range<UInt64> {
            let time = day * 86_400_000_000_000 + day * 1_000_003
            #expect(Timestamp.parse(Timestamp.text(time)) == time)
        }
    }

    @Test func offsets() {
        #expect(Timestamp.parse("1970-01-01T02:00:00+02:00") == 0)
        #expect(Timestamp.parse("1969-12-31T22:00:00-02:00") == nil)
        #expect(Timestamp.parse("1970-01-01t00:00:01.5z") == 1_500_000_000)
    }

    @Test(arguments: ["", "5m", "2024-01-01", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01T00:00:00.Z"])
    func bad(_ text: String) {
        #expect(Timestamp.parse(text) == nil)
    }
}

@Suite struct RunSyntaxTests {
    @Test func optionsEndAtTheImage() throws {
        let syntax = try RunSyntax(["--rm", "-i", "alpine", "ls", "-la", "--rm", "--"])
        #expect(syntax.options == ["--rm", "--interactive"])
        #expect(syntax.image == "alpine")
        #expect(syntax.command == ["ls", "-la", "--rm", "--"])
    }

    @Test func plainOptions() throws {
        let plain = try #require(try RunSyntax(["-d", "--env=A=b=c", "--name", "x", "image"]).plainOptions)
        #expect(plain.map(\.name) == ["detach", "env", "name"])
        #expect(plain.map(\.value) == [nil, "A=b=c", "x"])
        #expect(try RunSyntax(["--entrypoint", "", "image"]).plainOptions == nil)
        #expect(try RunSyntax(["-x", "image"]).plainOptions == nil)
    }

    @Test func joinedShortOptions() throws {
        let syntax = try RunSyntax(["-die", "A=b", "-m1g", "-u=0:0", "-w", "/x", "-hweb", "image"])
        #expect(
            syntax.options == [
                "--detach", "--interactive", "--env=A=b", "--memory=1g", "--user=0:0", "--workdir=/x", "--hostname=web",
            ])
        #expect(syntax.image == "image")
    }

    @Test func valuesThatLookLikeOptions() throws {
        let syntax = try RunSyntax(["--name", "--rm", "--env=--x=--y", "--entrypoint", "", "image"])
        #expect(syntax.options == ["--name=--rm", "--env=--x=--y", "--entrypoint", ""])
        #expect(syntax.image == "image")
    }

    @Test func flagsWithValues() throws {
        #expect(try RunSyntax(["--rm=true", "x"]).options == ["--rm"])
        #expect(try RunSyntax(["--rm", "--rm=false", "x"]).options == [])
        #expect(throws: WorkerError.self) { try RunSyntax(["--rm=maybe", "x"]) }
    }

    @Test func unknownOnesAreLeftForTheParserToRefuse() throws {
        let syntax = try RunSyntax(["-it", "--foo", "image"])
        #expect(syntax.options == ["--interactive", "-t", "--foo"])
        #expect(syntax.image == "image")
    }

    @Test func missingValues() throws {
        #expect(throws: WorkerError.self) { try RunSyntax(["--name"]) }
        #expect(throws: WorkerError.self) { try RunSyntax(["-ie"]) }
        #expect(try RunSyntax(["--rm"]).image == nil)
    }

    @Test func afterTwoHyphens() throws {
        let syntax = try RunSyntax(["--rm", "--", "image", "--", "x"])
        #expect(syntax.image == "image")
        #expect(syntax.command == ["--", "x"])
    }
}
