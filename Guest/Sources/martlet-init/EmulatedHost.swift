// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// The emulated host's root: the file system of the machine outside, read-only under an overlay in memory, and a disk
/// for what is to stay. Init moves into it itself, and its sessions are plain processes there.
struct EmulatedHost {
    /// Where the disk that keeps state is mounted; empty for none.
    private(set) var stateMountPoint: [UInt8] = []

    mutating func enter(_ configuration: Configuration) throws(SystemFailure) {
        // The share is read by root alone, below the overlay: one attachment serves every user, and who may do what is
        // checked against the overlay's inodes. Files that change outside are new files here (see `freshen`).
        try System.mount(
            configuration.shareTag, text("/lower"), type: "9p", flags: guest_mount_read_only,
            options: text("trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any"))
        try Container.prepareUpper()
        try Container.overlay()
        try System.switchRoot(to: Container.root)
        for entry in MountTable.host { try System.mount(entry) }
        System.makeLinks(MountTable.hostLinks)
        if !configuration.stateDevice.isEmpty {
            // A file that takes another's place is not written to the disk for that: what must be there after a crash is
            // synchronized by who writes it, and a machine's state, which changes at each step of a start, need not be.
            try System.mount(
                configuration.stateDevice, configuration.stateMountPoint, type: "ext4",
                flags: guest_mount_no_access_times, options: text("noauto_da_alloc"))
            stateMountPoint = configuration.stateMountPoint
        }
        if !configuration.resolvConf.isEmpty {
            try System.write(configuration.resolvConf, to: text("/etc/resolv.conf"))
        }
        if !configuration.hosts.isEmpty { try System.write(configuration.hosts, to: text("/etc/hosts")) }
    }

    /// Forgets names and inodes that nobody uses, before a session starts: the share's cache never asks whether
    /// something has changed outside, and the overlay even remembers that a name was not there. File contents stay: a
    /// file that was changed comes back under another version number, one that was not finds its pages.
    static func freshen() {
        // 4 keeps the kernel from logging it, 2 drops names and inodes; their sum is no valid word, and the file takes one
        // word each time that it is opened.
        for word in ["4", "2"] as [StaticString] {
            guard let file = try? System.open(text("/proc/sys/vm/drop_caches"), guest_write_only) else { return }
            _ = guest_write(file.raw, text(word), 1)
        }
    }

    /// Writes everything to the disk and lets go of it.
    func leave() {
        guest_sync()
        guard !stateMountPoint.isEmpty else { return }
        let name = System.path(stateMountPoint)
        if guest_unmount(name, 0) < 0 {
            _ = guest_mount(name, name, nil, guest_mount_again | guest_mount_read_only, nil)
        }
    }
}
