// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import MachineAPI
internal import Platform
internal import Synchronization
internal import Virtio

/// A machine's devices, opened and attached to the loop. The virtio ones come in the order in which the guest finds
/// them: disks, the root device first; network interfaces; vsock; entropy.
struct DeviceSet: Sendable {
    let ports: PortBus
    /// The spare ones last.
    let windows: [DeviceWindow]
    let workers: IOWorkers
    private let vsockFile: SocketFile?

    var slots: [DeviceSlot] { windows.map(\.slot) }
    /// Those that are there now.
    var virtio: [VirtioMMIODevice] { windows.compactMap(\.device) }

    /// - Parameters:
    ///   - saved: what the devices go on from; nil for fresh ones.
    ///   - taps: those of interfaces that were opened before, by the names of the interfaces.
    init(
        _ configuration: MachineConfiguration, saved: MachineState?, taps: [String: TapDevice], memory: GuestMemory,
        loop: DeviceLoop, report: @escaping MachineEventHandler
    ) throws(MachineError) {
        let sink = try Self.openConsole(configuration.serial)
        let serial = try system("the serial port") { () throws(SystemError) in
            try Serial16550(sink: sink, limit: configuration.serial.limit)
        }
        if let saved { serial.restore(saved.serial) }
        try system("the serial port") { () throws(SystemError) in try serial.attach(to: loop) }
        let keyboard = try system("the keyboard controller") { () throws(SystemError) in try I8042(report: report) }
        if let saved { keyboard.restore(saved.keyboard) }
        ports = PortBus(
            serial: serial, keyboard: keyboard, panic: PVPanic(report: report),
            power: PowerControl(report: report))
        workers = IOWorkers()

        let identities = saved?.devices.map(\.identity) ?? Self.identities(configuration)
        let count = saved?.slotCount ?? identities.count + configuration.spareSlotCount
        guard count <= GuestLayout.maximumDeviceCount else {
            throw .configuration(
                field: configuration.spareSlotCount > 0 ? "spare-slots" : "drives",
                problem: "there are \(count) drives, interfaces, other devices and spare slots; "
                    + "\(GuestLayout.maximumDeviceCount) are the most")
        }
        windows = (0..<count).map { DeviceWindow(DeviceSlot(index: $0)) }
        var vsockFile: SocketFile?
        for (index, identity) in identities.enumerated() {
            let device: VirtioMMIODevice
            if identity == .vsock, let vsock = configuration.vsock {
                let (opened, file) = try Self.openVsock(vsock, memory: memory)
                device = opened
                vsockFile = file
            } else {
                device = try Self.open(
                    identity, configuration, taps: taps, pairs: saved.flatMap { Self.queuePairs($0.devices[index]) },
                    workers: workers, memory: memory)
            }
            let state = saved?.devices[index]
            if let state, !device.restore(state.state) {
                throw .incompatible(
                    "the driver of the device in slot \(state.slot) uses it as this monitor's cannot be")
            }
            try system("a virtio device") { () throws(SystemError) in try device.attach(to: loop) }
            windows[state?.slot ?? index].fill(device, identity)
        }
        self.vsockFile = vsockFile
    }

    /// What a fresh machine has, in the order of the slots.
    private static func identities(_ configuration: MachineConfiguration) -> [DeviceIdentity] {
        var result = order(configuration.drives).map { DeviceIdentity.drive(configuration.drives[$0].identifier) }
        result += configuration.networkInterfaces.map { .interface($0.identifier) }
        if configuration.vsock != nil { result.append(.vsock) }
        if configuration.hasEntropyDevice { result.append(.entropy) }
        return result
    }

    /// How many pairs of queues a saved interface has, whatever one of its configuration had today.
    private static func queuePairs(_ device: SavedDevice) -> Int? {
        guard case .interface = device.identity else { return nil }
        return NetDevice.pairs(queueCount: device.state.record.queues.count).flatMap {
            $0 <= NetworkInterface.queuePairLimit ? $0 : nil
        }
    }

