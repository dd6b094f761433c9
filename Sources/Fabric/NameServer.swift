// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What becomes of a question.
package enum NameOutcome: Equatable, Sendable {
    /// The answer, so many bytes long, is written.
    case answered(Int)
    /// Nobody here knows: ask the host's servers.
    case forward
    /// No question at all; nothing is said.
    case ignored
}

/// Answers for a network's own names, as a function of the table: machines' names and aliases, alone and below the
/// network's name, and the addresses' names. A question about these is never asked upstream, whether it has an answer or
/// not: a name of one label, a name below the network's name or that of another network of the user's, an address of
/// their subnets, and what is special everywhere.
package enum NameServer {
    /// In seconds: machines come and go.
    package static let timeToLive: UInt32 = 5
    package static let negativeTimeToLive: UInt32 = 5
    /// What fits into a datagram on every path (DNS flag day 2020); here it is what we say and keep to.
    package static let datagramLimit = 1232

    /// - Parameters:
    ///   - message: the query.
    ///   - elsewhere: what other name servers the machine has that asks; nil where this is its only one.
    ///   - foreign: the user's other networks; what is theirs does not exist for a machine that is in none of them.
    ///   - denied: what the machine that asks was told does not exist; what it is told now is noted.
    ///   - now: in nanoseconds.
    ///   - turn: counts the questions: machines that share an alias are told in another order each time.
    ///   - overTCP: an answer has up to 65,535 bytes; over UDP as many as the client takes.
    package static func answer(
        _ message: RawSpan, network: Int, table: EndpointTable, elsewhere: NamesElsewhere? = nil,
        foreign: ForeignNames = ForeignNames(), denied: inout DeniedNames, now: UInt64, turn: Int = 0, overTCP: Bool,
        to bytes: inout MutableRawSpan, at offset: Int
    ) -> NameOutcome {
        guard let query = DNSView(message), !query.isResponse, network < table.networks.count else { return .ignored }
        let edns = query.extensionRecord
        let limit = overTCP ? 65_535 : datagramSize(edns)
        func refuse(_ code: UInt8, _ bytes: inout MutableRawSpan) -> NameOutcome {
            var builder = DNSBuilder(
                identifier: query.identifier,
                flags: DNSBuilder.answerFlags(query, authoritative: false, code: code), at: offset, limit: limit)
            builder.addQuestions(of: query, to: &bytes)
            return builder.finish(&bytes).map { .answered($0) } ?? .ignored
        }
        guard query.operation == 0 else { return refuse(DNSCode.notImplemented, &bytes) }
        guard query.questionCount == 1, query.answerCount == 0 else { return refuse(DNSCode.formatError, &bytes) }
        if let edns, edns.version != 0 { return refuse(DNSCode.formatError, &bytes) }
        let question = query.question
        guard question.recordClass == 1 || question.recordClass == 255 else { return refuse(DNSCode.refused, &bytes) }
        // Zone transfers are for nobody.
        guard question.type != 251, question.type != 252 else { return refuse(DNSCode.refused, &bytes) }

        var found = resolve(question, network, table, elsewhere, foreign, turn)
        switch found {
        case .elsewhere:
            guard denied.cover(question.name, now: now) else { return .forward }
            found = .missing
        case .missing: denied.note(question.name, now: now)
        case .anotherServer: return refuse(DNSCode.refused, &bytes)
        default: break
        }
        var builder = DNSBuilder(
            identifier: query.identifier,
            flags: DNSBuilder.answerFlags(
                query, authoritative: true, code: found.isMissing ? DNSCode.noSuchName : DNSCode.noError),
            at: offset, limit: limit)
        builder.addQuestions(of: query, to: &bytes)
        var isEmpty = true
        switch found {
        case .addresses(let v4, let v6):
            for address in v4 where question.type == DNSType.a || question.type == DNSType.any {
                builder.answer(question.name, .v4(address), timeToLive: timeToLive, to: &bytes)
                isEmpty = false
            }
            for address in v6 where question.type == DNSType.aaaa || question.type == DNSType.any {
                builder.answer(question.name, .v6(address), timeToLive: timeToLive, to: &bytes)
                isEmpty = false
            }
        case .name(let target):
            if question.type == DNSType.ptr || question.type == DNSType.any {
                builder.answer(
                    question.name, type: DNSType.ptr, pointingTo: target, timeToLive: timeToLive, to: &bytes)
                isEmpty = false
            }
        case .nothing, .missing, .elsewhere, .anotherServer: break
        }
        if isEmpty {
            builder.authority(
                zone: table.networks[network].domain, negativeTimeToLive: negativeTimeToLive, to: &bytes)
        }
        if edns != nil { builder.extend(payloadSize: UInt16(datagramLimit), to: &bytes) }
        return builder.finish(&bytes).map { .answered($0) } ?? .ignored
    }

    /// Says that a name does not exist, to a machine that may not ask for it.
    package static func deny(_ message: RawSpan, to bytes: inout MutableRawSpan, at offset: Int) -> Int? {
        guard let query = DNSView(message) else { return nil }
        var builder = DNSBuilder(
            identifier: query.identifier,
            flags: DNSBuilder.answerFlags(query, authoritative: false, code: DNSCode.noSuchName), at: offset,
            limit: 512)
        builder.addQuestions(of: query, to: &bytes)
        return builder.finish(&bytes)
    }

    /// The longest answer that a client takes in a datagram.
    package static func datagramSize(_ edns: DNSExtension?) -> Int {
        min(datagramLimit, max(512, Int(edns?.payloadSize ?? 512)))
    }

    private enum Found {
        case addresses([IPv4Address], [IPv6Address])
        case name(DNSName)
        /// The name exists and has no record of any type.
        case nothing
        case missing
        case elsewhere
        /// The machine that asks has another server for this.
        case anotherServer

        var isMissing: Bool { if case .missing = self { true } else { false } }
    }

    private static func resolve(
        _ question: DNSQuestion, _ network: Int, _ table: EndpointTable, _ elsewhere: NamesElsewhere?,
        _ foreign: ForeignNames, _ turn: Int
    ) -> Found {
        let name = question.name
        let link = table.networks[network]
        let domain = link.domain
        if let found = machine(name, network, table, turn) { return found }
        let isOwn = name == domain || name.isWithin(domain)
        if let elsewhere, elsewhere.depth(of: name) > (isOwn ? domain.labelCount : 0) { return .anotherServer }
        if name == domain { return .nothing }
        if name.isWithin(domain) {
            let own = name.labelCount - domain.labelCount
            guard let inner = prefix(of: name, labels: own) else { return .missing }
            return machine(inner, network, table, turn) ?? .missing
        }
        if let special = special(name) { return special }
        let address = name.isWithin(ipv4Reverse) || name.isWithin(ipv6Reverse) ? name.reversedAddress : nil
        if let address {
            if let found = reverse(address, network, table) { return found }
            if let elsewhere, elsewhere.contains(address) { return .anotherServer }
        }
        if let elsewhere, !elsewhere.hasLastWord { return .anotherServer }
        if foreign.own(name) { return .missing }
        if let address, foreign.own(address) { return .missing }
        if name.labelCount <= 1, !name.isRoot { return .missing }
        return link.isInternal ? .missing : .elsewhere
    }

    /// The addresses of machines, or the gateway's, by a name relative to the network.
    private static func machine(_ name: DNSName, _ network: Int, _ table: EndpointTable, _ turn: Int) -> Found? {
        let sharers = table.endpoints(named: name, in: network)
        if !sharers.isEmpty {
            let first = Int(UInt(bitPattern: turn) % UInt(sharers.count))
            let inTurn = (sharers[first...] + sharers[..<first]).map { table.endpoints[$0] }
            return .addresses(inTurn.compactMap(\.ipv4), inTurn.compactMap(\.ipv6))
        }
        let link = table.networks[network]
        guard name == gatewayName else { return nil }
        return .addresses(link.subnet == nil ? [] : [link.gateway], link.gateway6.map { [$0] } ?? [])
    }

    /// The gateway's name, unless a machine has it.
    private static let gatewayName = DNSName("gateway") ?? DNSName()
    private static let ipv4Reverse = DNSName("in-addr.arpa") ?? DNSName()
    private static let ipv6Reverse = DNSName("ip6.arpa") ?? DNSName()
    private static let localhost = DNSName("localhost") ?? DNSName()
    /// Never asked of a server: RFC 6761 (invalid), RFC 6762 (local), RFC 7686 (onion).
    private static let neverGlobal = ["invalid", "local", "onion"].compactMap { DNSName($0) }

    private static func special(_ name: DNSName) -> Found? {
        if name.isWithin(localhost) { return .addresses([.loopback], [.loopback]) }
        for zone in neverGlobal where name.isWithin(zone) { return .missing }
        return nil
    }

    /// The name of an address; nil for one that is none of the network's.
    private static func reverse(_ address: IPAddress, _ network: Int, _ table: EndpointTable) -> Found? {
        let link = table.networks[network]
        let index: Int?
        switch address {
        case .v4(let address):
            if address == link.gateway { return .name(gatewayName.appending(link.domain) ?? gatewayName) }
            guard link.subnet?.contains(address) ?? false || address.isLinkLocal || address.isLoopback else {
                return nil
            }
            index = table.endpoint(address, in: network)
        case .v6(let address):
            if address == link.gateway6 { return .name(gatewayName.appending(link.domain) ?? gatewayName) }
            guard link.prefix?.contains(address) ?? false || address.isLinkLocal || address.isLoopback else {
                return nil
            }
            index = table.endpoint(address, in: network)
        }
        guard let index, let own = DNSName(table.endpoints[index].name), let full = own.appending(link.domain) else {
            return .missing
        }
        return .name(full)
    }

    /// The first labels of a name.
    private static func prefix(of name: DNSName, labels: Int) -> DNSName? {
        var bytes: [UInt8] = []
        var position = 0
        for _ in 0..<labels {
            let length = Int(name[position])
            for index in 0...length { bytes.append(name[position + index]) }
            position += 1 + length
        }
        bytes.append(0)
        var result = DNSName()
        let span = bytes.span
        guard result.read(unsafe span.bytes, at: 0) != nil else { return nil }
        return result
    }
}
