// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Packet
internal import Platform
internal import Worker

/// `--network bridged`, `routed` and `tap=NAME[,gateway=ADDRESS][,gateway6=ADDRESS]`: the host's own network instead of
/// one of ours.
struct HostNetworkChoice {
    let mode: HostNetworkMode
    private var gateway: IPv4Address?
    private var gateway6: IPv6Address?

    /// Nil for the name of a network of ours.
    init?(_ text: String) throws(Failure) {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard let first = parts.first, let mode = HostNetworkMode(first) else { return nil }
        self.mode = mode
        if case .tap(let name) = mode, !TapDevice.isName(name) || name.contains("%") {
            throw Failure(
                "--network: '\(name)' is not the name of a network device: 1 to 15 bytes without / and spaces")
        }
        for part in parts.dropFirst() {
            let halves = part.split(separator: "=", maxSplits: 1).map(String.init)
            switch (mode, halves.first, halves.last) {
            case (.tap, "gateway", let text?):
                gateway = IPv4Address(text)
                if gateway == nil { throw Failure("--network: '\(text)' is not an IPv4 address") }
            case (.tap, "gateway6", let text?):
                gateway6 = IPv6Address(text)
                if gateway6 == nil { throw Failure("--network: '\(text)' is not an IPv6 address") }
            default: throw Failure("--network: '\(part)' means nothing with \(mode.text)")
            }
        }
    }

    /// Looks for options that mean nothing in this network, and whether it can be had at all.
    func check(_ choice: NetworkChoice) throws(Failure) {
        var senseless: [(String, Bool)] = [
            ("--network-alias", !choice.aliases.isEmpty), ("--egress", !choice.egress.isEmpty),
            ("--egress-audit", choice.isEgressAudited),
        ]
        if mode != .bridged { senseless.append(("--publish", !choice.published.isEmpty)) }
        if let (name, _) = senseless.first(where: \.1) {
            throw Failure("\(name) means nothing with --network \(mode.text)")
        }
        if mode == .routed, choice.address == nil, choice.address6 == nil {
            throw Failure(
                "--network routed: the machine needs addresses of the host's network: give it --ip, --ip6 or both")
        }
        guard !mode.changesHost || geteuid() == 0 else {
            throw Failure("--network \(mode.text) needs root; the default network does not")
        }
    }

    /// Puts the addresses into the wish; those on a TAP device may say how long their network's prefix is.
    func describe(_ wish: inout NetworkWish, address: String?, address6: String?) throws(Failure) {
        wish.host = mode
        (wish.gateway, wish.gateway6) = (gateway, gateway6)
        let takesPrefix = !mode.changesHost
        if let text = address {
            let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
            guard let value = parts.first.flatMap({ IPv4Address($0) }),
                parts.count == 1 || takesPrefix && IPv4Prefix(text) != nil
            else { throw Failure("--ip: '\(text)' is not an IPv4 address\(takesPrefix ? "[/LENGTH]" : "")") }
            wish.address = value
            if parts.count == 2 { wish.prefixLength = UInt8(clamping: IPv4Prefix(text)?.length ?? 32) }
        }
        if let text = address6 {
            let parts = text.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
            guard let value = parts.first.flatMap({ IPv6Address($0) }),
                parts.count == 1 || takesPrefix && IPv6Prefix(text) != nil
            else { throw Failure("--ip6: '\(text)' is not an IPv6 address\(takesPrefix ? "[/LENGTH]" : "")") }
            wish.address6 = value
            if parts.count == 2 { wish.prefixLength6 = UInt8(clamping: IPv6Prefix(text)?.length ?? 128) }
        }
        if gateway != nil, wish.address == nil { throw Failure("--network: a gateway needs an --ip") }
    }
}
