// SPDX-License-Identifier: Apache-2.0

/// What a machine is made of: the model behind `--config-file`, in the shape of Firecracker's. Field by field in
/// Docs/MONITOR.md.
package struct MachineConfiguration: Equatable, Sendable {
    package var bootSource: BootSource
    package var machine = MachineSettings()
    package var drives: [Drive] = []
    package var networkInterfaces: [NetworkInterface] = []
    package var vsock: Vsock?
    package var hasEntropyDevice = false
    package var entropyLimit: RateLimit?
    package var serial = Serial()
    package var logger = Logger()
    package var metrics: MetricsSettings?
    /// How many virtio windows are kept empty for devices that come while the machine runs.
    package var spareSlotCount = 0

    /// As many virtio windows as a machine has.
    package static let spareSlotLimit = 19

    package init(bootSource: BootSource) { self.bootSource = bootSource }

    /// Notes that another file is behind a drive, or another limit on it.
    package mutating func updateDrive(_ identifier: String, path: String?, limit: RateLimitUpdate?) {
        for index in drives.indices where drives[index].identifier == identifier {
            if let path { drives[index].content = .path(path) }
            drives[index].limit = drives[index].limit.updated(by: limit)
        }
    }

    /// Notes that other limits are on an interface.
    package mutating func updateInterface(
        _ identifier: String, receive: RateLimitUpdate?, transmit: RateLimitUpdate?
    ) {
        for index in networkInterfaces.indices where networkInterfaces[index].identifier == identifier {
            networkInterfaces[index].receiveLimit = networkInterfaces[index].receiveLimit.updated(by: receive)
            networkInterfaces[index].transmitLimit = networkInterfaces[index].transmitLimit.updated(by: transmit)
        }
    }
}

package struct BootSource: Equatable, Sendable {
    package var kernel: HostFile
    package var initrd: HostFile?
    /// nil for `BootSource.defaultArguments`.
    package var arguments: String?

    package init(kernel: HostFile, initrd: HostFile? = nil, arguments: String? = nil) {
        self.kernel = kernel
        self.initrd = initrd
        self.arguments = arguments
    }

    package init(kernelImagePath: String, initrdPath: String? = nil, arguments: String? = nil) {
        self.init(kernel: .path(kernelImagePath), initrd: initrdPath.map(HostFile.path), arguments: arguments)
    }

    /// What a kernel is told where the configuration says nothing: console on the serial port, reboot (which ends the
    /// machine) on a panic, and not to look for what is not there.
    package static let defaultArguments =
        "console=ttyS0 reboot=k panic=1 pci=off nomodule i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd"
}

package struct MachineSettings: Equatable, Sendable {
    package enum HugePages: String, Equatable, Sendable, CaseIterable {
        /// What the system does for all programs: pages of 4 KiB, unless transparent huge pages are on for all of them.
        case none = "None"
        /// Transparent huge pages are asked for: each page that a guest touches first is an exit, and there are up to
        /// 512 times fewer.
        case transparent = "Transparent"
        /// Pages of 2 MiB from the host's hugetlbfs pool, all of them set aside before the machine is made.
        case pool = "2M"

        /// Whether memory comes in whole pages of 2 MiB only.
        package var wantsWholePages: Bool { self != .none }
    }

    package var vcpuCount = 1
    package var memoryInMiB: UInt64 = 128
    /// Two threads a core instead of one.
    package var simultaneousMultithreading = false
    package var tracksDirtyPages = false
    package var hugePages = HugePages.none
    /// Whether devices are announced in ACPI tables, or, for kernels without ACPI, on the command line.
    package var acpi = true

    package init() {}
}

/// A disk.
package struct Drive: Equatable, Sendable {
    package enum Content: Equatable, Sendable {
        /// A file or block device.
        case path(String)
        /// One that the monitor was started with.
        case descriptor(Int32)
        /// Files, one after another, each filled up with zeros to a multiple of 4 KiB. Read-only.
        case extents([Extent])
    }

    /// A part of a file.
    package struct Extent: Equatable, Sendable {
        package var file: HostFile
        /// In bytes.
        package var offset: UInt64
        /// In bytes; nil for all that follows the offset.
        package var length: UInt64?

        package init(path: String, offset: UInt64 = 0, length: UInt64? = nil) {
            self.init(.path(path), offset: offset, length: length)
        }

        package init(_ file: HostFile, offset: UInt64 = 0, length: UInt64? = nil) {
            self.file = file
            self.offset = offset
            self.length = length
        }
    }

    package enum Cache: String, Equatable, Sendable, CaseIterable {
        /// A flush of the guest's is not passed on.
        case unsafe = "Unsafe"
        /// A flush of the guest's brings its writes to the disk.
        case writeback = "Writeback"
    }

    /// How Firecracker would do a disk's requests. Here that is the monitor's affair; the word is kept for whoever asks.
    package enum Engine: String, Equatable, Sendable, CaseIterable {
        case sync = "Sync"
        case async = "Async"
    }

    package var identifier: String
    package var content: Content
    /// The kernel is told to mount it as its root.
    package var isRootDevice = false
    package var isReadOnly = false
    /// The root's partition instead of the whole disk.
    package var partitionIdentifier: String?
    package var cache = Cache.unsafe
    package var engine = Engine.sync
    package var limit: RateLimit?

    package init(identifier: String, content: Content, isReadOnly: Bool = false) {
        self.identifier = identifier
        self.content = content
        self.isReadOnly = isReadOnly
    }
}

