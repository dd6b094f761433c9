// SPDX-License-Identifier: Apache-2.0

package import Platform

/// What can be wrong with a change of the table, or with what the fabric runs on.
package enum FabricError: Error, Equatable, Sendable {
    case unknownNetwork(String)
    case unknownMachine(String)
    /// A network or an endpoint of this name is there already.
    case nameTaken(String)
    /// Not a name: 1 to 63 letters, digits and hyphens, no hyphen at either end.
    case badName(String)
    case badSubnet(String)
    case badGateway(String)
    case addressTaken(String)
    case addressOutside(String, network: String)
    case macTaken(String)
    case badMAC(String)
    case subnetIsFull(String)
    case networkIsUsed(String)
    case badMTU(Int)
    case tooMany(String)
    case system(SystemError)
}

extension FabricError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .unknownNetwork(let name): "there is no network \(name)"
        case .unknownMachine(let name): "there is no machine \(name)"
        case .nameTaken(let name): "the name \(name) is taken"
        case .badName(let name):
            "\(name) is no name: letters, digits, hyphens and underscores, dots between labels of at most 63"
        case .badSubnet(let text):
            "\(text) is no subnet for machines: one of /8 to /30 is wanted, outside of 127.0.0.0/8"
        case .badGateway(let text): "\(text) cannot be the gateway: it must be a machine's address of the subnet"
        case .addressTaken(let text): "the address \(text) is taken"
        case .addressOutside(let text, let network): "the address \(text) is none for a machine of network \(network)"
        case .macTaken(let text): "the Ethernet address \(text) is taken"
        case .badMAC(let text): "\(text) is no Ethernet address for a machine"
        case .subnetIsFull(let network): "network \(network) has no address left; give it a larger subnet"
        case .networkIsUsed(let name): "network \(name) has machines; remove them first"
        case .badMTU(let value): "an MTU of \(value) is impossible: 1280 to 65535 bytes are"
        case .tooMany(let what): "there are too many \(what)"
        case .system(let error): error.description
        }
    }
}
