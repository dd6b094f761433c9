// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform

/// What decides whether a state that was taken elsewhere can go on under this host's KVM.
package struct HostAbilities: Equatable, Sendable {
    /// What CPUID may tell a guest.
    package var cpuid = CPUIDTable(entries: [])
    /// The numbers of the registers that KVM saves and restores.
    package var modelSpecificRegisters: [UInt32] = []
    /// The XSAVE area, in bytes.
    package var extendedStateSize = 4096
    /// The area is asked for by KVM_GET_XSAVE2. Of the host alone, not compared.
    package var hasLargeExtendedState = false
    /// In bytes; 0 where there is none.
    package var nestedStateSize = 0
    package var timestampFrequencyInKHz: UInt32 = 0
    /// A guest's time-stamp counter can have another frequency than the host's.
    package var scalesTimestamps = false

    package init() {}
}

extension KVMSystem {
    /// The numbers of the model-specific registers that make up a vCPU's state.
    borrowing func modelSpecificRegisterNumbers() throws(KVMError) -> [UInt32] {
        // struct kvm_msr_list: the count, then 32 bits each.
        let capacity = 4095
        var words = [UInt64](repeating: 0, count: (capacity + 1) / 2)
        words[0] = UInt64(capacity)
        try control(descriptor, CLINUX_KVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", words: &words)
        let count = min(capacity, Int(UInt32(truncatingIfNeeded: words[0])))
        return (1...max(1, count)).prefix(count).map { index in
            UInt32(truncatingIfNeeded: words[index / 2] >> (index % 2 == 0 ? 0 : 32))
        }
    }

    /// What this host can do for a guest in `vm`.
    package borrowing func abilities(_ vm: borrowing VM, supported: CPUIDTable) throws(KVMError) -> HostAbilities {
        var result = HostAbilities()
        result.cpuid = supported
        result.modelSpecificRegisters = try modelSpecificRegisterNumbers()
        let size = vm.value(of: .largeExtendedState)
        result.hasLargeExtendedState = size > 0
        result.extendedStateSize = max(4096, Int(size))
        result.nestedStateSize = Int(value(of: .nestedState))
        result.scalesTimestamps = value(of: .timestampControl) > 0
        result.timestampFrequencyInKHz = UInt32(max(0, clinux_ioctl(vm.descriptor.raw, CLINUX_KVM_GET_TSC_KHZ, 0)))
        return result
    }
}

extension VM {
    /// What KVM answers for a capability of this VM: 0 where it is missing.
    package borrowing func value(of capability: StaticCapability) -> Int32 {
        max(0, clinux_ioctl(descriptor.raw, CLINUX_KVM_CHECK_EXTENSION, UInt(capability.number)))
    }
}

extension StaticCapability {
    package static let largeExtendedState = StaticCapability(name: "KVM_CAP_XSAVE2", number: KVM_CAP_XSAVE2)
    package static let nestedState = StaticCapability(name: "KVM_CAP_NESTED_STATE", number: KVM_CAP_NESTED_STATE)
    package static let timestampControl = StaticCapability(name: "KVM_CAP_TSC_CONTROL", number: KVM_CAP_TSC_CONTROL)
}
