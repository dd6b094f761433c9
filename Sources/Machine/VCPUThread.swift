// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import Platform

/// A vCPU and what it does when it leaves the guest. No allocation and no lock of its own on that path.
///
/// `@unchecked Sendable`: the vCPU belongs to its thread; `kick` is for any.
final class VCPURunner: @unchecked Sendable {
    let vcpu: VCPU
    let kick: VCPUKick
    private unowned let machine: Machine
    private let gate: Gate
    private let ports: PortBus
    private let windows: WindowBus
    let exits = ExitCounters()

    init(_ vcpu: consuming VCPU, machine: Machine, gate: Gate, ports: PortBus, windows: WindowBus) {
        kick = vcpu.makeKick()
        self.vcpu = vcpu
        self.machine = machine
        self.gate = gate
        self.ports = ports
        self.windows = windows
    }

    /// Runs the guest until the machine ends. The thread belongs to the gate, and stands there only when the vCPU has
    /// been interrupted: then what an exit asked for has reached the guest's registers, and KVM has all of its state.
    func run() {
        defer { gate.leave() }
        gate.pass()
        if vcpu.index == 0 { machine.willRunFirstInstruction() }
        do throws(KVMError) {
            while !machine.hasEnded {
                switch try vcpu.run() {
                case .portWrite(let port, let size, let data):
                    ExitCounters.count(exits.portWrites)
                    ports.write(port, size, data)
                case .portRead(let port, let size, let data):
                    ExitCounters.count(exits.portReads)
                    ports.read(port, size, data)
                case .memoryWrite(let address, let data):
                    ExitCounters.count(exits.memoryWrites)
                    if !windows.write(address, data), address == GuestLayout.bootTimer { machine.bootTimer(data) }
                case .memoryRead(let address, let data):
                    ExitCounters.count(exits.memoryReads)
                    windows.read(address, data)
                case .interrupted: gate.pass()
                case .shutdown: machine.end(.tripleFault)
                case .systemEvent(1): machine.end(.powerOff)
                case .systemEvent(2): machine.end(.reboot)
                case .systemEvent(3): machine.end(.panic)
                case .systemEvent(let kind): machine.end(.internalError("KVM system event \(kind)"))
                case .halted: machine.end(.internalError("vCPU \(vcpu.index) halted outside KVM's own chipset"))
                case .internalError(let error): machine.end(.internalError("vCPU \(vcpu.index): \(error)"))
                case .entryFailed(let reason):
                    machine.end(
                        .internalError(
                            "vCPU \(vcpu.index): the processor refuses its state, reason 0x\(String(reason, radix: 16))"
                        ))
                case .unexpected(let reason):
                    machine.end(.internalError("vCPU \(vcpu.index): KVM exit reason \(reason)"))
                }
            }
        } catch {
            machine.end(.internalError("vCPU \(vcpu.index): \(error)"))
        }
    }
}

/// Who answers on I/O ports. The few devices are looked through in order, the busiest first.
struct PortBus: Sendable {
    let serial: Serial16550
    let keyboard: I8042
    let panic: PVPanic
    let power: PowerControl

    @inline(__always)
    private func device(_ port: UInt16) -> PortDevice? {
        if Serial16550.ports.contains(port) { return serial }
        if I8042.ports.contains(port) { return keyboard }
        if PVPanic.ports.contains(port) { return panic }
        if PowerControl.ports.contains(port) { return power }
        return nil
    }

    /// One access, or those of a string instruction one after another.
    func write(_ port: UInt16, _ size: Int, _ data: ExitData) {
        guard let device = device(port) else { return }
        for start in stride(from: 0, to: data.count, by: size) {
            unsafe device.write(
                port: port, bytes: UnsafeRawBufferPointer(start: data.start + start, count: size))
        }
    }

    func read(_ port: UInt16, _ size: Int, _ data: ExitData) {
        // Nobody drives the lines of a PC's bus: they read as ones.
        guard let device = device(port) else { return data.fill(0xff) }
        for start in stride(from: 0, to: data.count, by: size) {
            unsafe device.read(
                port: port, into: UnsafeMutableRawBufferPointer(start: data.start + start, count: size))
        }
    }
}

/// The virtio devices by their windows, which lie one after another: an address gives the index.
struct WindowBus: Sendable {
    let windows: [DeviceWindow]

    @inline(__always)
    private func find(_ address: UInt64) -> (window: DeviceWindow, offset: UInt64)? {
        let offset = address &- GuestLayout.deviceWindows
        let index = offset / GuestLayout.deviceWindowSize
        guard index < UInt64(windows.count) else { return nil }
        return (windows[Int(index)], offset % GuestLayout.deviceWindowSize)
    }

    /// Whether there was a device.
    func write(_ address: UInt64, _ data: ExitData) -> Bool {
        guard let (window, offset) = find(address) else { return false }
        unsafe window.write(offset: offset, bytes: UnsafeRawBufferPointer(data.buffer))
        return true
    }

    func read(_ address: UInt64, _ data: ExitData) {
        guard let (window, offset) = find(address) else { return data.fill(0xff) }
        unsafe window.read(offset: offset, into: data.buffer)
    }
}
