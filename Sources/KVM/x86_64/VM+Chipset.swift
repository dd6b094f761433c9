// SPDX-License-Identifier: Apache-2.0

internal import CLinux

extension VM {
    /// The in-kernel chipset: two 8259s, an IOAPIC with 24 lines, a local APIC for each vCPU made afterwards, and the
    /// 8254 timer with a speaker port that does nothing.
    /// - Parameter stateSegment: four unused pages below 4 GiB that Intel processors need for real mode.
    package borrowing func createChipset(stateSegment: UInt32) throws(KVMError) {
        var identityMap = UInt64(stateSegment) - 0x1000
        try control(
            descriptor, CLINUX_KVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", with: &identityMap)
        try control(descriptor, CLINUX_KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", UInt(stateSegment))
        try control(descriptor, CLINUX_KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP")
        var timer = kvm_pit_config()
        timer.flags = 1  // KVM_PIT_SPEAKER_DUMMY
        try control(descriptor, CLINUX_KVM_CREATE_PIT2, "KVM_CREATE_PIT2", with: &timer)
    }
}

extension StaticCapability {
    package static let userTSS = StaticCapability(name: "KVM_CAP_SET_TSS_ADDR", number: KVM_CAP_SET_TSS_ADDR)
    package static let timer = StaticCapability(name: "KVM_CAP_PIT2", number: KVM_CAP_PIT2)
    package static let extendedCPUID = StaticCapability(name: "KVM_CAP_EXT_CPUID", number: KVM_CAP_EXT_CPUID)
    package static let deadlineTimer = StaticCapability(
        name: "KVM_CAP_TSC_DEADLINE_TIMER", number: KVM_CAP_TSC_DEADLINE_TIMER)

    /// What every machine needs.
    package static let requiredForMachines: [StaticCapability] = [
        .irqchip, .userMemory, .irqfd, .ioeventfd, .immediateExit, .userTSS, .timer, .extendedCPUID,
    ]
}
