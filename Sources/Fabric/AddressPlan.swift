// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What the next machine or network gets: functions of what there is, without state of their own.
package enum AddressPlan {
    /// Whether a machine of the network may have the address.
    package static func isUsable(_ address: IPv4Address, in network: Network) -> Bool {
        guard let subnet = network.subnet else { return false }
        return subnet.contains(address) && address != subnet.network && address != subnet.broadcast
            && address != network.gateway
    }

    package static func isUsable(_ address: IPv6Address, in network: Network) -> Bool {
        guard let prefix = network.prefix else { return false }
        // The lowest is every router's (RFC 4291 §2.6.1).
        return prefix.contains(address) && address.low != 0 && address != network.gateway6
    }

    /// The first free address above the one that was given out last, from the lowest again at the end: an address that
    /// was just let go rests for as long as possible.
    /// - Parameter last: the address given out last; nil for none yet.
    /// - Returns: nil when the network is full.
    package static func next(
        in network: Network, after last: IPv4Address?, isTaken: (IPv4Address) -> Bool
    ) -> IPv4Address? {
        guard let subnet = network.subnet else { return nil }
        let low = subnet.network.value + 1
        let high = subnet.broadcast.value - 1
        guard low <= high else { return nil }
        var start = low
        if let last, last.value >= low, last.value < high { start = last.value + 1 }
        var value = start
        repeat {
            let address = IPv4Address(value)
            if isUsable(address, in: network), !isTaken(address) { return address }
            value = value == high ? low : value + 1
        } while value != start
        return nil
    }

    /// The Ethernet address that goes with an IPv4 address: unique wherever that is.
    package static func mac(for address: IPv4Address) -> MACAddress {
        MACAddress(0x024D_0000_0000 | UInt64(address.value))
    }

    /// The address that a machine with this Ethernet address makes by itself.
    package static func ipv6(for mac: MACAddress, in network: Network) -> IPv6Address? {
        network.prefix.map { IPv6Address(high: $0.network.high, low: mac.modifiedEUI64) }
    }

    /// The prefix of a namespace's network: unique local addresses (RFC 4193 §3.2).
    /// - Parameters:
    ///   - identity: 40 random bits of the namespace.
    ///   - number: the network's, 0 to 65,535.
    package static func uniqueLocal(identity: UInt64, number: UInt16) -> IPv6Prefix {
        let high = 0xFD << 56 | (identity & 0xFF_FFFF_FFFF) << 16 | UInt64(number)
        return IPv6Prefix(IPv6Address(high: high, low: 0), length: 64)
    }

    /// The first /24 of 10.77.0.0/16 that no network has yet.
    package static func subnet(besides networks: [Network]) -> IPv4Prefix? {
        for third in 0...255 as ClosedRange<UInt8> {
            let candidate = IPv4Prefix(IPv4Address(10, 77, third, 0), length: 24)
            if !networks.contains(where: { $0.subnet?.overlaps(candidate) ?? false }) { return candidate }
        }
        return nil
    }
}
