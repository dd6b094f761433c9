// SPDX-License-Identifier: Apache-2.0

internal import Packet
internal import Platform

/// The host's routes, as the kernel lists them: where an address is reached, and which addresses are taken.
struct HostRoutes: Equatable, Sendable {
    struct Route<Prefix: Equatable & Sendable>: Equatable, Sendable {
        var prefix: Prefix
        var device: String
    }

    private(set) var v4: [Route<IPv4Prefix>] = []
    private(set) var v6: [Route<IPv6Prefix>] = []

    /// Reads those of the calling thread's network namespace.
    init() throws(HostNetworkError) {
        func read(_ name: String) throws(HostNetworkError) -> [UInt8] {
            try hostNetwork("the host's routes") { () throws(SystemError) in
                try Files.read("/proc/thread-self/net/\(name)", limit: 64 << 20)
            }
        }
        self.init(ipv4: try read("route"), ipv6: (try? read("ipv6_route")) ?? [])
    }

    /// - Parameters:
    ///   - ipv4: /proc/net/route: device, destination, gateway, flags, three more, mask; addresses in the processor's
    ///     byte order.
    ///   - ipv6: /proc/net/ipv6_route: destination, its length, six more, flags, device.
    init(ipv4: [UInt8], ipv6: [UInt8]) {
        for line in ipv4.split(separator: 10).dropFirst() {
            let words = line.split { $0 == 9 || $0 == 32 }.map { String(decoding: $0, as: UTF8.self) }
            guard words.count >= 8, let destination = UInt32(words[1], radix: 16),
                let flags = UInt32(words[3], radix: 16),
                let mask = UInt32(words[7], radix: 16), Self.isUsed(flags)
            else { continue }
            let prefix = IPv4Prefix(
                IPv4Address(destination.byteSwapped), length: mask.byteSwapped.nonzeroBitCount)
            v4.append(Route(prefix: prefix, device: words[0]))
        }
        for line in ipv6.split(separator: 10) {
            let words = line.split(separator: 32).map { String(decoding: $0, as: UTF8.self) }
            guard words.count >= 10, words[0].utf8.count == 32, let length = Int(words[1], radix: 16),
                let high = UInt64(words[0].prefix(16), radix: 16), let low = UInt64(words[0].suffix(16), radix: 16),
                let flags = UInt32(words[8], radix: 16), Self.isUsed(flags), words[9] != "lo"
            else { continue }
            v6.append(
                Route(prefix: IPv6Prefix(IPv6Address(high: high, low: low), length: length), device: words[9]))
        }
    }

    /// Up (RTF_UP) and no refusal (RTF_REJECT).
    private static func isUsed(_ flags: UInt32) -> Bool { flags & 0x1 != 0 && flags & 0x200 == 0 }

    /// The device of the narrowest route that an address falls into.
    func device(to address: IPv4Address) -> String? {
        v4.filter { $0.prefix.contains(address) }.max { $0.prefix.length < $1.prefix.length }?.device
    }

    func device(to address: IPv6Address) -> String? {
        v6.filter { $0.prefix.contains(address) }.max { $0.prefix.length < $1.prefix.length }?.device
    }

    /// Where everything else goes.
    var defaultDevice: String? {
        v4.first { $0.prefix.length == 0 }?.device ?? v6.first { $0.prefix.length == 0 }?.device
    }

    /// What other networks have.
    var taken: [IPv4Prefix] { v4.map(\.prefix).filter { $0.length > 0 } }
}
