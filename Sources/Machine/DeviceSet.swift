// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI
internal import Platform
internal import Virtio

/// A machine's devices, opened and attached to the loop.
struct DeviceSet: Sendable {
    let ports: PortBus
    let virtio: [VirtioMMIODevice]

    var slots: [DeviceSlot] { virtio.indices.map(DeviceSlot.init(index:)) }

    init(
        _ configuration: MachineConfiguration, memory: GuestMemory, loop: DeviceLoop,
        report: @escaping MachineEventHandler
    ) throws(MachineError) {
        let sink = try Self.openConsole(configuration.serial)
        let serial = try system("the serial port") { () throws(SystemError) in try Serial16550(sink: sink) }
        try system("the serial port") { () throws(SystemError) in try serial.attach(to: loop) }
        ports = PortBus(
            serial: serial, keyboard: I8042(report: report), panic: PVPanic(report: report),
            power: PowerControl(report: report))
        virtio = []
    }

    private static func openConsole(_ serial: Serial) throws(MachineError) -> SharedDescriptor {
        guard let path = serial.outputPath else {
            return try system("the standard output") { () throws(SystemError) in
                let copy = clinux_fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                guard copy >= 0 else { throw SystemError("fcntl", "standard output") }
                return SharedDescriptor(Descriptor(owning: copy))
            }
        }
        do throws(SystemError) {
            return SharedDescriptor(try Descriptor.open(path, .append))
        } catch {
            throw .configuration(field: "serial.serial_out_path", problem: "cannot open \(path): \(error.reason)")
        }
    }

    /// What tells the kernel of its root device.
    static func rootArguments(_ drives: [Drive]) -> String {
        guard let root = drives.first(where: \.isRootDevice) else { return "" }
        let device = root.partitionIdentifier.map { "PARTUUID=\($0)" } ?? "/dev/vda"
        return "root=\(device) \(root.isReadOnly ? "ro" : "rw")"
    }

    /// The machine has ended: what is still in buffers is written.
    func finish() {
        ports.serial.flush()
    }
}
