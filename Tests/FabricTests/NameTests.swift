// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@testable import Fabric

/// A query as a stub resolver sends it.
func query(_ name: String, _ type: UInt16 = DNSType.a, identifier: UInt16 = 0x1234, edns: UInt16? = nil) -> [UInt8] {
    var length = 0
    let bytes = built(400) {
        var builder = DNSBuilder(identifier: identifier, flags: 0x0100, at: 0, limit: 400)
        builder.add(DNSQuestion(name: DNSName(name) ?? DNSName(), type: type), to: &$0)
        if let edns { builder.extend(payloadSize: edns, to: &$0) }
        length = builder.finish(&$0) ?? 0
    }
    return Array(bytes[..<length])
}

/// What an answer says: code, addresses and names in order.
func read(_ message: [UInt8]) -> (code: UInt8, isTruncated: Bool, data: [String], times: [UInt32])? {
    reading(message) { bytes in
        guard let view = DNSView(bytes) else { return nil }
        var records = view.records
        var record = DNSRecord()
        var data: [String] = []
        var times: [UInt32] = []
        while records.next(&record) {
            guard record.section == .answer else { continue }
            times.append(record.timeToLive)
            switch record.type {
            case DNSType.a: data.append("\(bytes.ipv4(record.dataOffset))")
            case DNSType.aaaa: data.append("\(bytes.ipv6(record.dataOffset))")
            default:
                var name = DNSName()
                if name.read(bytes, at: record.dataOffset) != nil { data.append(name.text) }
            }
        }
        return records.isMalformed ? nil : (view.code, view.isTruncated, data, times)
    }
}

@Suite struct Names {
    private func ask(
        _ bench: Bench, _ message: [UInt8], elsewhere: NamesElsewhere? = nil, foreign: ForeignNames = ForeignNames(),
        overTCP: Bool = false, turn: Int = 0
    ) -> (NameOutcome, [UInt8]) {
        var denied = DeniedNames()
        return ask(
            bench, message, elsewhere: elsewhere, foreign: foreign, denied: &denied, overTCP: overTCP, turn: turn)
    }

    private func ask(
        _ bench: Bench, _ message: [UInt8], elsewhere: NamesElsewhere? = nil, foreign: ForeignNames = ForeignNames(),
        denied: inout DeniedNames, now: UInt64 = 0, overTCP: Bool = false, turn: Int = 0
    ) -> (NameOutcome, [UInt8]) {
        var outcome = NameOutcome.ignored
        let bytes = built(65_535) { output in
            reading(message) {
                outcome = NameServer.answer(
                    $0, network: 0, table: bench.state.table, elsewhere: elsewhere, foreign: foreign,
                    denied: &denied, now: now, turn: turn, overTCP: overTCP, to: &output, at: 0)
            }
        }
        guard case .answered(let length) = outcome else { return (outcome, []) }
        return (outcome, Array(bytes[..<length]))
    }

    @Test func ownNames() throws {
        let bench = try Bench()
        let cases: [(String, UInt16, UInt8, [String])] = [
            ("b", DNSType.a, 0, ["\(bench.b.v4)"]), ("B.Blue", DNSType.a, 0, ["\(bench.b.v4)"]),
            ("b.blue", DNSType.aaaa, 0, ["\(bench.b.v6)"]), ("b.blue", DNSType.txt, 0, []),
            ("b.blue", DNSType.any, 0, ["\(bench.b.v4)", "\(bench.b.v6)"]),
            ("gateway", DNSType.a, 0, ["10.0.0.1"]), ("gateway.blue", DNSType.aaaa, 0, ["fd00:1::1"]),
            ("nobody", DNSType.a, 3, []), ("nobody.blue", DNSType.a, 3, []), ("www.example.com.blue", DNSType.a, 3, []),
            ("blue", DNSType.a, 0, []), ("localhost", DNSType.a, 0, ["127.0.0.1"]),
            ("x.localhost", DNSType.aaaa, 0, ["::1"]),
            ("printer.local", DNSType.a, 3, []), ("3.0.0.10.in-addr.arpa", DNSType.ptr, 0, ["b.blue"]),
            ("1.0.0.10.in-addr.arpa", DNSType.ptr, 0, ["gateway.blue"]),
            ("99.0.0.10.in-addr.arpa", DNSType.ptr, 3, []), ("1.0.0.127.in-addr.arpa", DNSType.ptr, 3, []),
            (DNSName(reverse: .v6(bench.b.v6)).text, DNSType.ptr, 0, ["b.blue"]),
        ]
        for (name, type, code, data) in cases {
            let (_, answer) = ask(bench, query(name, type))
            let found = try #require(read(answer), "\(name)")
            #expect(found.code == code && found.data == data, "\(name): \(found)")
        }
        // What nobody here knows.
        #expect(ask(bench, query("example.com")).0 == .forward)
        #expect(ask(bench, query("8.8.8.8.in-addr.arpa", DNSType.ptr)).0 == .forward)
        #expect(ask(bench, query(".")).0 == .forward)
    }

