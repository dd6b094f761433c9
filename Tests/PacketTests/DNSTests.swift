// SPDX-License-Identifier: Apache-2.0

import Packet
import TestSupport
import Testing

@Suite struct DomainNames {
    @Test func names() throws {
        let name = try #require(DNSName("Db.Example.NET."))
        #expect(name.text == "db.example.net" && name.labelCount == 3)
        #expect(name.array == [2, 100, 98, 7] + Array("example".utf8) + [3] + Array("net".utf8) + [0])
        let net = try #require(DNSName("net"))
        #expect(name.isWithin(net) && name.isWithin(name) && name.isWithin(DNSName()) && !net.isWithin(name))
        #expect(name.begins(with: name) && name.begins(with: DNSName()) && !name.begins(with: net))
        #expect(!net.begins(with: name))
        #expect(!(try #require(DNSName("dbnet"))).isWithin(net))
        #expect(name.dropping(2) == net)
        #expect(DNSName("db")?.appending(try #require(DNSName("example.net"))) == name)
        for wrong in ["", "a..b", ".a", String(repeating: "x", count: 64)] { #expect(DNSName(wrong) == nil) }
        #expect(DNSName(String(repeating: "abc.", count: 64)) == nil)
        #expect(DNSName(String(repeating: "abc.", count: 63)) != nil)
    }

    @Test func reverseNames() {
        let v4 = DNSName(reverse: .v4(IPv4Address(192, 0, 2, 7)))
        #expect(v4.text == "7.2.0.192.in-addr.arpa" && v4.reversedAddress == .v4(IPv4Address(192, 0, 2, 7)))
        let address = IPv6Address(high: 0x2001_0DB8_0000_0000, low: 0x1234_5678_9ABC_DEF0)
        let v6 = DNSName(reverse: .v6(address))
        #expect(v6.text.hasPrefix("0.f.e.d.c.b.a.9.8") && v6.reversedAddress == .v6(address))
        #expect(DNSName("a.2.0.192.in-addr.arpa")?.reversedAddress == nil)
        #expect(DNSName("2.0.192.in-addr.arpa")?.reversedAddress == nil)
    }

    @Test func compression() {
        // "a.b" at 12, then "c" pointing to "b", then a pointer to itself, to after itself, to nowhere.
        let message: [UInt8] =
            [UInt8](repeating: 0, count: 12) + [1, 97, 1, 98, 0] + [1, 99, 0xC0, 14] + [0xC0, 21] + [0xC0, 25] + [
                0xFF, 0xFF,
            ]
        reading(message) { bytes in
            var name = DNSName()
            #expect(name.read(bytes, at: 17) == 21 && name.text == "c.b")
            for place in [21, 23, 25] { #expect(name.read(bytes, at: place) == nil) }
            #expect(name.read(bytes, at: 100) == nil)
        }
        // A long chain of pointers ends, and a name that grows by pointers has its bound.
        var chain: [UInt8] = [UInt8](repeating: 0, count: 12) + [63] + [UInt8](repeating: 97, count: 63) + [0]
        var last = 12
        for _ in 0..<10 {
            let here = chain.count
            chain += [63] + [UInt8](repeating: 97, count: 63) + [0xC0 | UInt8(last >> 8), UInt8(last & 255)]
            last = here
        }
        reading(chain) { bytes in
            var name = DNSName()
            #expect(name.read(bytes, at: last) == nil)
        }
    }

    @Test func answersAreRead() throws {
        let question = DNSQuestion(name: try #require(DNSName("web.net")), type: DNSType.a)
        let query = built(512) { bytes in
            var builder = DNSBuilder(identifier: 77, flags: 0x0100, at: 0, limit: 512)
            builder.add(question, to: &bytes)
            builder.extend(payloadSize: 1232, to: &bytes)
            #expect(builder.finish(&bytes) == 12 + 9 + 4 + 11)
        }
        let target = try #require(DNSName("other.net"))
        let answer = built(600) { bytes in
            reading(Array(query[..<36])) { raw in
                guard let view = DNSView(raw) else {
                    Issue.record("no view")
                    return
                }
                #expect(view.question == question && view.extensionRecord?.payloadSize == 1232)
                let flags = DNSBuilder.answerFlags(view, authoritative: true, code: 0)
                var builder = DNSBuilder(identifier: 77, flags: flags, at: 0, limit: 600)
                builder.addQuestions(of: view, to: &bytes)
                builder.answer(
                    question.name, type: DNSType.cname, pointingTo: target, timeToLive: 5, to: &bytes)
                builder.answer(target, .v4(IPv4Address(10, 0, 0, 9)), timeToLive: 6, to: &bytes)
                builder.answer(target, .v6(.loopback), timeToLive: 6, to: &bytes)
                builder.answer(target, text: [[1, 2, 3]], timeToLive: 6, to: &bytes)
                builder.answer(
                    target, priority: 1, weight: 2, port: 80, target: question.name, timeToLive: 6, to: &bytes)
                #expect(builder.finish(&bytes) != nil)
            }
        }
        reading(answer) { raw in
            guard let view = DNSView(raw) else {
                Issue.record("no view")
                return
            }
            #expect(view.isResponse && view.isAuthoritative && view.answerCount == 5 && view.question == question)
            var records = view.records
            var record = DNSRecord()
            var types: [UInt16] = []
            while records.next(&record) {
                types.append(record.type)
                if record.type == DNSType.cname {
                    var name = DNSName()
                    #expect(name.read(raw, at: record.dataOffset) != nil && name == target)
                } else {
                    #expect(record.name == target)
                }
            }
            #expect(!records.isMalformed && types == [5, 1, 28, 16, 33])
        }
    }

    @Test func whatDoesNotFitIsCut() throws {
        let name = try #require(DNSName("many.net"))
        let message = built(512) { bytes in
            var builder = DNSBuilder(identifier: 1, flags: 0x8180, at: 0, limit: 100)
            builder.add(DNSQuestion(name: name, type: DNSType.a), to: &bytes)
            for index in 0..<50 { builder.answer(name, .v4(IPv4Address(UInt32(index))), timeToLive: 1, to: &bytes) }
            #expect((builder.finish(&bytes) ?? 101) <= 100)
        }
        reading(message) { #expect(DNSView($0)?.isTruncated == true && DNSView($0)?.answerCount == 4) }
    }

    @Test func streams() {
        var random = SeededGenerator(8)
        let messages = (0..<30).map { _ in random.bytes(Int(random.next() % 3000)) }
        let bytes = messages.flatMap { [UInt8($0.count >> 8), UInt8($0.count & 255)] + $0 }
        var stream = DNSStream()
        var found: [[UInt8]] = []
        var position = 0
        while position < bytes.count {
            let end = min(bytes.count, position + Int(random.next() % 700) + 1)
            position += reading(Array(bytes[position..<end])) { stream.append($0) }
            while let message = stream.next() { found.append(message) }
        }
        #expect(found == messages)
    }
}
