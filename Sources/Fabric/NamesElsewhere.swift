// SPDX-License-Identifier: Apache-2.0

package import Packet

/// What a machine that is in other networks too has other name servers for. Its resolver takes a server's word that a name
/// does not exist, and goes to the next one only where a server refuses to say; so this network's server refuses what is
/// for another's.
package struct NamesElsewhere: Equatable, Sendable {
    /// The other networks' names, below which their machines have theirs.
    package var domains: [DNSName] = []
    package var subnets: [IPv4Prefix] = []
    package var prefixes: [IPv6Prefix] = []
    /// What no network of the machine's owns is this one's to answer or to pass on; otherwise it is refused too.
    package var hasLastWord = false

    package init() {}

    /// How many labels the longest of the other networks' names has that the name is, or is below; 0 for none.
    func depth(of name: DNSName) -> Int {
        domains.reduce(0) { name == $1 || name.isWithin($1) ? max($0, $1.labelCount) : $0 }
    }

    func contains(_ address: IPAddress) -> Bool {
        switch address {
        case .v4(let address): subnets.contains { $0.contains(address) }
        case .v6(let address): prefixes.contains { $0.contains(address) }
        }
    }
}
