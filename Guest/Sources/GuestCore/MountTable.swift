// SPDX-License-Identifier: Apache-2.0

/// A file system to mount. Its mount point is made where it is missing.
package struct MountEntry {
    package var type: StaticString
    package var target: StaticString
    package var flags: UInt64
    package var options: StaticString
}

/// A node of /dev.
package struct DeviceEntry {
    package var path: StaticString
    package var major: UInt32
    package var minor: UInt32
}

/// A symbolic link of /dev.
package struct LinkEntry {
    package var target: StaticString
    package var path: StaticString
}

/// What is mounted where, in order: each target's parent comes before it.
package enum MountTable {
    private static let noSetuid: UInt64 = 2
    private static let noDevices: UInt64 = 4
    private static let noPrograms: UInt64 = 8
    private static let inert = noSetuid | noDevices | noPrograms

    /// In a container, as Docker has them; the machine is the container's own, so /sys can be written to and /dev/shm
    /// has no limit of its own.
    package static var container: [MountEntry] {
        [
            MountEntry(type: "proc", target: "/proc", flags: inert, options: ""),
            MountEntry(type: "tmpfs", target: "/dev", flags: noSetuid, options: "mode=755,size=65536k"),
            MountEntry(
                type: "devpts", target: "/dev/pts", flags: noSetuid | noPrograms,
                options: "newinstance,ptmxmode=0666,mode=0620,gid=5"),
            MountEntry(type: "mqueue", target: "/dev/mqueue", flags: inert, options: ""),
            MountEntry(type: "tmpfs", target: "/dev/shm", flags: inert, options: "mode=1777"),
            MountEntry(type: "sysfs", target: "/sys", flags: inert, options: ""),
            MountEntry(type: "cgroup2", target: "/sys/fs/cgroup", flags: inert, options: ""),
        ]
    }

    /// In the emulated host: every device, and /run as after a start of the machine.
    package static var host: [MountEntry] {
        [
            MountEntry(type: "proc", target: "/proc", flags: inert, options: ""),
            MountEntry(type: "devtmpfs", target: "/dev", flags: noSetuid, options: "mode=755"),
            MountEntry(
                type: "devpts", target: "/dev/pts", flags: noSetuid | noPrograms,
                options: "ptmxmode=0666,mode=0620,gid=5"),
            MountEntry(type: "tmpfs", target: "/dev/shm", flags: inert, options: "mode=1777"),
            MountEntry(type: "tmpfs", target: "/run", flags: noSetuid | noDevices, options: "mode=755"),
            MountEntry(type: "sysfs", target: "/sys", flags: inert, options: ""),
            MountEntry(type: "cgroup2", target: "/sys/fs/cgroup", flags: inert, options: ""),
        ]
    }

    package static var containerDevices: [DeviceEntry] {
        [
            DeviceEntry(path: "/dev/null", major: 1, minor: 3),
            DeviceEntry(path: "/dev/zero", major: 1, minor: 5),
            DeviceEntry(path: "/dev/full", major: 1, minor: 7),
            DeviceEntry(path: "/dev/random", major: 1, minor: 8),
            DeviceEntry(path: "/dev/urandom", major: 1, minor: 9),
            DeviceEntry(path: "/dev/tty", major: 5, minor: 0),
        ]
    }

    package static var containerLinks: [LinkEntry] {
        [LinkEntry(target: "pts/ptmx", path: "/dev/ptmx")] + hostLinks
    }

    package static var hostLinks: [LinkEntry] {
        [
            LinkEntry(target: "/proc/self/fd", path: "/dev/fd"),
            LinkEntry(target: "/proc/self/fd/0", path: "/dev/stdin"),
            LinkEntry(target: "/proc/self/fd/1", path: "/dev/stdout"),
            LinkEntry(target: "/proc/self/fd/2", path: "/dev/stderr"),
            LinkEntry(target: "/proc/kcore", path: "/dev/core"),
        ]
    }
}
