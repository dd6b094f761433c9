// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// A container's root file system. `prepare` puts it together in init's own namespace; `enter` is the main process's way
/// into it. Mount points within are only touched by the latter, after the change of root: a link in the image then leads
/// nowhere but into the image.
struct Container {
    private static let lower = text("/lower")
    private static let upper = text("/upper")
    static let root = text("/root")

    let isReadOnly: Bool
    let hostname: [UInt8]
    let hosts: [UInt8]
    let resolvConf: [UInt8]

    init(_ configuration: Configuration) {
        isReadOnly = configuration.isReadOnly
        hostname = configuration.hostname
        hosts = configuration.hosts
        resolvConf = configuration.resolvConf
    }

    static func prepare(device: [UInt8]) throws(SystemFailure) {
        try System.mount(device, lower, type: "erofs", flags: guest_mount_read_only)
        try overlay()
    }

    /// `lower` under a file system in memory. Metadata-only copies and redirects make a recursive chown and the renaming
    /// of a directory cheap and possible; nobody but this kernel ever sees the upper layer.
    static func overlay() throws(SystemFailure) {
        try System.mount(text("tmpfs"), upper, type: "tmpfs", options: text("mode=755"))
        try System.makeDirectories(upper + text("/data"))
        try System.makeDirectories(upper + text("/work"))
        try System.mount(
            text("overlay"), root, type: "overlay",
            options: text(
                "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work,redirect_dir=on,metacopy=on,volatile"))
    }

    /// The first process of the container, in its new namespaces, makes them a container's.
    func enter() throws(SystemFailure) {
        try System.switchRoot(to: Container.root)
        for entry in MountTable.container { try System.mount(entry) }
        try makeDevices()
        try writeFiles()
        if isReadOnly {
            try System.check(
                guest_mount(
                    System.path([]), System.path([47]), nil,
                    guest_mount_again | guest_mount_bind | guest_mount_read_only, nil), "remount read-only")
        }
    }

    private func makeDevices() throws(SystemFailure) {
        guest_set_mask(0)
        for device in MountTable.containerDevices {
            try System.check(
                guest_make_device(device.path.utf8Start, 0o666, device.major, device.minor), "mknod", text(device.path))
        }
        System.makeLinks(MountTable.containerLinks)
        guest_set_mask(0o022)
    }

    private func writeFiles() throws(SystemFailure) {
        if hostname.isEmpty && hosts.isEmpty && resolvConf.isEmpty { return }
        try System.makeDirectories(text("/etc"))
        if !hostname.isEmpty { try System.write(hostname + [10], to: text("/etc/hostname")) }
        if !hosts.isEmpty { try System.write(hosts, to: text("/etc/hosts")) }
        if !resolvConf.isEmpty { try System.write(resolvConf, to: text("/etc/resolv.conf")) }
    }
}