package struct NetworkInterface: Equatable, Sendable {
    package enum Peer: Equatable, Sendable {
        /// A TAP device of the host, by name.
        case tap(String)
        /// A unix socket that frames go over.
        case socket(String)
        /// A queue of a TAP device, or one end of a pair of sockets, that was handed over with this number.
        case descriptor(Int32)
    }

    package var identifier: String
    package var peer: Peer
    package var guestMAC: MACAddress?
    /// In bytes.
    package var mtu: UInt16?
    /// How many pairs of queues the guest is offered; nil for one a processor, up to `ordinaryQueuePairLimit`.
    package var queuePairs: UInt8?
    /// Of what goes to the guest.
    package var receiveLimit: RateLimit?
    /// Of what comes from the guest.
    package var transmitLimit: RateLimit?

    package init(identifier: String, peer: Peer, guestMAC: MACAddress? = nil, mtu: UInt16? = nil) {
        self.identifier = identifier
        self.peer = peer
        self.guestMAC = guestMAC
        self.mtu = mtu
    }

    /// The most pairs of queues that an interface can have, and that one has which is not said how many.
    package static let queuePairLimit = 16
    package static let ordinaryQueuePairLimit = 8

    /// How many pairs of queues it has in a machine of so many processors.
    package func queuePairs(forProcessors count: Int) -> Int {
        queuePairs.map { Int($0) } ?? min(count, Self.ordinaryQueuePairLimit)
    }
}

/// An Ethernet address.
package struct MACAddress: Equatable, Sendable, CustomStringConvertible {
    /// Six, in the order in which they are sent.
    package let bytes: [UInt8]

    /// Reads `06:00:ac:10:00:02`; nil for anything else. The address of a group is taken too, as Firecracker does: a Linux
    /// guest makes one of its own instead.
    package init?(_ text: String) {
        var bytes: [UInt8] = []
        for part in text.split(separator: ":", omittingEmptySubsequences: false) {
            guard part.utf8.count == 2, !part.hasPrefix("+"), !part.hasPrefix("-"), let byte = UInt8(part, radix: 16)
            else { return nil }
            bytes.append(byte)
        }
        guard bytes.count == 6 else { return nil }
        self.bytes = bytes
    }

    /// One that no maker has assigned.
    package static func random() -> MACAddress {
        var generator = SystemRandomNumberGenerator()
        let number: UInt64 = generator.next()
        return MACAddress(bytes: [0x06] + (1..<6).map { UInt8(truncatingIfNeeded: number >> UInt64(8 * $0)) })
    }

    private init(bytes: [UInt8]) { self.bytes = bytes }

    package var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }
}

package struct Vsock: Equatable, Sendable {
    /// The guest's address, 3 or more.
    package var guestCID: UInt32
    /// The unix socket for connections from the host, and the stem of those for connections from the guest.
    package var socketPath: String
    /// A unix stream socket that the monitor was started with, and that listens already: connections from the host come
    /// there, and `socketPath` is the stem alone.
    package var listener: Int32?

    package init(guestCID: UInt32, socketPath: String) {
        self.guestCID = guestCID
        self.socketPath = socketPath
    }
}

package struct Serial: Equatable, Sendable {
    /// Where the console's output goes; nil for the monitor's standard output.
    package var outputPath: String?
    /// Of the bytes that the guest writes; what is too much is dropped.
    package var limit: RateLimit.Bucket?

    package init(outputPath: String? = nil) { self.outputPath = outputPath }
}

package struct Logger: Equatable, Sendable {
    package enum Level: String, Equatable, Sendable, CaseIterable, Comparable {
        case off = "Off"
        case error = "Error"
        case warning = "Warning"
        case info = "Info"
        case debug = "Debug"
        case trace = "Trace"

        private var rank: Int { Self.allCases.firstIndex(of: self) ?? 0 }
        package static func < (one: Level, other: Level) -> Bool { one.rank < other.rank }
    }

    /// nil for the monitor's standard error.
    package var path: String?
    /// nil for the default, which is Warning for a monitor with a configuration file and Info for one without.
    package var level: Level?
    package var showsLevel: Bool?
    package var showsOrigin: Bool?
    /// Only messages of this part of the monitor are written.
    package var module: String?

    package init() {}
}
