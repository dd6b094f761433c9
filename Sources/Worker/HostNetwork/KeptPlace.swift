// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
package import Packet
package import Wire

/// The place of a bridged machine as its guest sees it, which a clone of it keeps: its addresses, and the gateway that
/// it asks for all else.
package struct KeptPlace: Equatable, Sendable {
    package var address: IPv4Address
    package var prefixLength: UInt8
    package var gateway: IPv4Address
    package var address6: IPv6Address?
}

extension KeptPlace {
    /// - Parameter place: as a machine's state has it; nil where that is no such place.
    package init?(ofState place: JSON) {
        guard let kept = try? KeptPlace(JSONView(place)) else { return nil }
        self = kept
    }

    init(_ view: JSONView) throws(JSONMismatch) {
        address = try view.required("address").parsed("an IPv4 address")
        prefixLength = UInt8(try view.required("prefixLength").unsigned(in: 1...32))
        gateway = try view.required("gateway").parsed("an IPv4 address")
        if let field = try view.optional("address6") { address6 = try field.parsed("an IPv6 address") }
    }

    var json: JSON {
        var object = JSONObject()
        object["address"] = .string("\(address)")
        object["prefixLength"] = .number(prefixLength)
        object["gateway"] = .string("\(gateway)")
        object["address6"] = address6.map { .string("\($0)") }
        return .object(object)
    }
}

extension MachineRecord {
    /// What was asked for its networks, with the places that clones of it keep.
    package var networksToKeep: [NetworkWish] {
        configuration.networks.map { wish in
            guard wish.host == .bridged else { return wish }
            var wish = wish
            wish.kept = state.networks.first { $0["interface"]?.stringValue == wish.interfaceName }
                .flatMap(KeptPlace.init(ofState:))
            return wish
        }
    }
}
