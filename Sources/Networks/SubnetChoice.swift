// SPDX-License-Identifier: Apache-2.0

package import Packet

/// Addresses for a network for which none were asked.
package enum SubnetChoice {
    /// The first subnet of `pool` with this length that overlaps none that are taken; nil where there is none.
    package static func next(in pool: IPv4Prefix, length: Int, taken: [IPv4Prefix]) -> IPv4Prefix? {
        guard length >= pool.length, length <= 30 else { return nil }
        let step = UInt64(1) << UInt64(32 - length)
        let end = UInt64(pool.network.value) + UInt64(1) << UInt64(32 - pool.length)
        var next = UInt64(pool.network.value)
        while next < end {
            let candidate = IPv4Prefix(IPv4Address(UInt32(next)), length: length)
            // What is in the way is stepped over whole: the pool may be large and what is taken too.
            guard let obstacle = taken.first(where: { $0.overlaps(candidate) }) else { return candidate }
            let behind = UInt64(obstacle.network.value) + UInt64(1) << UInt64(32 - obstacle.length)
            next = max(next + step, (behind + step - 1) / step * step)
        }
        return nil
    }

    /// Where networks get their subnets from: private addresses (RFC 1918) that few others use.
    package static let pool = IPv4Prefix(IPv4Address(10, 88, 0, 0), length: 13)

    /// A unique local prefix (RFC 4193 §3.2): fd, 40 random bits, a subnet's number of 16.
    package static func uniqueLocal(random: UInt64) -> IPv6Prefix {
        IPv6Prefix(IPv6Address(high: 0xFD << 56 | random & 0x00FF_FFFF_FFFF_FFFF, low: 0), length: 64)
    }
}