    /// - Parameter pairs: of an interface's queues, where its state is there already.
    private static func open(
        _ identity: DeviceIdentity, _ configuration: MachineConfiguration, taps: [String: TapDevice], pairs: Int?,
        workers: IOWorkers, memory: GuestMemory
    ) throws(MachineError) -> VirtioMMIODevice {
        switch identity {
        case .drive(let name):
            if let index = configuration.drives.firstIndex(where: { $0.identifier == name }) {
                return try openDrive(configuration.drives[index], "drives[\(index)]", workers: workers, memory: memory)
            }
        case .interface(let name):
            if let index = configuration.networkInterfaces.firstIndex(where: { $0.identifier == name }) {
                let interface = configuration.networkInterfaces[index]
                return try openInterface(
                    interface, "network-interfaces[\(index)]", tap: taps[name],
                    pairs: pairs ?? interface.queuePairs(forProcessors: configuration.machine.vcpuCount), memory: memory
                )
            }
        case .entropy:
            return try device("entropy") { () throws(DeviceError) in
                try EntropyDevice(limit: configuration.entropyLimit, memory: memory)
            }
        case .vsock: break
        }
        preconditionFailure("a device's identity comes from the configuration, or was compared with it")
    }

    /// The machine has ended: what is still in buffers is written, and files that were made go.
    func finish() {
        ports.serial.finish()
        vsockFile?.remove()
    }

    // MARK: - Serial port

    private static func openConsole(_ serial: Serial) throws(MachineError) -> SharedDescriptor {
        guard let path = serial.outputPath else {
            return try system("the standard output") { () throws(SystemError) in
                SharedDescriptor(try ConsoleOutput.standard())
            }
        }
        do throws(SystemError) { return SharedDescriptor(try ConsoleOutput.file(path)) } catch {
            throw .configuration(
                field: "serial.serial_out_path", problem: "cannot open \(path): \(error.reason)")
        }
    }

    // MARK: - Disks

    /// The root device first: it is `/dev/vda` whatever its place in the list.
    static func order(_ drives: [Drive]) -> [Int] {
        let roots = drives.indices.filter { drives[$0].isRootDevice }
        return roots + drives.indices.filter { !drives[$0].isRootDevice }
    }

    /// What tells the kernel of its root device.
    static func rootArguments(_ drives: [Drive]) -> String {
        guard let root = drives.first(where: \.isRootDevice) else { return "" }
        let device = root.partitionIdentifier.map { "PARTUUID=\($0)" } ?? "/dev/vda"
        return "root=\(device) \(root.isReadOnly ? "ro" : "rw")"
    }

    static func openDrive(
        _ drive: Drive, _ field: String, workers: IOWorkers, memory: GuestMemory
    ) throws(MachineError) -> BlockDevice {
        let backend = try openBackend(drive, field)
        return try device(field) { () throws(DeviceError) in
            try BlockDevice(
                id: drive.identifier, backend: backend, cacheType: drive.cache == .writeback ? .writeback : .unsafe,
                limit: drive.limit, workers: workers, memory: memory)
        }
    }

    static func openBackend(_ drive: Drive, _ field: String) throws(MachineError) -> BlockBackend {
        switch drive.content {
        case .path(let path): return try openWhole(.path(path), drive, "\(field).path_on_host")
        case .descriptor(let number): return try openWhole(.descriptor(number), drive, "\(field).fd")
        case .extents(let extents):
            return try openExtents(extents, field)
        }
    }

    private static func openWhole(
        _ file: HostFile, _ drive: Drive, _ field: String
    ) throws(MachineError) -> BlockBackend {
        let opened = SharedDescriptor(try file.open(isReadOnly: drive.isReadOnly, field))
        return try device("\(field) \(file)") { () throws(DeviceError) in
            drive.isReadOnly ? try BlockBackend(readOnly: opened) : try BlockBackend(writable: opened)
        }
    }

