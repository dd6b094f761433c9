// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import Packet
internal import Wire

/// A machine in the host's network: what was made for it, and has to go with it.
struct HostMachine: Equatable, Sendable {
    var id: String
    var isBridged: Bool
    /// Its TAP device, which goes with its monitor.
    var device: String
    var hardwareAddress: MACAddress
    var address: IPv4Address?
    var address6: IPv6Address?
    /// With the ports that were chosen.
    var published: [PublishedPorts] = []
    /// Where the host answers neighbours on its behalf.
    var uplink: String?
    var uplink6: String?

    /// The address that the guest makes of its Ethernet address.
    var linkLocal: IPv6Address { IPv6Address(linkLocal: hardwareAddress) }

    var json: JSON {
        var object = JSONObject()
        object["id"] = .string(id)
        object["bridged"] = .bool(isBridged)
        object["device"] = .string(device)
        object["mac"] = .string("\(hardwareAddress)")
        object["address"] = address.map { .string("\($0)") }
        object["address6"] = address6.map { .string("\($0)") }
        object["published"] = .array(published.map(\.json))
        object["uplink"] = uplink.map { .string($0) }
        object["uplink6"] = uplink6.map { .string($0) }
        return .object(object)
    }

    init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        self.init(
            id: try view.required("id").string(), isBridged: try view.required("bridged").bool(),
            device: try view.required("device").string(),
            hardwareAddress: try view.required("mac").parsed("an Ethernet address"))
        if let field = try view.optional("address") { address = try field.parsed("an IPv4 address") }
        if let field = try view.optional("address6") { address6 = try field.parsed("an IPv6 address") }
        for element in try view.required("published").elements() { published.append(try PublishedPorts(element)) }
        uplink = try view.optional("uplink")?.string()
        uplink6 = try view.optional("uplink6")?.string()
    }

    init(id: String, isBridged: Bool, device: String, hardwareAddress: MACAddress) {
        self.id = id
        self.isBridged = isBridged
        self.device = device
        self.hardwareAddress = hardwareAddress
    }
}

/// The bridge of all bridged machines.
struct HostBridge: Equatable, Sendable {
    static let name = "martlet0"

    var hardwareAddress: MACAddress
    var subnet: IPv4Prefix
    var subnet6: IPv6Prefix?

    /// The host's own addresses on it: the first of each subnet.
    var gateway: IPv4Address { IPv4Address(subnet.network.value + 1) }
    var gateway6: IPv6Address? {
        subnet6.map { IPv6Address(high: $0.network.high, low: $0.network.low | 1) }
    }
}

/// A setting of the kernel's that was another before.
struct KernelSetting: Equatable, Sendable {
    /// Below /proc/sys.
    var path: String
    var before: String
    var now: String
}

/// What was made that no single machine owns.
struct HostNetworkState: Equatable, Sendable {
    var bridge: HostBridge?
    /// In the order in which they were changed.
    var settings: [KernelSetting] = []

    var json: JSON {
        var object = JSONObject()
        if let bridge {
            object["bridge"] = JSON(members: [
                ("mac", .string("\(bridge.hardwareAddress)")), ("subnet", .string("\(bridge.subnet)")),
                ("subnet6", bridge.subnet6.map { .string("\($0)") } ?? .null),
            ])
        }
        object["settings"] = .array(
            settings.map {
                JSON(members: [("path", .string($0.path)), ("before", .string($0.before)), ("now", .string($0.now))])
            })
        return .object(object)
    }

    init() {}

    init(_ json: JSON) throws(JSONMismatch) {
        let view = JSONView(json)
        if let field = try view.optional("bridge") {
            bridge = HostBridge(
                hardwareAddress: try field.required("mac").parsed("an Ethernet address"),
                subnet: try field.required("subnet").parsed("a subnet"),
                subnet6: try field.optional("subnet6").map { field throws(JSONMismatch) in
                    try field.parsed("a subnet")
                })
        }
        for element in try view.required("settings").elements() {
            settings.append(
                KernelSetting(
                    path: try element.required("path").string(), before: try element.required("before").string(),
                    now: try element.required("now").string()))
        }
    }
}