    /// The machine that asks is in red and in green.blue too: what is theirs is not answered for here, and what is
    /// nobody's by the server that has the last word alone. A name that another network has never goes upstream.
    @Test(arguments: [true, false]) func namesOfAMachineInSeveralNetworks(hasLastWord: Bool) throws {
        let bench = try Bench()
        var elsewhere = NamesElsewhere()
        elsewhere.domains = ["red", "green.blue"].compactMap { DNSName($0) }
        elsewhere.subnets = [IPv4Prefix(IPv4Address(10, 77, 0, 0), length: 16)]
        elsewhere.prefixes = [try #require(IPv6Prefix("fd00:77::/64"))]
        elsewhere.hasLastWord = hasLastWord
        // The code of an answer; nil where the question goes on to the host's servers.
        let last: UInt8 = hasLastWord ? 3 : 5
        let cases: [(String, UInt16, UInt8?, [String])] = [
            ("b", DNSType.a, 0, ["\(bench.b.v4)"]), ("b.blue", DNSType.a, 0, ["\(bench.b.v4)"]),
            ("nobody.blue", DNSType.a, 3, []), ("gateway.blue", DNSType.a, 0, ["10.0.0.1"]),
            ("b.red", DNSType.a, 5, []), ("red", DNSType.a, 5, []), ("b.GREEN.blue", DNSType.aaaa, 5, []),
            ("nobody", DNSType.a, last, []), ("example.com", DNSType.a, hasLastWord ? nil : 5, []),
            ("localhost", DNSType.a, 0, ["127.0.0.1"]), ("printer.local", DNSType.a, 3, []),
            ("3.0.0.10.in-addr.arpa", DNSType.ptr, 0, ["b.blue"]), ("99.0.0.10.in-addr.arpa", DNSType.ptr, 3, []),
            ("9.0.77.10.in-addr.arpa", DNSType.ptr, 5, []),
            (DNSName(reverse: .v6(try #require(IPv6Address("fd00:77::5")))).text, DNSType.ptr, 5, []),
            ("8.8.8.8.in-addr.arpa", DNSType.ptr, hasLastWord ? nil : 5, []),
        ]
        for (name, type, code, data) in cases {
            let (outcome, answer) = ask(bench, query(name, type), elsewhere: elsewhere)
            guard let code else {
                #expect(outcome == .forward, "\(name)")
                continue
            }
            let found = try #require(read(answer), "\(name)")
            #expect(found.code == code && found.data == data, "\(name): \(found)")
        }
    }

    /// What the user's other networks own does not exist for who is in none of them, whatever is asked about it; what is
    /// not theirs goes on as before.
    @Test func namesOfNetworksThatTheMachineIsNotIn() throws {
        let bench = try Bench()
        let foreign = ForeignNames([
            .init(domain: name("red"), subnet: IPv4Prefix("10.77.0.0/16"), prefix: IPv6Prefix("fd00:77::/64")),
            // As others have on the Internet.
            .init(domain: name("deep.green"), subnet: IPv4Prefix("11.0.0.0/8"), prefix: IPv6Prefix("2001:4860::/64")),
            .init(domain: name("below.blue")), .init(domain: name("dev")),
            // The same addresses as the network's own.
            .init(domain: name("twin"), subnet: IPv4Prefix("10.0.0.0/8")),
        ])
        let theirs = [
            "db.red", "DB.Red", "red", "x.y.red", "_http._tcp.db.red", "deep.green", "a.deep.green", "x.below.blue",
            "www.example.dev", "db.red.blue", "9.0.77.10.in-addr.arpa", DNSName(reverse: .v6(v6("fd00:77::5"))).text,
            "9.9.9.10.in-addr.arpa",
        ]
        for text in theirs {
            for type in [DNSType.a, DNSType.aaaa, DNSType.ptr, DNSType.txt, DNSType.any, 6, 15, 33, 65] as [UInt16] {
                for overTCP in [false, true] {
                    let (_, answer) = ask(bench, query(text, type), foreign: foreign, overTCP: overTCP)
                    let found = try #require(read(answer), "\(text) \(type)")
                    #expect(found.code == DNSCode.noSuchName && found.data == [], "\(text) \(type): \(found)")
                    #expect(isAuthoritativeDenial(answer), "\(text) \(type)")
                }
            }
        }
        for text in [
            "example.com", "red.example.com", "xred.com", "x.green", "a.xdeep.green", "example.dev.com",
            "1.0.0.11.in-addr.arpa", DNSName(reverse: .v6(v6("2001:4860::5"))).text, "1.0.16.172.in-addr.arpa",
        ] {
            #expect(ask(bench, query(text), foreign: foreign).0 == .forward, "\(text)")
        }
        #expect(read(ask(bench, query("b.blue"), foreign: foreign).1)?.data == ["\(bench.b.v4)"])
        #expect(read(ask(bench, query("3.0.0.10.in-addr.arpa", DNSType.ptr), foreign: foreign).1)?.data == ["b.blue"])

        // Of a machine in several networks, the server that has the last word says so; those that it is in speak for
        // themselves.
        var elsewhere = NamesElsewhere()
        elsewhere.domains = [name("red")]
        elsewhere.subnets = [IPv4Prefix("10.77.0.0/16")].compactMap(\.self)
        for hasLastWord in [true, false] {
            elsewhere.hasLastWord = hasLastWord
            let last = hasLastWord ? DNSCode.noSuchName : DNSCode.refused
            for (text, code) in [
                ("db.red", DNSCode.refused), ("9.0.77.10.in-addr.arpa", DNSCode.refused), ("x.dev", last),
                ("9.9.9.10.in-addr.arpa", last), ("x.deep.green", last),
            ] {
                let (_, answer) = ask(bench, query(text), elsewhere: elsewhere, foreign: foreign)
                #expect(read(answer)?.code == code, "\(text)")
            }
        }
    }

    /// Whether an answer says that by its own right, and for how long, with the zone's SOA record.
    private func isAuthoritativeDenial(_ message: [UInt8]) -> Bool {
        reading(message) { bytes in
            guard let view = DNSView(bytes), message[2] & 0x04 != 0 else { return false }
            var records = view.records
            var record = DNSRecord()
            while records.next(&record) {
                if record.section == .authority, record.type == 6 {
                    return record.timeToLive == NameServer.negativeTimeToLive
                }
            }
            return false
        }
    }

    /// However many labels the networks' names have, the index agrees with a search.
    @Test(arguments: 0..<UInt64(fuzzRounds(200))) func foreignNamesAgreeWithASearch(seed: UInt64) {
        var generator = SeededGenerator(seed)
        func draw(_ most: Int) -> DNSName {
            let labels = (0..<Int.random(in: 1...most, using: &generator)).map { _ in
                ["a", "b", "Ab"].randomElement(using: &generator) ?? "a"
            }
            return name(labels.joined(separator: "."))
        }
        let domains = (0..<Int.random(in: 0...5, using: &generator)).map { _ in draw(4) }
        let foreign = ForeignNames(domains.map { .init(domain: $0) })
        for _ in 0..<50 {
            let asked = draw(6)
            #expect(foreign.own(asked) == domains.contains { asked.isWithin($0) }, "\(asked) \(domains)")
        }
        #expect(!foreign.own(DNSName()))
    }

    /// A name that was denied is covered with search domains behind it, for a while and of the last ones; no other is.
    @Test func deniedNames() throws {
        let bench = try Bench()
        let foreign = ForeignNames([.init(domain: name("red"))])
        var denied = DeniedNames()
        func note(_ text: String, at now: UInt64) {
            _ = ask(bench, query(text), foreign: foreign, denied: &denied, now: now)
        }
        /// What is not asked for outside is denied like any other name.
        func covers(_ text: String, at now: UInt64) -> Bool {
            var denied = denied
            let (outcome, answer) = ask(bench, query(text), foreign: ForeignNames(), denied: &denied, now: now)
            guard outcome != .forward else { return false }
            #expect(read(answer)?.code == DNSCode.noSuchName && isAuthoritativeDenial(answer), "\(text)")
            return true
        }
        for text in ["db.red", "nobody.blue", "b.blue", "nobody", "b"] { note(text, at: 0) }
        for (text, isCovered) in [
            ("db.red.example.com", true), ("DB.Red.x", true), ("db.red", false), ("nobody.blue.example.com", true),
            ("db.redder.example.com", false), ("x.db.red.example.com", false), ("db.example.com", false),
            // Those that are there, and those of one label.
            ("b.blue.example.com", false), ("nobody.example.com", false), ("b.example.com", false),
        ] {
            #expect(covers(text, at: 1) == isCovered, "\(text)")
        }
        let end = UInt64(NameServer.negativeTimeToLive) * 1_000_000_000
        #expect(covers("db.red.x", at: end - 1) && !covers("db.red.x", at: end))
        // Asked once more, it is kept longer, in one place.
        for _ in 0..<(2 * DeniedNames.limit) { note("db.red", at: end / 2) }
        #expect(covers("db.red.x", at: end) && covers("nobody.blue.x", at: end - 1))
        for index in 0..<DeniedNames.limit { note("n\(index).red", at: end) }
        #expect(!covers("db.red.x", at: end) && covers("n0.red.x", at: end) && covers("n7.red.x", at: end))
    }

    /// All that share an alias are told, another one first each time.
    @Test func aSharedAlias() throws {
        let bench = try Bench()
        var sharers: [Endpoint] = []
        for name in ["web1", "web2", "web3"] {
            var request = EndpointRequest(name: name, network: "blue")
            request.aliases = ["web"]
            sharers.append(try bench.state.add(request))
        }
        for turn in 0..<6 {
            let first = turn % 3
            let inTurn = Array(sharers[first...] + sharers[..<first])
            for name in ["web", "WEB.blue"] {
                let found = read(ask(bench, query(name), turn: turn).1)
                #expect(found?.data == inTurn.map { "\($0.v4)" }, "\(name) \(turn)")
            }
            #expect(
                read(ask(bench, query("web", DNSType.aaaa), turn: turn).1)?.data == inTurn.map { "\($0.v6)" })
        }
        #expect(read(ask(bench, query("web1")).1)?.data == ["\(sharers[0].v4)"])
        // The address's name is the machine's own.
        #expect(
            read(ask(bench, query(DNSName(reverse: .v4(sharers[1].v4)).text, DNSType.ptr)).1)?.data == ["web2.blue"])
        // Who goes is told no more; a counter that has gone round does no harm.
        try bench.state.remove(sharers[0].id)
        #expect(read(ask(bench, query("web"), turn: .min).1)?.data.count == 2)
        // More than a datagram takes are had over TCP.
        for index in 0..<60 {
            var request = EndpointRequest(name: "more\(index)", network: "blue")
            request.aliases = ["web"]
            _ = try bench.state.add(request)
        }
        #expect(read(ask(bench, query("web")).1)?.isTruncated == true)
        let all = read(ask(bench, query("web"), overTCP: true).1)
        #expect(all?.isTruncated == false && all?.data.count == 62)
        // A machine's name is nobody's alias, and an alias nobody's name.
        var taken = EndpointRequest(name: "other", network: "blue")
        taken.aliases = ["b"]
        #expect(throws: FabricError.nameTaken("b")) { try bench.state.add(taken) }
        #expect(throws: FabricError.nameTaken("web")) {
            try bench.state.add(EndpointRequest(name: "web", network: "blue"))
        }
    }

    @Test func internalNetworksAskNobody() throws {
        let bench = try Bench(isInternal: true)
        for name in ["example.com", "8.8.8.8.in-addr.arpa"] {
            #expect(read(ask(bench, query(name)).1)?.code == DNSCode.noSuchName)
        }
    }

    @Test func oddQuestions() throws {
        let bench = try Bench()
        #expect(ask(bench, [1, 2, 3]).0 == .ignored)
        var response = query("b")
        response[2] |= 0x80
        #expect(ask(bench, response).0 == .ignored)
        var update = query("b")
        update[2] = 5 << 3
        #expect(read(ask(bench, update).1)?.code == DNSCode.notImplemented)
        #expect(read(ask(bench, query("b", 252)).1)?.code == DNSCode.refused)
        var none = query("b")
        none[5] = 0
        #expect(read(ask(bench, none).1)?.code == DNSCode.formatError)
        // The question comes back letter by letter.
        let mixed = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 66, 4, 66, 108, 85, 101, 0, 0, 1, 0, 1] as [UInt8]
        #expect(ask(bench, mixed).1[12..<24] == mixed[12..<24])
    }
}

