// SPDX-License-Identifier: Apache-2.0

/// Types of DNS records (IANA).
package enum DNSType {
    package static let a: UInt16 = 1
    package static let ns: UInt16 = 2
    package static let cname: UInt16 = 5
    package static let soa: UInt16 = 6
    package static let ptr: UInt16 = 12
    package static let txt: UInt16 = 16
    package static let aaaa: UInt16 = 28
    package static let srv: UInt16 = 33
    package static let opt: UInt16 = 41
    package static let any: UInt16 = 255
}

/// Answers' codes (RFC 1035 §4.1.1).
package enum DNSCode {
    package static let noError: UInt8 = 0
    package static let formatError: UInt8 = 1
    package static let serverFailure: UInt8 = 2
    package static let noSuchName: UInt8 = 3
    package static let notImplemented: UInt8 = 4
    package static let refused: UInt8 = 5
}

/// A question of a message.
package struct DNSQuestion: Hashable, Sendable {
    package var name = DNSName()
    package var type: UInt16 = 0
    package var recordClass: UInt16 = 0

    package init() {}
    package init(name: DNSName, type: UInt16, recordClass: UInt16 = 1) {
        self.name = name
        self.type = type
        self.recordClass = recordClass
    }
}

/// A record's place in a message.
package struct DNSRecord: Sendable {
    package enum Section: Sendable { case answer, authority, additional }
    package var section: Section = .answer
    package var name = DNSName()
    package var type: UInt16 = 0
    package var recordClass: UInt16 = 0
    /// In seconds, at most 2^31 − 1 (RFC 2181 §8).
    package var timeToLive: UInt32 = 0
    /// Where the time to live lies in the message.
    package var timeToLiveOffset = 0
    package var dataOffset = 0
    package var dataLength = 0

    package init() {}
}

/// What the OPT record says (RFC 6891 §6.1).
package struct DNSExtension: Equatable, Sendable {
    /// The longest answer over UDP; below 512 counts as 512.
    package var payloadSize: UInt16
    package var version: UInt8
    package var wantsDNSSEC: Bool
}

/// A DNS message (RFC 1035 §4): the header is there, and the first question if it has any.
package struct DNSView: ~Escapable {
    package static let headerLength = 12
    package let bytes: RawSpan
    /// Behind the questions.
    package let recordsOffset: Int
    /// The first question; its name is the root where there is none.
    package let question: DNSQuestion

    /// Nil where the header or a question is not whole, or where there are more than 8 questions.
    @_lifetime(copy bytes)
    package init?(_ bytes: RawSpan) {
        guard bytes.byteCount >= DNSView.headerLength, bytes.byteCount <= 65_535 else { return nil }
        let count = Int(bytes.u16(4))
        guard count <= 8 else { return nil }
        var position = DNSView.headerLength
        var first = DNSQuestion()
        for index in 0..<count {
            var name = DNSName()
            guard let after = name.read(bytes, at: position), bytes.byteCount - after >= 4 else { return nil }
            if index == 0 {
                first = DNSQuestion(name: name, type: bytes.u16(after), recordClass: bytes.u16(after + 2))
            }
            position = after + 4
        }
        self.bytes = bytes
        recordsOffset = position
        question = first
    }

    package var identifier: UInt16 { bytes.u16(0) }
    package var isResponse: Bool { bytes.byte(2) & 0x80 != 0 }
    package var operation: UInt8 { bytes.byte(2) >> 3 & 15 }
    package var isAuthoritative: Bool { bytes.byte(2) & 4 != 0 }
    package var isTruncated: Bool { bytes.byte(2) & 2 != 0 }
    package var recursionDesired: Bool { bytes.byte(2) & 1 != 0 }
    package var checkingDisabled: Bool { bytes.byte(3) & 0x10 != 0 }
    package var code: UInt8 { bytes.byte(3) & 15 }
    package var questionCount: Int { Int(bytes.u16(4)) }
    package var answerCount: Int { Int(bytes.u16(6)) }
    /// The questions as they are in the message.
    package var questionBytes: RawSpan {
        @_lifetime(copy self) get { bytes.slice(DNSView.headerLength, recordsOffset - DNSView.headerLength) }
    }

    package var records: DNSRecords { @_lifetime(copy self) get { DNSRecords(self) } }

    /// What the OPT record says, if there is one.
    package var extensionRecord: DNSExtension? {
        var records = records
        var record = DNSRecord()
        while records.next(&record) {
            guard record.section == .additional, record.type == DNSType.opt, record.name.isRoot else { continue }
            let flags = bytes.u32(record.timeToLiveOffset)
            return DNSExtension(
                payloadSize: record.recordClass, version: UInt8(truncatingIfNeeded: flags >> 16),
                wantsDNSSEC: flags & 0x8000 != 0)
        }
        return nil
    }
}

/// The records of a message, one after the other.
package struct DNSRecords: ~Escapable {
    private let bytes: RawSpan
    private var position: Int
    private var left: (Int, Int, Int)
    /// A record was not whole: the message must be refused.
    package private(set) var isMalformed = false

    @_lifetime(copy view)
    init(_ view: borrowing DNSView) {
        bytes = view.bytes
        position = view.recordsOffset
        left = (Int(bytes.u16(6)), Int(bytes.u16(8)), Int(bytes.u16(10)))
    }

    /// Reads the next record; false at the end and where the rest is malformed.
    @_lifetime(self: copy self)
    package mutating func next(_ record: inout DNSRecord) -> Bool {
        guard !isMalformed else { return false }
        if left.0 > 0 {
            left.0 -= 1
            record.section = .answer
        } else if left.1 > 0 {
            left.1 -= 1
            record.section = .authority
        } else if left.2 > 0 {
            left.2 -= 1
            record.section = .additional
        } else {
            return false
        }
        guard let after = record.name.read(bytes, at: position), bytes.byteCount - after >= 10 else {
            isMalformed = true
            return false
        }
        let length = Int(bytes.u16(after + 8))
        guard length <= bytes.byteCount - after - 10 else {
            isMalformed = true
            return false
        }
        record.type = bytes.u16(after)
        record.recordClass = bytes.u16(after + 2)
        let time = bytes.u32(after + 4)
        record.timeToLive = time > UInt32(Int32.max) ? 0 : time
        record.timeToLiveOffset = after + 4
        record.dataOffset = after + 10
        record.dataLength = length
        position = after + 10 + length
        return true
    }
}
