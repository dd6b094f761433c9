// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Settings of the kernel's network below /proc/sys, in the calling thread's network namespace. What was another before
/// is noted, and put back when nothing needs it any more, unless somebody else has changed it meanwhile.
enum KernelSettings {
    private static let root = "/proc/sys"

    static func read(_ path: String) -> String? {
        guard let bytes = try? Files.read("\(root)/\(path)", limit: 4096) else { return nil }
        return String(decoding: bytes.filter { $0 != 10 }, as: UTF8.self)
    }

    static func write(_ path: String, _ value: String) throws(HostNetworkError) {
        try hostNetwork("the kernel's setting \(path)") { () throws(SystemError) in
            let file = try Descriptor.open("\(root)/\(path)", .writeOnly)
            try file.writeAll(Array(value.utf8))
        }
    }

    /// Sees to it that a setting has a value.
    /// - Parameter note: called before it is changed, so that whoever comes after a crash knows of it.
    static func require(
        _ path: String, _ value: String, _ state: inout HostNetworkState,
        note: (HostNetworkState) throws(HostNetworkError) -> Void
    ) throws(HostNetworkError) {
        guard let before = read(path), before != value else { return }
        if !state.settings.contains(where: { $0.path == path }) {
            state.settings.append(KernelSetting(path: path, before: before, now: value))
            try note(state)
        }
        try write(path, value)
    }

    /// Packets of IPv4 are passed on between the host's devices.
    static func requireForwarding(
        _ state: inout HostNetworkState, note: (HostNetworkState) throws(HostNetworkError) -> Void
    ) throws(HostNetworkError) {
        try require("net/ipv4/ip_forward", "1", &state, note: note)
    }

    /// Those of IPv6 as well. A host that does so takes no more router advertisements (ip-sysctl, `accept_ra`): where it
    /// did, it is told to go on, but not on devices that come later or are a machine's.
    static func requireForwarding6(
        _ state: inout HostNetworkState, note: (HostNetworkState) throws(HostNetworkError) -> Void
    ) throws(HostNetworkError) {
        let all = "net/ipv6/conf/all/forwarding"
        guard read(all) == "0" else { return }
        for device in (try? Files.list("\(root)/net/ipv6/conf"))?.sorted() ?? [] {
            guard !["all", "default", "lo"].contains(device) else { continue }
            let path = "net/ipv6/conf/\(device)/accept_ra"
            if read(path) == "1" { try require(path, "2", &state, note: note) }
        }
        try require(all, "1", &state, note: note)
    }

    /// Has the host believe nothing that comes in on a device of ours: no router, no other way. Goes with the device.
    static func distrust(_ device: String) throws(HostNetworkError) {
        for path in [
            "net/ipv6/conf/\(device)/accept_ra", "net/ipv6/conf/\(device)/accept_redirects",
            "net/ipv4/conf/\(device)/accept_redirects",
        ] where read(path) != nil { try write(path, "0") }
    }

    static var hasIPv6: Bool { read("net/ipv6/conf/all/disable_ipv6") == "0" }

    /// Puts back what was, the last change first.
    static func restore(_ settings: [KernelSetting]) {
        for setting in settings.reversed() where read(setting.path) == setting.now {
            try? write(setting.path, setting.before)
        }
    }
}