@Suite struct Forwarder {
    static let servers = [IPAddress.v4(v4("192.0.2.1")), .v4(v4("192.0.2.2"))]
    static let client = NameClient(endpoint: EndpointID(1), way: .datagram(isIPv6: false, port: 4000))

    /// A server's answer to a question that the forwarder asks.
    static func answer(
        _ asked: [UInt8], addresses: Int = 1, code: UInt8 = 0, time: UInt32 = 60, truncated: Bool = false,
        negative: UInt32? = nil, edns: Bool = false
    ) -> [UInt8] {
        var length = 0
        let bytes = built(60_000) { output in
            reading(asked) { asked in
                guard let view = DNSView(asked) else { return }
                var builder = DNSBuilder(
                    identifier: view.identifier, flags: 0x8180 | UInt16(code) | (truncated ? 0x0200 : 0), at: 0,
                    limit: 60_000)
                builder.addQuestions(of: view, to: &output)
                for index in 0..<addresses {
                    builder.answer(
                        view.question.name, .v4(IPv4Address(203, 0, 113, UInt8(index & 255))), timeToLive: time,
                        to: &output)
                }
                if let negative {
                    builder.authority(zone: view.question.name.dropping(1), negativeTimeToLive: negative, to: &output)
                }
                if edns { builder.extend(payloadSize: 4096, to: &output) }
                length = builder.finish(&output) ?? 0
            }
        }
        return Array(bytes[..<length])
    }

