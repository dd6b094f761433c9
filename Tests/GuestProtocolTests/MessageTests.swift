// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@testable import GuestProtocol

@Suite struct MessageTests {
    private static func hello(_ generator: inout SeededGenerator) -> Hello {
        var hello = Hello()
        hello.major = UInt16(generator.number(1...65_535))
        hello.minor = UInt16(generator.number(0...65_535))
        hello.program = generator.bytes(0...40)
        return hello
    }

    private static func configuration(_ generator: inout SeededGenerator) -> Configuration {
        var configuration = Configuration()
        configuration.root = generator.number(0...1) == 0 ? .image : .share
        configuration.rootDevice = generator.bytes(0...20)
        configuration.isReadOnly = generator.number(0...1) == 0
        configuration.shareTag = generator.bytes(0...20)
        configuration.stateDevice = generator.bytes(0...20)
        configuration.stateMountPoint = generator.bytes(0...20)
        configuration.hostname = generator.bytes(0...64)
        configuration.resolvConf = generator.bytes(0...500)
        configuration.hosts = generator.bytes(0...500)
        configuration.clock = generator.next()
        configuration.entropy = generator.bytes(0...64)
        for _ in 0..<generator.number(0...3) { configuration.interfaces.append(interface(&generator)) }
        return configuration
    }

    private static func interface(_ generator: inout SeededGenerator) -> InterfaceSettings {
        var interface = InterfaceSettings(hardwareAddress: generator.bytes(6...6))
        if generator.number(0...1) == 0 { interface.slot = UInt8(generator.number(0...255)) }
        if generator.number(0...1) == 0 { interface.mtu = UInt32(generator.number(68...65_535)) }
        for _ in 0..<generator.number(0...3) {
            let bytes = generator.number(0...1) == 0 ? generator.bytes(4...4) : generator.bytes(16...16)
            let length = UInt8(generator.number(0...bytes.count * 8))
            if let address = InterfaceSettings.Address(bytes: bytes, prefixLength: length) {
                interface.addresses.append(address)
            }
            interface.gateways.append(bytes)
        }
        return interface
    }

    @Test(arguments: [
        [UInt8](repeating: 1, count: 5), [UInt8](repeating: 1, count: 7), [],
    ])
    func interfacesWithoutAnAddressAreRefused(hardwareAddress: [UInt8]) {
        #expect(InterfaceSettings(InterfaceSettings(hardwareAddress: hardwareAddress).payload) == nil)
    }

    @Test func addressesThatAreNoneAreRefused() {
        for (bytes, length) in [([UInt8](repeating: 0, count: 4), UInt8(33)), ([0, 0, 0], 8), ([], 0)] {
            var writer = FieldWriter()
            writer.append(1, [UInt8](repeating: 2, count: 6))
            writer.append(4, [length] + bytes)
            #expect(InterfaceSettings(writer.bytes) == nil)
        }
    }

