// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// What upstream servers answered, for as long as they said. Bounded in entries and in bytes; when full, the entries that
/// would be forgotten next go first.
struct NameCache {
    struct Key: Hashable {
        let question: DNSQuestion
        /// Whether the client asked for signatures, and for answers that were not validated: those differ.
        let options: UInt8
    }

    private struct Entry {
        let message: [UInt8]
        let stored: UInt64
        let expires: UInt64
        /// Where times to live lie in the message, and what they were.
        let times: [(offset: Int, seconds: UInt32)]
    }

    static let entryLimit = 4096
    static let byteLimit = 4 << 20
    static let longestInSeconds: UInt32 = 3600
    static let longestNegativeInSeconds: UInt32 = 300

    private var entries: [Key: Entry] = [:]
    private(set) var bytes = 0

    var count: Int { entries.count }

    /// The answer, its times to live counted down; nil where there is none that holds.
    mutating func find(_ key: Key, now: UInt64) -> [UInt8]? {
        guard let entry = entries[key] else { return nil }
        guard entry.expires > now else {
            remove(key)
            return nil
        }
        let age = UInt32(clamping: (now - entry.stored) / 1_000_000_000)
        var message = entry.message
        for time in entry.times {
            let rest = time.seconds > age ? time.seconds - age : 0
            for index in 0..<4 {
                message[time.offset + index] = UInt8(truncatingIfNeeded: rest >> UInt32(24 - index * 8))
            }
        }
        return message
    }

    /// Keeps an answer, unless it says nothing about how long.
    mutating func store(_ message: [UInt8], for key: Key, now: UInt64) {
        let span = message.span
        guard let view = DNSView(unsafe span.bytes), view.isResponse, !view.isTruncated,
            view.code == DNSCode.noError || view.code == DNSCode.noSuchName
        else { return }
        var least: UInt32?
        var negative: UInt32?
        var hasAnswer = false
        var times: [(Int, UInt32)] = []
        var records = view.records
        var record = DNSRecord()
        while records.next(&record) {
            guard record.type != DNSType.opt else { continue }
            times.append((record.timeToLiveOffset, record.timeToLive))
            least = min(least ?? record.timeToLive, record.timeToLive)
            if record.section == .answer, record.type == key.question.type || key.question.type == DNSType.any {
                hasAnswer = true
            }
            if record.section == .authority, record.type == DNSType.soa, record.dataLength >= 22 {
                // RFC 2308 §5: the least of the record's own time and its last field.
                let minimum = view.bytes.u32(record.dataOffset + record.dataLength - 4)
                negative = min(record.timeToLive, minimum, NameCache.longestNegativeInSeconds)
            }
        }
        guard !records.isMalformed else { return }
        let holds = hasAnswer && view.code == DNSCode.noError ? least : negative.map { min($0, least ?? $0) }
        guard let seconds = holds.map({ min($0, NameCache.longestInSeconds) }), seconds > 0 else { return }
        remove(key)
        guard message.count <= NameCache.byteLimit / 16 else { return }
        if entries.count >= NameCache.entryLimit || bytes + message.count > NameCache.byteLimit { makeRoom() }
        bytes += message.count
        entries[key] = Entry(
            message: message, stored: now, expires: now &+ UInt64(seconds) &* 1_000_000_000, times: times)
    }

    private mutating func remove(_ key: Key) {
        if let old = entries.removeValue(forKey: key) { bytes -= old.message.count }
    }

    /// Forgets an eighth of all, those that would be forgotten first: seldom, so that it costs little each time.
    private mutating func makeRoom() {
        let order = entries.sorted { $0.value.expires < $1.value.expires }
        for (key, _) in order.prefix(max(1, entries.count / 8)) { remove(key) }
        while bytes > NameCache.byteLimit / 8 * 7, let key = entries.keys.first { remove(key) }
    }
}
