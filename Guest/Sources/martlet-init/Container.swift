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
    /// What the container's programs watch to learn that their machine has become another one. In /dev, which is in
    /// memory and can be written to whatever the image and the root are.
    private static let watched = text("/dev/martlet")
    private static let generation = text("/dev/martlet/generation")

    let isReadOnly: Bool
    let hostname: [UInt8]
    let hosts: [UInt8]
    let resolvConf: [UInt8]
    let machineID: [UInt8]

    init(_ configuration: Configuration, machineID: [UInt8]) {
        isReadOnly = configuration.isReadOnly
        hostname = configuration.hostname
        hosts = configuration.hosts
        resolvConf = configuration.resolvConf
        self.machineID = machineID
    }

    /// What every container's machine needs, whatever its image is. It is done before the host is greeted, so that a
    /// machine that is restored has it behind it.
    static func prepareGround() throws(SystemFailure) {
        try System.mount(text("sysfs"), text("/sys"), type: "sysfs")
        try System.mount(text("cgroup2"), text("/sys/fs/cgroup"), type: "cgroup2")
        try prepareUpper()
        // The kernel's threads have them too, and who shares them enters no other mounts (setns(2)).
        try System.check(guest_leave(guest_own_paths), "unshare")
        try System.check(guest_loopback_up(), "bring up lo")
    }

    static func prepare(device: [UInt8]) throws(SystemFailure) {
        try System.mount(device, lower, type: "erofs", flags: guest_mount_read_only)
        try overlay()
    }

    /// `lower` under a file system in memory. Metadata-only copies and redirects make a recursive chown and the renaming
    /// of a directory cheap and possible; nobody but this kernel ever sees the upper layer.
    static func overlay() throws(SystemFailure) {
        try System.mount(
            text("overlay"), root, type: "overlay",
            options: text(
                "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work,redirect_dir=on,metacopy=on,volatile"))
    }

    static func prepareUpper() throws(SystemFailure) {
        try System.mount(text("tmpfs"), upper, type: "tmpfs", options: text("mode=755"))
        try System.makeDirectories(upper + text("/data"))
        try System.makeDirectories(upper + text("/work"))
    }

    /// The first process of the container, in its new namespaces, makes them a container's.
    func enter() throws(SystemFailure) {
        // Its own group is the root of what it sees of them.
        try System.check(guest_leave(guest_new_control_groups), "unshare")
        try System.switchRoot(to: Container.root)
        for entry in MountTable.container { try System.mount(entry) }
        try makeDevices()
        try Container.renewGeneration()
        try writeFiles()
        if isReadOnly {
            try System.check(
                guest_mount(
                    System.path([]), System.path([47]), nil,
                    guest_mount_again | guest_mount_bind | guest_mount_read_only, nil), "remount read-only")
        }
    }

    /// In the container of a machine that has become another one.
    static func rename(_ identity: Identity) throws(SystemFailure) {
        // A root that is read-only keeps the files that it has.
        if !identity.hostname.isEmpty {
            try writeWhereItGoes(identity.hostname + [10], to: text("/etc/hostname"))
        }
        if !identity.machineID.isEmpty {
            try writeWhereItGoes(identity.machineID + [10], to: text("/etc/machine-id"))
        }
        try rewrite(hosts: identity.hosts, resolvConf: identity.resolvConf)
        try renewGeneration()
        let file = text("/dev/shm/.martlet-boot-id")
        let shown = System.path(text("/proc/sys/kernel/random/boot_id"))
        try System.write(try randomUUID() + [10], to: file)
        // A clone's own clone has one there, whose file has no name any more and can bear no mount.
        _ = guest_unmount(shown, guest_unmount_detach)
        try System.check(guest_mount(System.path(file), shown, nil, guest_mount_bind, nil), "bind the boot id")
        _ = guest_remove(System.path(file))
    }

    /// Written in place, so that who has the file open, mapped or watched (inotify(7)) sees it, and while nothing of the
    /// container runs, so that nobody sees half of it.
    private static func renewGeneration() throws(SystemFailure) {
        // A container may have removed it, or mounted another /dev.
        try System.makeDirectories(watched)
        try System.write(try randomUUID() + [10], to: generation)
    }

    /// In the container of a machine whose network is another; what is empty stays as it is.
    static func rewrite(hosts: [UInt8], resolvConf: [UInt8]) throws(SystemFailure) {
        if !hosts.isEmpty { try writeWhereItGoes(hosts, to: text("/etc/hosts")) }
        if !resolvConf.isEmpty { try writeWhereItGoes(resolvConf, to: text("/etc/resolv.conf")) }
    }

    private static func writeWhereItGoes(_ bytes: [UInt8], to path: [UInt8]) throws(SystemFailure) {
        do throws(SystemFailure) { try System.write(bytes, to: path) } catch {
            if error.code != guest_erofs { throw error }
        }
    }

    /// RFC 9562, version 4.
    private static func randomUUID() throws(SystemFailure) -> [UInt8] {
        var random = [UInt8](repeating: 0, count: 16)
        try System.check(guest_random(&random, random.count), "getrandom")
        let digits = text("0123456789abcdef")
        var result: [UInt8] = []
        for (index, byte) in random.enumerated() {
            if index == 4 || index == 6 || index == 8 || index == 10 { result.append(UInt8(ascii: "-")) }
            let value = index == 6 ? byte & 0x0f | 0x40 : index == 8 ? byte & 0x3f | 0x80 : byte
            result.append(digits[Int(value >> 4)])
            result.append(digits[Int(value & 15)])
        }
        return result
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
        if hostname.isEmpty && hosts.isEmpty && resolvConf.isEmpty && machineID.isEmpty { return }
        try System.makeDirectories(text("/etc"))
        if !hostname.isEmpty { try System.write(hostname + [10], to: text("/etc/hostname")) }
        if !machineID.isEmpty { try System.write(machineID + [10], to: text("/etc/machine-id")) }
        if !hosts.isEmpty { try System.write(hosts, to: text("/etc/hosts")) }
        if !resolvConf.isEmpty { try System.write(resolvConf, to: text("/etc/resolv.conf")) }
    }
}
