// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
#else
import CGuest
#endif

/// A network interface of the machine, as the host wants it.
enum NetworkInterface {
    private static let directory = text("/sys/class/net")

    /// Brings up an interface of a template, if there is one: with room for what it receives, without addresses and without
    /// a word to anybody, until `configure` makes it a machine's.
    static func prepare() throws(SystemFailure) {
        guard let name = try? name(of: InterfaceSettings.templateAddress) else { return }
        try generateLinkLocalAddress(false, name)
        var batch = NetlinkBatch()
        batch.bringUp(interface: try index(of: name), mtu: nil)
        try send(batch, InterfaceSettings.templateAddress)
    }

    /// Finds the interface by the hardware address that it has, and gives it its own, its addresses and routes. It can be
    /// used when this returns.
    static func configure(_ settings: InterfaceSettings) throws(SystemFailure) {
        let name = try name(of: settings.presentAddress)
        let index = try index(of: name)
        var batch = NetlinkBatch()
        if settings.formerAddress != nil { batch.setHardwareAddress(settings.hardwareAddress, interface: index) }
        append(settings, index, to: &batch)
        try send(batch, settings.hardwareAddress)
        // Of the address that it has now.
        if settings.formerAddress != nil { try generateLinkLocalAddress(true, name) }
    }

    /// Linux, Documentation/networking/ip-sysctl.rst, addr_gen_mode.
    private static func generateLinkLocalAddress(_ does: Bool, _ name: [UInt8]) throws(SystemFailure) {
        try setIPv6(text("addr_gen_mode"), of: name, to: does ? text("0") : text("1"))
    }

    /// Sets up an interface beside others, like `configure`. It is a way to other networks by its
    /// gateways alone, not because a router advertises itself there.
    static func add(_ settings: InterfaceSettings) throws(SystemFailure) {
        if settings.gateways.isEmpty { try refuseAdvertisedRoutes(try name(of: settings.presentAddress)) }
        try configure(settings)
    }

    /// Makes an interface the way to all other networks, by its gateways.
    static func lead(_ settings: InterfaceSettings) throws(SystemFailure) {
        let index = try find(settings.hardwareAddress)
        var batch = NetlinkBatch()
        for gateway in settings.gateways { batch.addDefaultRoute(gateway: gateway, interface: index) }
        if batch.count > 0 { try send(batch, settings.hardwareAddress) }
    }

    /// Makes an interface the way to its own network only.
    static func yield(_ settings: InterfaceSettings) throws(SystemFailure) {
        try refuseAdvertisedRoutes(try name(of: settings.hardwareAddress))
        let index = try find(settings.hardwareAddress)
        for isIPv6 in [false, true] {
            // One that was configured, one that was advertised; the kernel says when there is none left.
            for _ in 0..<8 {
                var batch = NetlinkBatch()
                batch.removeDefaultRoute(isIPv6: isIPv6, interface: index)
                do throws(SystemFailure) { try send(batch, settings.hardwareAddress) } catch {
                    if error.code == guest_esrch || error.code == guest_eafnosupport { break }
                    throw error
                }
            }
        }
    }

    private static func refuseAdvertisedRoutes(_ name: [UInt8]) throws(SystemFailure) {
        try setIPv6(text("accept_ra_defrtr"), of: name, to: text("0"))
    }

    private static func setIPv6(_ parameter: [UInt8], of name: [UInt8], to value: [UInt8]) throws(SystemFailure) {
        try set(text("/proc/sys/net/ipv6/conf/") + name + text("/") + parameter, to: value)
    }

    /// Sets a parameter of the kernel's, unless that is one without IPv6 and has none such.
    private static func set(_ path: [UInt8], to value: [UInt8]) throws(SystemFailure) {
        do throws(SystemFailure) { try System.write(value, to: path) } catch {
            if error.code != guest_enoent { throw error }
        }
    }

    /// Takes an interface of the machine that was saved down: nothing is sent from its addresses any more, which are
    /// another machine's.
    /// - Returns: the interface's index; nil for one that was not there.
    static func silence(_ settings: InterfaceSettings) throws(SystemFailure) -> UInt32? {
        guard let former = settings.formerAddress else { return nil }
        let index = try find(former)
        var batch = NetlinkBatch()
        batch.takeDown(interface: index)
        try send(batch, former)
        return index
    }

    /// Gives an interface that was silenced another Ethernet address and other addresses and routes, and has the kernel
    /// announce them: by an ARP request and a neighbour advertisement that nobody asked for.
    /// - Parameter index: as `silence` gave it, where it was called.
    static func replace(_ settings: InterfaceSettings, _ index: UInt32?) throws(SystemFailure) {
        guard let former = settings.formerAddress else { return try configure(settings) }
        let index = if let index { index } else { try find(former) }
        try System.check(guest_remove_addresses(index), "remove the addresses of", spelled(former))
        var batch = NetlinkBatch()
        batch.setHardwareAddress(settings.hardwareAddress, interface: index)
        append(settings, index, to: &batch)
        try send(batch, settings.hardwareAddress)
        for setting in announcements { try set(setting, to: text("1")) }
        // It announces all that it has when the address is set, though it is the same.
        var announcement = NetlinkBatch()
        announcement.setHardwareAddress(settings.hardwareAddress, interface: index)
        try send(announcement, settings.hardwareAddress)
    }

    private static let announcements = [
        text("/proc/sys/net/ipv4/conf/all/arp_notify"), text("/proc/sys/net/ipv6/conf/all/ndisc_notify"),
    ]

    private static func append(_ settings: InterfaceSettings, _ index: UInt32, to batch: inout NetlinkBatch) {
        batch.bringUp(interface: index, mtu: settings.mtu)
        for address in settings.addresses {
            batch.addAddress(address.bytes, prefixLength: address.prefixLength, interface: index)
        }
        for gateway in settings.gateways { batch.addDefaultRoute(gateway: gateway, interface: index) }
    }

    private static func send(_ batch: NetlinkBatch, _ address: [UInt8]) throws(SystemFailure) {
        try System.check(
            guest_route_requests(batch.bytes, batch.bytes.count, batch.count), "configure the network interface",
            spelled(address))
    }

    private static func find(_ address: [UInt8]) throws(SystemFailure) -> UInt32 {
        try index(of: try name(of: address))
    }

    private static func index(of name: [UInt8]) throws(SystemFailure) -> UInt32 {
        let path = directory + text("/") + name + text("/ifindex")
        let digits = try System.contents(path, limit: 16).parts(separatedBy: 10)[0]
        guard let index = digits.decimal(atMost: UInt64(Int32.max)) else {
            throw SystemFailure(call: "read", subject: path, code: guest_enodev)
        }
        return UInt32(index)
    }

    private static func name(of address: [UInt8]) throws(SystemFailure) -> [UInt8] {
        let wanted = spelled(address)
        for name in System.names(in: directory) {
            let path = directory + text("/") + name + text("/address")
            if let line = try? System.contents(path, limit: 64), line.hasPrefix(wanted) { return name }
        }
        throw SystemFailure(call: "find the network interface", subject: wanted, code: guest_enodev)
    }

    /// As /sys spells it: `02:00:5e:00:00:01`.
    private static func spelled(_ address: [UInt8]) -> [UInt8] {
        let digits = text("0123456789abcdef")
        var result: [UInt8] = []
        for byte in address {
            if !result.isEmpty { result.append(UInt8(ascii: ":")) }
            result += [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
        return result
    }
}

extension InterfaceSettings {
    /// The hardware address that the interface has before anything is done to it.
    fileprivate var presentAddress: [UInt8] { formerAddress ?? hardwareAddress }
}
