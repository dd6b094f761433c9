// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform

/// All that KVM keeps of a VM beside its vCPUs and its memory.
package struct ChipsetState: Equatable, Sendable {
    /// struct kvm_irqchip of the two 8259s and the IOAPIC.
    package var interruptControllers: [[UInt8]] = []
    /// struct kvm_pit_state2.
    package var timer: [UInt8] = []
    /// KVM's clock, which guests count their time by; in nanoseconds.
    package var clock: UInt64 = 0

    package init() {}

    package static let interruptControllerCount = 3
    package static let interruptControllerSize = MemoryLayout<kvm_irqchip>.size
    package static let timerSize = MemoryLayout<kvm_pit_state2>.size
}

extension VM {
    /// Takes everything; no vCPU runs.
    package borrowing func captureChipset() throws(KVMError) -> ChipsetState {
        var state = ChipsetState()
        for index in 0..<ChipsetState.interruptControllerCount {
            var bytes = [UInt8](repeating: 0, count: ChipsetState.interruptControllerSize)
            bytes[0] = UInt8(index)
            try control(descriptor, CLINUX_KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", bytes: &bytes)
            state.interruptControllers.append(bytes)
        }
        state.timer = [UInt8](repeating: 0, count: ChipsetState.timerSize)
        try control(descriptor, CLINUX_KVM_GET_PIT2, "KVM_GET_PIT2", bytes: &state.timer)
        var clock = kvm_clock_data()
        try control(descriptor, CLINUX_KVM_GET_CLOCK, "KVM_GET_CLOCK", with: &clock)
        state.clock = clock.clock
        return state
    }

    /// Gives a VM with a chipset, and vCPUs that have their states, a kept one, whose parts have the right sizes.
    /// - Parameter clock: what KVM's clock goes on from, in nanoseconds.
    package borrowing func restoreChipset(_ state: ChipsetState, clock: UInt64) throws(KVMError) {
        guard state.timer.count == ChipsetState.timerSize else {
            throw .call(SystemError("ioctl", "KVM_SET_PIT2: a state of another size", code: 22))
        }
        var timer = state.timer
        try control(descriptor, CLINUX_KVM_SET_PIT2, "KVM_SET_PIT2", bytes: &timer)
        var data = kvm_clock_data()
        data.clock = clock
        try control(descriptor, CLINUX_KVM_SET_CLOCK, "KVM_SET_CLOCK", with: &data)
        for controller in state.interruptControllers {
            guard controller.count == ChipsetState.interruptControllerSize else {
                throw .call(SystemError("ioctl", "KVM_SET_IRQCHIP: a state of another size", code: 22))
            }
            var bytes = controller
            try control(descriptor, CLINUX_KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", bytes: &bytes)
        }
    }

    /// An edge on an interrupt line, there when this returns.
    /// - Parameter line: the GSI, below 24.
    package borrowing func pulse(line: UInt32) throws(KVMError) {
        for level in [1, 0] as [UInt32] {
            var request = kvm_irq_level()
            request.irq = line
            request.level = level
            try control(descriptor, CLINUX_KVM_IRQ_LINE, "KVM_IRQ_LINE", with: &request)
        }
    }
}
