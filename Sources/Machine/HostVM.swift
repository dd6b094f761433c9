// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import MachineAPI

/// A VM of this host's KVM with its chipset, and what the host can do for it.
struct HostVM: ~Copyable {
    let vm: VM
    let supported: CPUIDTable
    let abilities: HostAbilities
    let hasDeadlineTimer: Bool

    init(_ settings: MachineSettings) throws(MachineError) {
        let host = try kvm { () throws(KVMError) in try KVMSystem() }
        try kvm { () throws(KVMError) in try host.require(StaticCapability.requiredForMachines) }
        let maximum = host.value(of: .maximumVCPUs)
        guard settings.vcpuCount <= max(1, maximum) else {
            throw .configuration(
                field: "machine-config.vcpu_count", problem: "this host's KVM allows \(maximum) vCPUs in a machine")
        }
        let vm = try kvm { () throws(KVMError) in try host.createVM() }
        try kvm { () throws(KVMError) in try vm.createChipset(stateSegment: GuestLayout.stateSegment) }
        let supported = try kvm { () throws(KVMError) in try host.supportedCPUID() }
        let abilities = try kvm { () throws(KVMError) in try host.abilities(vm, supported: supported) }
        hasDeadlineTimer = host.value(of: .deadlineTimer) > 0
        self.supported = supported
        self.abilities = abilities
        self.vm = vm
    }
}
