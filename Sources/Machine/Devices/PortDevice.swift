// SPDX-License-Identifier: Apache-2.0

package import Platform
internal import Synchronization

/// A device on x86 I/O ports, accessed byte by byte from vCPU threads.
package class PortDevice: EventHandler, @unchecked Sendable {
    package let ports: ClosedRange<UInt16>
    /// Accesses so far.
    final let reads = Atomic<UInt64>(0)
    final let writes = Atomic<UInt64>(0)

    init(ports: ClosedRange<UInt16>) {
        self.ports = ports
    }

    /// Reads the port `offset` above the device's first.
    func readByte(_ offset: UInt16) -> UInt8 { 0xff }

    /// Writes the port `offset` above the device's first.
    func writeByte(_ offset: UInt16, _ value: UInt8) {}

    /// An access of 1, 2 or 4 bytes, which ISA splits into ports one after another; beyond the device there is nothing.
    package final func read(port: UInt16, into bytes: UnsafeMutableRawBufferPointer) {
        reads.add(1, ordering: .relaxed)
        for index in 0..<bytes.count {
            let address = UInt32(port) + UInt32(index)
            unsafe bytes[index] =
                address <= 0xffff && ports.contains(UInt16(address))
                ? readByte(UInt16(address) - ports.lowerBound) : 0xff
        }
    }

    package final func write(port: UInt16, bytes: UnsafeRawBufferPointer) {
        writes.add(1, ordering: .relaxed)
        for index in 0..<bytes.count {
            let address = UInt32(port) + UInt32(index)
            guard address <= 0xffff, ports.contains(UInt16(address)) else { return }
            unsafe writeByte(UInt16(address) - ports.lowerBound, bytes[index])
        }
    }
}

/// The keyboard controller, with the reset line and a keyboard whose only keys are Ctrl, Alt and Delete.
package final class I8042: PortDevice, @unchecked Sendable {
    package static let ports: ClosedRange<UInt16> = 0x60...0x64
    package static let interruptLine: UInt32 = 1

    /// Signalled for each interrupt: the machine attaches it to line 1 (irqfd, edge).
    package let interrupt: EventCounter
    private let controller = Mutex(KeyboardController())
    private let report: MachineEventHandler

    package init(report: @escaping MachineEventHandler) throws(SystemError) {
        interrupt = try EventCounter()
        self.report = report
        super.init(ports: Self.ports)
    }

    /// What the driver has made of it, with the vCPUs standing still.
    func captureState() -> KeyboardController { controller.withLock { $0 } }

    /// Gives a fresh one a kept state, before anything runs.
    func restore(_ state: KeyboardController) {
        controller.withLock { $0 = state }
        if state.interruptPending { interrupt.signal() }
    }

    /// Presses Ctrl, Alt and Delete. For any thread.
    /// - Returns: whether there was room for it: a guest that reads none of what its keyboard says has none.
    func pressCtrlAltDelete() -> Bool {
        guard let effect = controller.withLock({ $0.pressCtrlAltDelete() }) else { return false }
        perform(effect)
        return true
    }

    override func readByte(_ offset: UInt16) -> UInt8 {
        let (value, effect) = controller.withLock { $0.read(offset) }
        perform(effect)
        return value
    }

    override func writeByte(_ offset: UInt16, _ value: UInt8) {
        perform(controller.withLock { $0.write(offset, value) })
    }

    private func perform(_ effect: KeyboardController.Effect) {
        if effect.contains(.interrupt) { interrupt.signal() }
        if effect.contains(.reset) { report(.reboot) }
    }
}

/// The pvpanic device: a kernel that panics says so.
package final class PVPanic: PortDevice, @unchecked Sendable {
    package static let ports: ClosedRange<UInt16> = 0x505...0x505

    private let report: MachineEventHandler

    package init(report: @escaping MachineEventHandler) {
        self.report = report
        super.init(ports: Self.ports)
    }

    /// The events that are supported: bit 0, panicked.
    override func readByte(_ offset: UInt16) -> UInt8 { 1 }

    override func writeByte(_ offset: UInt16, _ value: UInt8) {
        if value & 1 != 0 { report(.panic) }
    }
}

/// The sleep and reset registers of a hardware-reduced ACPI machine (ACPI 6.5 §4.8.3.7, §4.8.3.6), as its FADT names
/// them.
package final class PowerControl: PortDevice, @unchecked Sendable {
    package static let ports: ClosedRange<UInt16> = 0x600...0x602
    package static let sleepControlPort: UInt16 = 0x600
    package static let sleepStatusPort: UInt16 = 0x601
    package static let resetPort: UInt16 = 0x602
    /// What the reset register wants.
    package static let resetValue: UInt8 = 1
    /// SLP_TYP of the soft-off state, as the DSDT's `\_S5` gives it.
    package static let softOffType: UInt8 = 5

    private let report: MachineEventHandler

    package init(report: @escaping MachineEventHandler) {
        self.report = report
        super.init(ports: Self.ports)
    }

    override func readByte(_ offset: UInt16) -> UInt8 { 0 }

    override func writeByte(_ offset: UInt16, _ value: UInt8) {
        switch ports.lowerBound + offset {
        case Self.sleepControlPort:
            // SLP_EN is bit 5, SLP_TYP bits 2 to 4.
            if value & 0x20 != 0, value >> 2 & 7 == Self.softOffType { report(.powerOff) }
        case Self.resetPort:
            if value == Self.resetValue { report(.reboot) }
        default:
            break
        }
    }
}
