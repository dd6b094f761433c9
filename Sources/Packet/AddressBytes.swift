// SPDX-License-Identifier: Apache-2.0

// Addresses as bytes in the order of the network, for those who store or send them; not for the way of a frame.

extension IPv4Address {
    package var bytes: [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - $0 * 8)) } }
}

extension IPv6Address {
    package var bytes: [UInt8] {
        (0..<16).map { index in
            UInt8(truncatingIfNeeded: (index < 8 ? high : low) >> UInt64(56 - index % 8 * 8))
        }
    }
}

extension MACAddress {
    package var bytes: [UInt8] { (0..<6).map { UInt8(truncatingIfNeeded: value >> UInt64(40 - $0 * 8)) } }
}
