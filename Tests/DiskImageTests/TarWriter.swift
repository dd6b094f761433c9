// SPDX-License-Identifier: Apache-2.0

@testable import DiskImage

/// Writes archives for tests, wrong ones too where a test asks for it.
struct TarWriter {
    private(set) var bytes: [UInt8] = []

    struct Header {
        var name: [UInt8]
        var type: UInt8 = UInt8(ascii: "0")
        var mode: UInt64 = 0o644
        var uid: UInt64 = 0
        var gid: UInt64 = 0
        var size: UInt64 = 0
        var modified: Int64 = 0
        var linkTarget: [UInt8] = []
        var major: UInt64 = 0
        var minor: UInt64 = 0
        var magic: [UInt8] = Array("ustar\u{0}00".utf8)

        init(_ name: String, type: Character = "0") {
            self.name = Array(name.utf8)
            self.type = type.asciiValue ?? 0
        }
    }

    /// A header block with a right checksum; `change` may spoil it before that is computed.
    mutating func header(_ header: Header, change: (inout [UInt8]) -> Void = { _ in }) {
        var block = [UInt8](repeating: 0, count: 512)
        func put(_ field: [UInt8], _ start: Int, _ limit: Int) {
            for (index, byte) in field.prefix(limit).enumerated() { block[start + index] = byte }
        }
        func octal(_ value: UInt64, _ start: Int, _ count: Int) {
            let digits = Array(String(value, radix: 8).utf8)
            if digits.count < count {
                put(Array(repeating: 0x30, count: count - 1 - digits.count) + digits, start, count - 1)
            } else {  // GNU's binary form
                for index in 0..<min(8, count) {
                    block[start + count - 1 - index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index))
                }
                block[start] |= 0x80
            }
        }
        put(header.name, 0, 100)
        octal(header.mode, 100, 8)
        octal(header.uid, 108, 8)
        octal(header.gid, 116, 8)
        octal(header.size, 124, 12)
        if header.modified >= 0 {
            octal(UInt64(header.modified), 136, 12)
        } else {
            for index in 0..<12 {
                block[147 - index] = index < 8 ? UInt8(truncatingIfNeeded: header.modified >> Int64(8 * index)) : 0xFF
            }
        }
        block[156] = header.type
        put(header.linkTarget, 157, 100)
        put(header.magic, 257, 8)
        octal(header.major, 329, 8)
        octal(header.minor, 337, 8)
        change(&block)
        for index in 148..<156 { block[index] = 0x20 }
        let sum = block.reduce(0) { $0 + Int($1) }
        let digits = Array(String(sum, radix: 8).utf8)
        put(Array(repeating: 0x30, count: 6 - digits.count) + digits + [0, 0x20], 148, 8)
        bytes += block
    }

    mutating func data(_ data: [UInt8]) {
        bytes += data
        if data.count % 512 != 0 { bytes += [UInt8](repeating: 0, count: 512 - data.count % 512) }
    }

    static func record(_ key: String, _ value: [UInt8]) -> [UInt8] {
        let rest = [0x20] + Array(key.utf8) + [0x3D] + value + [0x0A]
        var length = rest.count + 1
        while String(length).utf8.count + rest.count != length { length = String(length).utf8.count + rest.count }
        return Array(String(length).utf8) + rest
    }

    mutating func pax(_ records: [(String, [UInt8])], type: Character = "x") {
        let body = records.flatMap { Self.record($0.0, $0.1) }
        var header = Header("PaxHeader", type: type)
        header.size = UInt64(body.count)
        self.header(header)
        data(body)
    }

    /// An entry in pax form: what does not fit into the header goes into records.
    mutating func entry(
        _ name: String, type: Character = "0", mode: UInt64 = 0o644, uid: UInt32 = 0, gid: UInt32 = 0,
        modified: Timestamp = Timestamp(), content: [UInt8] = [], target: String = "", major: UInt64 = 0,
        minor: UInt64 = 0, xattrs: [String: [UInt8]] = [:]
    ) {
        var records: [(String, [UInt8])] = []
        if name.utf8.count > 100 { records.append(("path", Array(name.utf8))) }
        if target.utf8.count > 100 { records.append(("linkpath", Array(target.utf8))) }
        if modified.nanoseconds != 0 || modified.seconds < 0 {
            records.append(("mtime", Array(Self.text(modified).utf8)))
        }
        for (name, value) in xattrs.sorted(by: { $0.key < $1.key }) { records.append(("SCHILY.xattr." + name, value)) }
        if uid > 0o7777777 { records.append(("uid", Array("\(uid)".utf8))) }
        if gid > 0o7777777 { records.append(("gid", Array("\(gid)".utf8))) }
        if !records.isEmpty { pax(records) }
        var header = Header(name, type: type)
        header.mode = mode
        header.uid = UInt64(min(uid, 0o7777777))
        header.gid = UInt64(min(gid, 0o7777777))
        header.modified = max(0, modified.seconds)
        header.size = UInt64(content.count)
        header.linkTarget = Array(target.utf8)
        header.major = major
        header.minor = minor
        self.header(header)
        data(content)
    }

    mutating func directory(_ name: String, mode: UInt64 = 0o755) { entry(name, type: "5", mode: mode) }

    /// The archive with its end.
    func finished() -> [UInt8] { bytes + [UInt8](repeating: 0, count: 1024) }

    mutating func append(_ more: [UInt8]) { bytes += more }

    private static func text(_ time: Timestamp) -> String {
        var seconds = time.seconds
        var nanoseconds = time.nanoseconds
        if seconds < 0 && nanoseconds > 0 {
            seconds += 1
            nanoseconds = 1_000_000_000 - nanoseconds
        }
        let digits = String(nanoseconds)
        let sign = time.seconds < 0 && seconds == 0 ? "-" : ""
        return "\(sign)\(seconds)." + String(repeating: "0", count: 9 - digits.count) + digits
    }
}