    @Test func arrangementsSurviveTheirBytes() {
        var generator = SeededGenerator(9)
        for _ in 0..<200 {
            var arrangement = Arrangement()
            for _ in 0..<generator.number(0...2) { arrangement.added.append(Self.interface(&generator)) }
            for _ in 0..<generator.number(0...2) { arrangement.removed.append(Self.interface(&generator)) }
            for _ in 0..<generator.number(0...2) { arrangement.leading.append(Self.interface(&generator)) }
            for _ in 0..<generator.number(0...2) { arrangement.yielding.append(Self.interface(&generator)) }
            arrangement.hosts = generator.bytes(0...500)
            arrangement.resolvConf = generator.bytes(0...500)
            let payload = arrangement.payload
            #expect(Arrangement(payload) == arrangement)
            // Whatever becomes of the bytes, they are read within their bounds and to the same meaning again.
            var spoiled = payload
            if !spoiled.isEmpty { spoiled[generator.number(0...spoiled.count - 1)] = UInt8(generator.number(0...255)) }
            if let read = Arrangement(spoiled) { #expect(Arrangement(read.payload) == read) }
            if let read = Arrangement(Array(payload.prefix(generator.number(0...payload.count)))) {
                #expect(Arrangement(read.payload) == read)
            }
        }
        var many = Arrangement()
        for _ in 0...Identity.interfaceLimit { many.leading.append(Self.interface(&generator)) }
        #expect(Arrangement(many.payload) == nil)
        let order = DisconnectOrder(network: Array("back".utf8), isForced: true)
        #expect(DisconnectOrder(order.payload) == order && DisconnectOrder([]) == nil)
        #expect(ConnectOrder(ConnectOrder(wish: [1, 2]).payload)?.wish == [1, 2] && ConnectOrder([]) == nil)
    }

    private static func request(_ generator: inout SeededGenerator) -> ProcessRequest {
        var request = ProcessRequest()
        for _ in 0..<generator.number(1...10) { request.arguments.append(generator.bytes(0...30)) }
        for _ in 0..<generator.number(0...10) { request.environment.append(generator.bytes(0...30)) }
        request.directory = generator.bytes(0...30)
        request.user = generator.bytes(0...30)
        request.hasInput = generator.number(0...1) == 0
        request.isMain = generator.number(0...1) == 0
        request.startsAtOnce = generator.number(0...1) == 0
        return request
    }

    private static func report(_ generator: inout SeededGenerator) -> ExitReport {
        var report = ExitReport()
        report.code = UInt8(generator.number(0...255))
        report.wasSignaled = generator.number(0...1) == 0
        report.bootedAt = generator.next()
        report.configuredAt = generator.next()
        report.startedAt = generator.next()
        report.exitedAt = generator.next()
        return report
    }

    /// What is written is what is read, also when a newer writer has put unknown fields between.
    @Test func roundTrips() {
        var generator = SeededGenerator(1)
        var newer = FieldWriter()
        newer.append(60_000, [1, 2, 3])
        newer.append(60_001, number: UInt64.max)
        for _ in 0..<500 {
            let hello = MessageTests.hello(&generator)
            #expect(Hello(newer.bytes + hello.payload + newer.bytes) == hello)
            let configuration = MessageTests.configuration(&generator)
            #expect(Configuration(newer.bytes + configuration.payload) == configuration)
            let request = MessageTests.request(&generator)
            #expect(ProcessRequest(newer.bytes + request.payload + newer.bytes) == request)
            let refusal = Refusal(exitCode: UInt8(generator.number(0...255)), message: generator.bytes(0...100))
            #expect(Refusal(refusal.payload + newer.bytes) == refusal)
            let report = MessageTests.report(&generator)
            #expect(ExitReport(newer.bytes + report.payload) == report)
            let number = NumberMessage(generator.next())
            #expect(NumberMessage(payload: number.payload + newer.bytes) == number)
        }
    }

    @Test func whatIsMissing() {
        #expect(Hello([]) == nil)
        #expect(ProcessRequest([]) == nil, "a request without arguments")
        #expect(NumberMessage(payload: []) == nil)
        #expect(Configuration([]) == Configuration())
        #expect(Refusal([])?.exitCode == 125)
        #expect(ExitReport([]) == ExitReport())
        var writer = FieldWriter()
        writer.append(1, number: UInt8(77))
        #expect(Configuration(writer.bytes) == nil, "a root of an unknown kind cannot be made")
    }

    @Test func nothingIsReadFromAPayloadThatIsCut() {
        var generator = SeededGenerator(2)
        let payload = MessageTests.request(&generator).payload
        var whole = 0
        for count in payload.indices where ProcessRequest(Array(payload[..<count])) != nil { whole += 1 }
        var fields = 0
        var reader = FieldReader(payload)
        while reader.next() != nil { fields += 1 }
        #expect(whole == fields - 1, "only where the cut is between two fields, after the first argument")
    }

    @Test(arguments: [(7, false, 7), (15, true, 143), (0, false, 0), (255, false, 255), (200, true, 72)])
    func shellStatus(code: UInt8, wasSignaled: Bool, status: UInt8) {
        var report = ExitReport()
        report.code = code
        report.wasSignaled = wasSignaled
        #expect(report.shellStatus == status)
    }
}

@Suite struct Fuzz {
    private static let payloads: [[UInt8]] = {
        var configuration = Configuration()
        configuration.rootDevice = Array("/dev/vda".utf8)
        configuration.entropy = [1, 2, 3]
        configuration.clock = 5
        var request = ProcessRequest()
        request.arguments = [Array("sh".utf8), Array("-c".utf8), []]
        request.environment = [Array("A=b".utf8)]
        request.hasInput = true
        return [
            Hello().payload, configuration.payload, request.payload, ExitReport().payload, NumberMessage(9).payload,
            Refusal(exitCode: 127, message: Array("no".utf8)).payload,
        ]
    }()

    /// No payload traps, and nothing is made of it that was not in it.
    @Test func messages() {
        var generator = SeededGenerator(3)
        for round in 0..<30_000 {
            let payload = generator.mutated(Fuzz.payloads[round % Fuzz.payloads.count])
            _ = Hello(payload)
            _ = Configuration(payload)
            _ = Refusal(payload)
            _ = ExitReport(payload)
            _ = NumberMessage(payload: payload)
            if let request = ProcessRequest(payload) {
                let bytes =
                    request.arguments.reduce(0) { $0 + $1.count } + request.environment.reduce(0) { $0 + $1.count }
                #expect(bytes <= payload.count)
            }
        }
    }

    /// No stream of bytes traps the decoder or a session of either end, in whatever pieces it comes.
    @Test func framesAndSessions() {
        var generator = SeededGenerator(4)
        var corpus: [UInt8] = []
        let kinds: [FrameKind] = [.accepted, .go, .started, .data, .credit, .end, .signal, .hangUp, .refused, .exited]
        for _ in 0..<40 {
            let stream: StreamKind = [.input, .output, .errors][generator.number(0...2)]
            Frame(
                kinds[generator.number(0...kinds.count - 1)], session: 1, stream: stream,
                offset: UInt64(generator.number(0...3)), payload: generator.bytes(0...3)
            ).write(to: &corpus)
        }
        for _ in 0..<4_000 {
            let bytes = generator.mutated(corpus)
            var decoder = FrameDecoder()
            var guest = SessionStateMachine(.guest, hasInput: true)
            var host = SessionStateMachine(.host, hasInput: true)
            var payload = 0
            var start = 0
            while start < bytes.count {
                let end = min(bytes.count, start + generator.number(1...200))
                decoder.append(bytes[start..<end])
                start = end
                while let frame = decoder.next() {
                    payload += frame.payload.count + FrameHeader.byteCount
                    _ = guest.receive(frame.header)
                    _ = host.receive(frame.header)
                    if let stream = frame.stream {
                        _ = guest.consume(frame.payload.count, of: stream)
                        _ = host.consume(frame.payload.count, of: stream)
                    }
                }
            }
            #expect(payload <= bytes.count)
        }
    }
}
