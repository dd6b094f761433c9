// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What of the host's /etc/resolv.conf (resolv.conf(5)) matters here: whom to ask.
package struct ResolverConfiguration: Equatable, Sendable {
    package var servers: [IPAddress] = []

    /// Reads the file's text; what is not understood is passed over.
    package init(_ text: [UInt8]) {
        for line in text.prefix(65_536).split(separator: 10) {
            let words = line.split { $0 == 32 || $0 == 9 || $0 == 13 }
            guard words.count >= 2, words[0].elementsEqual("nameserver".utf8) else { continue }
            // A zone (fe80::1%eth0) has no meaning without its interface.
            let word = words[1].prefix { $0 != UInt8(ascii: "%") }
            guard let address = IPAddress(String(decoding: word, as: UTF8.self)), !servers.contains(address) else {
                continue
            }
            if case .v6(let six) = address, six.isLinkLocal { continue }
            servers.append(address)
        }
        // What the C library asks when nobody is named.
        if servers.isEmpty { servers = [.v4(.loopback)] }
    }
}
