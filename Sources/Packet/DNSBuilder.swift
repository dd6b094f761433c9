// SPDX-License-Identifier: Apache-2.0

/// Builds a DNS message into a caller's buffer: the header, questions, then answers, authority, additional, in this
/// order.
package struct DNSBuilder: Sendable {
    private let start: Int
    private var cursor: OutputCursor
    private var counts: (questions: UInt16, answers: UInt16, authority: UInt16, additional: UInt16) = (0, 0, 0, 0)
    private var flags: UInt16
    private let identifier: UInt16
    /// The first question's name, which others point to.
    private var base: DNSName?

    /// Begins a message at an offset.
    /// - Parameters:
    ///   - limit: the most bytes that the message may have.
    ///   - flags: the header's second word (RFC 1035 §4.1.1).
    package init(identifier: UInt16, flags: UInt16, at offset: Int, limit: Int) {
        start = offset
        self.identifier = identifier
        self.flags = flags
        cursor = OutputCursor(
            from: offset + DNSView.headerLength, to: max(offset + DNSView.headerLength, offset + limit))
    }

    /// The flags of an answer to a query.
    package static func answerFlags(_ query: borrowing DNSView, authoritative: Bool, code: UInt8) -> UInt16 {
        0x8080 | (query.recursionDesired ? 0x0100 : 0) | (query.checkingDisabled ? 0x0010 : 0)
            | (authoritative ? 0x0400 : 0) | UInt16(query.operation) << 11 | UInt16(code)
    }

    package mutating func add(_ question: DNSQuestion, to bytes: inout MutableRawSpan) {
        question.name.write(to: &bytes, at: &cursor)
        cursor.put(question.type, to: &bytes)
        cursor.put(question.recordClass, to: &bytes)
        counts.questions += 1
        if base == nil { base = question.name }
    }

    /// Repeats a query's questions byte by byte, upper case letters as they are (draft-vixie-dnsext-dns0x20).
    package mutating func addQuestions(of query: borrowing DNSView, to bytes: inout MutableRawSpan) {
        cursor.put(query.questionBytes, to: &bytes)
        counts.questions = UInt16(query.questionCount)
        if query.questionCount > 0 { base = query.question.name }
    }

    /// Writes a name, pointing to as much of its end as the first question's name has.
    private mutating func put(_ name: DNSName, to bytes: inout MutableRawSpan) {
        guard let base else { return name.write(to: &bytes, at: &cursor) }
        let labels = name.labelCount
        for dropped in 0..<labels {
            let rest = name.dropping(dropped)
            guard base.isWithin(rest) else { continue }
            let kept = name.count - rest.count
            guard cursor.reserve(kept + 2) else { return }
            for index in 0..<kept { cursor.put(name[index], to: &bytes) }
            cursor.put(0xC000 | UInt16(DNSView.headerLength + base.count - rest.count), to: &bytes)
            return
        }
        name.write(to: &bytes, at: &cursor)
    }

    private mutating func record(
        _ name: DNSName, _ type: UInt16, _ timeToLive: UInt32, to bytes: inout MutableRawSpan,
        _ data: (inout DNSBuilder, inout MutableRawSpan) -> Void
    ) -> Bool {
        let before = cursor
        put(name, to: &bytes)
        cursor.put(type, to: &bytes)
        cursor.put(1 as UInt16, to: &bytes)
        cursor.put(timeToLive, to: &bytes)
        cursor.put(0 as UInt16, to: &bytes)
        let dataStart = cursor.position
        data(&self, &bytes)
        guard !cursor.overflowed else {
            // What does not fit is cut off at a record's border, and said (RFC 2181 §9).
            cursor = before
            flags |= 0x0200
            return false
        }
        bytes.put(UInt16(truncatingIfNeeded: cursor.position - dataStart), at: dataStart - 2)
        return true
    }

    /// Adds an address as an answer.
    package mutating func answer(
        _ name: DNSName, _ address: IPAddress, timeToLive: UInt32, to bytes: inout MutableRawSpan
    ) {
        let done =
            switch address {
            case .v4(let address):
                record(name, DNSType.a, timeToLive, to: &bytes) { $0.cursor.put(address, to: &$1) }
            case .v6(let address):
                record(name, DNSType.aaaa, timeToLive, to: &bytes) { $0.cursor.put(address, to: &$1) }
            }
        if done { counts.answers += 1 }
    }

    /// Adds a name as an answer: of type PTR, CNAME or NS.
    package mutating func answer(
        _ name: DNSName, type: UInt16, pointingTo target: DNSName, timeToLive: UInt32, to bytes: inout MutableRawSpan
    ) {
        if record(name, type, timeToLive, to: &bytes, { $0.put(target, to: &$1) }) { counts.answers += 1 }
    }

    /// Adds a service's place as an answer (RFC 2782).
    package mutating func answer(
        _ name: DNSName, priority: UInt16, weight: UInt16, port: UInt16, target: DNSName, timeToLive: UInt32,
        to bytes: inout MutableRawSpan
    ) {
        let done = record(name, DNSType.srv, timeToLive, to: &bytes) { builder, bytes in
            builder.cursor.put(priority, to: &bytes)
            builder.cursor.put(weight, to: &bytes)
            builder.cursor.put(port, to: &bytes)
            target.write(to: &bytes, at: &builder.cursor)
        }
        if done { counts.answers += 1 }
    }

    /// Adds text as an answer: strings of at most 255 bytes each.
    package mutating func answer(
        _ name: DNSName, text: [[UInt8]], timeToLive: UInt32, to bytes: inout MutableRawSpan
    ) {
        let done = record(name, DNSType.txt, timeToLive, to: &bytes) { builder, bytes in
            for string in text {
                builder.cursor.put(UInt8(truncatingIfNeeded: min(255, string.count)), to: &bytes)
                builder.cursor.put(Array(string.prefix(255)), to: &bytes)
            }
        }
        if done { counts.answers += 1 }
    }

    /// Says how long it may be remembered that there is nothing (RFC 2308 §3).
    package mutating func authority(zone: DNSName, negativeTimeToLive: UInt32, to bytes: inout MutableRawSpan) {
        let done = record(zone, DNSType.soa, negativeTimeToLive, to: &bytes) { builder, bytes in
            builder.put(zone, to: &bytes)
            builder.put(zone, to: &bytes)
            for value in [1, 3600, 600, 86_400, negativeTimeToLive] as [UInt32] {
                builder.cursor.put(value, to: &bytes)
            }
        }
        if done { counts.authority += 1 }
    }

    /// Adds an OPT record (RFC 6891).
    package mutating func extend(payloadSize: UInt16, wantsDNSSEC: Bool = false, to bytes: inout MutableRawSpan) {
        guard cursor.reserve(11) else { return }
        cursor.put(0 as UInt8, to: &bytes)
        cursor.put(DNSType.opt, to: &bytes)
        cursor.put(payloadSize, to: &bytes)
        cursor.put(wantsDNSSEC ? 0x8000 : 0 as UInt32, to: &bytes)
        cursor.put(0 as UInt16, to: &bytes)
        counts.additional += 1
    }

    package mutating func setCode(_ code: UInt8) { flags = flags & 0xFFF0 | UInt16(code & 15) }

    /// Writes the header.
    /// - Returns: the message's length; nil where not even the questions fit.
    package func finish(_ bytes: inout MutableRawSpan) -> Int? {
        guard !cursor.overflowed else { return nil }
        bytes.put(identifier, at: start)
        bytes.put(flags, at: start + 2)
        bytes.put(counts.questions, at: start + 4)
        bytes.put(counts.answers, at: start + 6)
        bytes.put(counts.authority, at: start + 8)
        bytes.put(counts.additional, at: start + 10)
        return cursor.position - start
    }
}

/// Messages of DNS over TCP (RFC 1035 §4.2.2): each after its length, put together from the stream's pieces.
package struct DNSStream: Sendable {
    /// More bytes than one message that was not taken yet are refused.
    package static let limit = 2 + 65_535
    private var buffer: [UInt8] = []

    package init() {}

    /// Adds what came; gives how many of the bytes were taken, fewer than all until `next` makes room.
    package mutating func append(_ bytes: RawSpan) -> Int {
        let count = min(bytes.byteCount, DNSStream.limit - buffer.count)
        for index in 0..<count { buffer.append(bytes.byte(index)) }
        return count
    }

    /// Takes the next whole message, or gives nil.
    package mutating func next() -> [UInt8]? {
        guard buffer.count >= 2 else { return nil }
        let length = Int(buffer[0]) << 8 | Int(buffer[1])
        guard buffer.count >= 2 + length else { return nil }
        let message = Array(buffer[2..<(2 + length)])
        buffer.removeFirst(2 + length)
        return message
    }
}
