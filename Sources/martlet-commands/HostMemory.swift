// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// What this host has.
enum HostMemory {
    /// In bytes; nil where the system does not say.
    static func total() -> UInt64? {
        guard let bytes = try? Files.read("/proc/meminfo", limit: 65_536),
            let line = bytes.split(separator: UInt8(ascii: "\n")).first(where: {
                $0.starts(with: Array("MemTotal:".utf8))
            })
        else { return nil }
        let digits = line.filter { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        return UInt64(String(decoding: digits, as: UTF8.self)).map { $0 * 1024 }
    }
}
