// SPDX-License-Identifier: Apache-2.0

#if canImport(Wire)
internal import Wire
#endif

/// `arrange`: a running machine's network is to be another. `arranged`, a report, answers it.
package struct Arrangement: Equatable, Sendable {
    /// The steps of the report: which are done when one fails.
    package enum Step {
        package static let removal: StaticString = "removed"
        package static let addition: StaticString = "added"
        package static let routes: StaticString = "routes"
        package static let files: StaticString = "files"
    }

    /// Interfaces that the machine has from now on. One that cannot be set up is let go of again.
    package var added: [InterfaceSettings] = []
    /// Interfaces that are let go of, of which the hardware address and the slot count.
    package var removed: [InterfaceSettings] = []
    /// Interfaces whose gateways are the way to all other networks from now on; the hardware address and these count.
    package var leading: [InterfaceSettings] = []
    /// Interfaces that are not such a way any more, of which the hardware address counts.
    package var yielding: [InterfaceSettings] = []
    /// Contents of the container's /etc/hosts and /etc/resolv.conf; what is empty stays as it is.
    package var hosts: Text = []
    package var resolvConf: Text = []

    package init() {}

    package init?(_ payload: [UInt8]) {
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1...4:
                let count = added.count + removed.count + leading.count + yielding.count
                guard count < Identity.interfaceLimit, let settings = InterfaceSettings(field.bytes) else { return nil }
                switch field.tag {
                case 1: added.append(settings)
                case 2: removed.append(settings)
                case 3: leading.append(settings)
                default: yielding.append(settings)
                }
            case 5: hosts = field.bytes
            case 6: resolvConf = field.bytes
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        for interface in added { writer.append(1, interface.payload) }
        for interface in removed { writer.append(2, interface.payload) }
        for interface in leading { writer.append(3, interface.payload) }
        for interface in yielding { writer.append(4, interface.payload) }
        if !hosts.isEmpty { writer.append(5, hosts) }
        if !resolvConf.isEmpty { writer.append(6, resolvConf) }
        return writer.bytes
    }
}

/// `disconnect`: which network a client wants a machine to leave.
package struct DisconnectOrder: Equatable, Sendable {
    package var network: Text
    /// The interface is taken away though the guest does not let go of it.
    package var isForced: Bool

    package init(network: Text, isForced: Bool = false) {
        self.network = network
        self.isForced = isForced
    }

    package init?(_ payload: [UInt8]) {
        network = []
        isForced = false
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1: network = field.bytes
            case 2: isForced = field.number != 0
            default: break
            }
        }
        if reader.isMalformed || network.isEmpty { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, network)
        if isForced { writer.append(2, number: UInt8(1)) }
        return writer.bytes
    }
}

/// `connect`: the place that a client wants a machine to have in one more network, as JSON.
package struct ConnectOrder: Equatable, Sendable {
    package var wish: Text

    package init(wish: Text) { self.wish = wish }

    package init?(_ payload: [UInt8]) {
        wish = []
        var reader = FieldReader(payload)
        while let field = reader.next() {
            if field.tag == 1 { wish = field.bytes }
        }
        if reader.isMalformed || wish.isEmpty { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, wish)
        return writer.bytes
    }
}