    /// Whether a message has an OPT record.
    private func hasExtension(_ message: [UInt8]) -> Bool? {
        reading(message) { bytes in
            guard let view = DNSView(bytes) else { return nil }
            return view.extensionRecord != nil
        }
    }

    /// A server that does not know EDNS is asked again without, the same one, and only once. One may answer such a
    /// question with its header alone.
    @Test(arguments: [false, true]) func serversWithoutExtensions(isHeaderAlone: Bool) throws {
        var names = forwarder()
        let first = try #require(
            asked(names.ask(query("x.example", edns: 1232), from: Self.client, now: 0)).first)
        #expect(hasExtension(first.message) == true)
        var refusal = Self.answer(first.message, addresses: 0, code: DNSCode.formatError)
        if isHeaderAlone {
            refusal.removeSubrange(12...)
            refusal[5] = 0
        }
        let retry = names.receive(refusal, for: first.id, now: 1)
        let second = try #require(asked(retry).first)
        #expect(retry.contains(.end(first.id)) && second.server == first.server && second.id != first.id)
        #expect(hasExtension(second.message) == false && !second.overTCP)
        let done = answers(names.receive(Self.answer(second.message), for: second.id, now: 2))
        #expect(read(try #require(done.first))?.data == ["203.0.113.0"])
        // One that says it of a plain question as well has failed.
        let third = try #require(asked(names.ask(query("y.example"), from: Self.client, now: 3)).first)
        let fourth = try #require(
            asked(
                names.receive(
                    Self.answer(third.message, addresses: 0, code: DNSCode.formatError), for: third.id, now: 4)
            ).first)
        let moved = names.receive(
            Self.answer(fourth.message, addresses: 0, code: DNSCode.formatError), for: fourth.id, now: 5)
        #expect(asked(moved).first.map { $0.server != fourth.server } == true)
    }

    @Test func extensionsAreForThoseWhoKnowThem() throws {
        var names = forwarder()
        let first = try #require(asked(names.ask(query("x.example"), from: Self.client, now: 0)).first)
        let done = names.receive(Self.answer(first.message, edns: true), for: first.id, now: 1)
        let plain = try #require(answers(done).first)
        #expect(hasExtension(plain) == false && read(plain)?.data == ["203.0.113.0"] && plain[11] == 0)
        // From memory, for one who knows them.
        let known = answers(names.ask(query("x.example", edns: 1232), from: Self.client, now: 2))
        #expect(hasExtension(try #require(known.first)) == true && names.hits == 1)
    }

    private func forwarder() -> NameForwarder {
        var forwarder = NameForwarder(seed: 1)
        forwarder.setServers(Self.servers)
        return forwarder
    }

    private func asked(_ actions: [NameAction]) -> [(
        id: ExchangeID, server: IPAddress, message: [UInt8], overTCP: Bool
    )] {
        actions.compactMap {
            if case .ask(let id, let server, let message, let overTCP) = $0 {
                (id, server, message, overTCP)
            } else {
                nil
            }
        }
    }

    private func answers(_ actions: [NameAction]) -> [[UInt8]] {
        actions.compactMap { if case .answer(_, let message) = $0 { message } else { nil } }
    }

    @Test func anAnswerIsKept() throws {
        var names = forwarder()
        let second: UInt64 = 1_000_000_000
        let first = try #require(asked(names.ask(query("www.example.com"), from: Self.client, now: 0)).first)
        #expect(first.server == Self.servers[0] && !first.overTCP)
        let done = names.receive(Self.answer(first.message), for: first.id, now: second)
        let message = try #require(answers(done).first)
        #expect(read(message)?.data == ["203.0.113.0"] && message[0] == 0x12 && message[1] == 0x34)
        #expect(done.contains(.end(first.id)) && names.pendingCount == 0)
        // From memory, with the time that is left, until there is none.
        let again = answers(names.ask(query("WWW.example.com", identifier: 7), from: Self.client, now: 31 * second))
        #expect(read(try #require(again.first))?.times == [30])
        #expect(names.hits == 1)
        #expect(!asked(names.ask(query("www.example.com"), from: Self.client, now: 62 * second)).isEmpty)
    }

    @Test func nothingIsKeptToo() throws {
        var names = forwarder()
        let first = try #require(asked(names.ask(query("no.example.com"), from: Self.client, now: 0)).first)
        _ = names.receive(Self.answer(first.message, addresses: 0, code: 3, negative: 20), for: first.id, now: 0)
        let again = answers(names.ask(query("no.example.com"), from: Self.client, now: 5_000_000_000))
        #expect(read(try #require(again.first))?.code == 3)
        #expect(!asked(names.ask(query("no.example.com"), from: Self.client, now: 21_000_000_000)).isEmpty)
    }

    @Test func theNextServerIsAskedSoon() throws {
        var names = forwarder()
        let first = try #require(asked(names.ask(query("x.example"), from: Self.client, now: 0)).first)
        let deadline = try #require(names.deadline)
        #expect(deadline <= 400_000_000)
        let second = try #require(asked(names.advance(now: deadline)).first)
        #expect(second.server == Self.servers[1] && second.id != first.id)
        // Whoever answers first wins; the other one is given up.
        let done = names.receive(Self.answer(second.message), for: second.id, now: deadline + 1)
        #expect(done.contains(.end(first.id)) && answers(done).count == 1)
        #expect(names.receive(Self.answer(first.message), for: first.id, now: deadline + 2).isEmpty)
        // Refusals and failures move on at once, and are answered when nobody is left.
        let third = try #require(asked(names.ask(query("y.example"), from: Self.client, now: 0)).first)
        let moved = names.receive(Self.answer(third.message, addresses: 0, code: 2), for: third.id, now: 1)
        let fourth = try #require(asked(moved).first)
        let end = names.fail(fourth.id, now: 2)
        #expect(read(try #require(answers(end).first))?.code == 2)
    }

    @Test func silenceIsAnsweredInTheEnd() throws {
        var names = forwarder()
        _ = names.ask(query("x.example"), from: Self.client, now: 0)
        var found: [[UInt8]] = []
        var attempts = 1
        while let deadline = names.deadline {
            let actions = names.advance(now: deadline)
            attempts += asked(actions).count
            found += answers(actions)
        }
        #expect(read(try #require(found.first))?.code == DNSCode.serverFailure && found.count == 1 && attempts == 6)
    }

    @Test func truncatedAnswersAreHadOverTCP() throws {
        var names = forwarder()
        let first = try #require(asked(names.ask(query("big.example"), from: Self.client, now: 0)).first)
        let retry = names.receive(Self.answer(first.message, addresses: 0, truncated: true), for: first.id, now: 1)
        let second = try #require(asked(retry).first)
        #expect(second.overTCP && second.server == first.server)
        let done = answers(names.receive(Self.answer(second.message, addresses: 100), for: second.id, now: 2))
        // A datagram takes 512 bytes: the client hears that there is more.
        let message = try #require(done.first)
        #expect(read(message)?.isTruncated == true && message.count < 512)
        let stream = NameClient(endpoint: EndpointID(1), way: .stream(3))
        let whole = try #require(answers(names.ask(query("big.example"), from: stream, now: 3)).first)
        #expect(read(whole)?.data.count == 100)
    }

    @Test func forgeriesAreNotTaken() throws {
        var names = forwarder()
        let first = try #require(asked(names.ask(query("x.example"), from: Self.client, now: 0)).first)
        var wrong = Self.answer(first.message)
        wrong[0] ^= 1
        #expect(names.receive(wrong, for: first.id, now: 1).isEmpty)
        let other = Self.answer(
            query("y.example", identifier: UInt16(first.message[0]) << 8 | UInt16(first.message[1])))
        #expect(names.receive(other, for: first.id, now: 1).isEmpty)
        #expect(names.receive([1, 2], for: first.id, now: 1).isEmpty)
        #expect(names.pendingCount == 1)
    }

    @Test func equalQuestionsAreAskedOnce() throws {
        var names = forwarder()
        let first = try #require(asked(names.ask(query("x.example"), from: Self.client, now: 0)).first)
        for _ in 0..<10 { #expect(names.ask(query("x.example"), from: Self.client, now: 1).isEmpty) }
        #expect(answers(names.receive(Self.answer(first.message), for: first.id, now: 2)).count == 11)
    }

    @Test func floodsAreBounded() {
        var names = forwarder()
        var refused = 0
        for index in 0..<5000 {
            refused += answers(names.ask(query("n\(index).example"), from: Self.client, now: 0)).count
        }
        #expect(names.pendingCount == NameForwarder.pendingLimitOfOne)
        #expect(refused == 5000 - NameForwarder.pendingLimitOfOne)
        // Another machine is still served.
        let other = NameClient(endpoint: EndpointID(2), way: .datagram(isIPv6: true, port: 1))
        #expect(asked(names.ask(query("other.example"), from: other, now: 0)).count == 1)
    }

    @Test func memoryIsBounded() throws {
        var cache = NameCache()
        for index in 0..<20_000 {
            let asked = query("n\(index).example")
            let key = NameCache.Key(question: DNSQuestion(name: name("n\(index).example"), type: 1), options: 0)
            cache.store(Self.answer(asked, addresses: 20), for: key, now: UInt64(index))
            #expect(cache.bytes <= NameCache.byteLimit && cache.count <= NameCache.entryLimit)
        }
        #expect(cache.count > NameCache.entryLimit / 2)
    }

    @Test func resolverConfiguration() {
        let text =
            "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver fe80::1%eth0\nnameserver bad\nnameserver 192.0.2.1\n"
        #expect(
            ResolverConfiguration(Array(text.utf8)).servers == [.v4(v4("192.0.2.1")), .v6(v6("2001:db8::1"))])
        #expect(ResolverConfiguration([]).servers == [.v4(.loopback)])
    }
}