    private static func openExtents(_ extents: [Drive.Extent], _ field: String) throws(MachineError) -> BlockBackend {
        var files: [HostFile: SharedDescriptor] = [:]
        var parts: [BlockExtent] = []
        for (index, extent) in extents.enumerated() {
            let field = "\(field).extents[\(index)].\(extent.file.descriptor == nil ? "path" : "fd")"
            let file: SharedDescriptor
            if let known = files[extent.file] {
                file = known
            } else {
                file = SharedDescriptor(try extent.file.open(isReadOnly: true, field))
                files[extent.file] = file
            }
            var count = extent.length ?? 0
            if extent.length == nil {
                let size = try system("\(field) \(extent.file)") { () throws(SystemError) in
                    try file.descriptor.size()
                }
                guard size >= extent.offset else {
                    throw .configuration(
                        field: field, problem: "\(extent.file) ends at \(size), before the offset \(extent.offset)")
                }
                count = size - extent.offset
            }
            parts.append(BlockExtent(file: file, offset: extent.offset, count: count))
        }
        return try device("\(field).extents") { () throws(DeviceError) in try BlockBackend(parts) }
    }

    // MARK: - Network and vsock

    /// - Parameters:
    ///   - tap: the TAP device, where it was opened before.
    ///   - pairs: of queues.
    static func openInterface(
        _ interface: NetworkInterface, _ field: String, tap: TapDevice?, pairs: Int, memory: GuestMemory
    ) throws(MachineError) -> NetDevice {
        let peer = try openPeer(interface.peer, field, tap, pairs)
        let bytes = (interface.guestMAC ?? .random()).bytes
        let address = InlineArray<6, UInt8> { bytes[$0] }
        return try device(field) { () throws(DeviceError) in
            try NetDevice(
                peer: peer, address: MACAddress(address), mtu: interface.mtu ?? 1500, pairs: pairs,
                receiveLimit: interface.receiveLimit, transmitLimit: interface.transmitLimit, memory: memory)
        }
    }

    private static func openPeer(
        _ peer: NetworkInterface.Peer, _ field: String, _ tap: TapDevice?, _ pairs: Int
    ) throws(MachineError) -> NetPeer {
        do throws(TapError) {
            switch peer {
            case .socket(let path): return .path(path)
            case .tap(let name):
                let first = if let tap { tap } else { try TapDevice(name, severalQueues: pairs > 1) }
                return .tap(try first.queues(pairs))
            case .descriptor(let number): return try NetPeer(descriptor: number)
            }
        } catch {
            let name = if case .descriptor = peer { "host_dev_fd" } else { "host_dev_name" }
            throw .configuration(field: "\(field).\(name)", problem: "\(error)")
        }
    }

    private static func openVsock(
        _ vsock: Vsock, memory: GuestMemory
    ) throws(MachineError) -> (VsockDevice, SocketFile?) {
        let path = vsock.socketPath
        if let number = vsock.listener {
            do {
                let listener = try StartingDescriptor.socket(number, listens: true)
                // Whoever made the socket removes its name.
                return (
                    try VsockDevice(
                        guestCID: UInt64(vsock.guestCID), path: path, listener: listener, memory: memory), nil
                )
            } catch {
                throw .configuration(field: "vsock.uds_fd", problem: "\(error)")
            }
        }
        do throws(DeviceError) {
            let device = try VsockDevice(guestCID: UInt64(vsock.guestCID), path: path, memory: memory)
            return (device, SocketFile(path))
        } catch {
            guard case .system(let cause) = error, cause.code == EADDRINUSE else {
                throw .configuration(field: "vsock.uds_path", problem: "\(error)")
            }
            throw .configuration(
                field: "vsock.uds_path",
                problem: "\(path) exists: another machine listens there, or one that was killed left it; "
                    + "remove it or name another")
        }
    }

    // MARK: - Errors

    private static func device<Result>(
        _ field: String, _ body: () throws(DeviceError) -> Result
    ) throws(MachineError) -> Result {
        do throws(DeviceError) { return try body() } catch {
            throw .configuration(field: field, problem: "\(error)")
        }
    }
}

/// The name of a socket that this process made, which goes with its last owner, or before.
private final class SocketFile: Sendable {
    private let path: String
    private let isThere = Atomic(true)

    init(_ path: String) { self.path = path }

    deinit { remove() }

    func remove() {
        if isThere.exchange(false, ordering: .acquiringAndReleasing) { Files.remove(path) }
    }
}
