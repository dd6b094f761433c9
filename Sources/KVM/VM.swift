// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import Platform

/// A virtual machine as KVM knows it: memory slots, interrupts, event descriptors (KVM API, "VM ioctls").
/// Its vCPUs keep the kernel's side of it alive, so the order in which they end does not matter.
package struct VM: ~Copyable, Sendable {
    let descriptor: Descriptor
    let sharedSizeInBytes: Int

    /// Gives the guest a range of physical memory, or takes the slot's memory away (a count of 0).
    /// - Parameters:
    ///   - slot: the range's number, below what KVM_CAP_NR_MEMSLOTS says.
    ///   - guestAddress: guest-physical, a multiple of 4 KiB.
    ///   - host: where the memory lies in this process. It must stay mapped for as long as the slot is there.
    ///   - tracksDirtyPages: KVM records which pages the guest writes.
    @unsafe package borrowing func setMemory(
        slot: UInt32, guestAddress: UInt64, host: UnsafeMutableRawPointer, countInBytes: UInt64,
        tracksDirtyPages: Bool = false
    ) throws(KVMError) {
        var region = kvm_userspace_memory_region(
            slot: slot, flags: tracksDirtyPages ? 1 : 0, guest_phys_addr: guestAddress, memory_size: countInBytes,
            userspace_addr: UInt64(UInt(bitPattern: host)))
        try control(
            descriptor, CLINUX_KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", with: &region)
    }

    /// Takes the bits of the pages that the guest, or KVM for it, wrote since the last call, 64 pages a word, for a slot
    /// that tracks them.
    package borrowing func takeDirtyLog(slot: UInt32, pageCount: Int) throws(KVMError) -> [UInt64] {
        var bits = [UInt64](repeating: 0, count: (pageCount + 63) / 64)
        let raw = descriptor.raw
        let result = unsafe bits.withUnsafeMutableBytes { space in
            var log = unsafe kvm_dirty_log()
            unsafe log.slot = slot
            unsafe log.dirty_bitmap = space.baseAddress
            return unsafe withUnsafeMutablePointer(to: &log) { log in
                retryingInterrupts { unsafe clinux_ioctl_pointer(raw, CLINUX_KVM_GET_DIRTY_LOG, log) }
            }
        }
        guard result >= 0 else { throw .call(SystemError("ioctl", "KVM_GET_DIRTY_LOG")) }
        return bits
    }

    /// Each signal on `counter` becomes an edge on an interrupt line of the in-kernel interrupt controllers.
    /// - Parameter line: the GSI, below 24.
    package borrowing func connectInterrupt(_ counter: borrowing EventCounter, line: UInt32) throws(KVMError) {
        try setInterrupt(counter, line, flags: 0)
    }

    /// Undoes `connectInterrupt`: the counter's signals go nowhere.
    package borrowing func disconnectInterrupt(_ counter: borrowing EventCounter, line: UInt32) throws(KVMError) {
        try setInterrupt(counter, line, flags: 1)  // KVM_IRQFD_FLAG_DEASSIGN
    }

    private borrowing func setInterrupt(
        _ counter: borrowing EventCounter, _ line: UInt32, flags: UInt32
    ) throws(KVMError) {
        var request = kvm_irqfd()
        request.fd = UInt32(bitPattern: counter.descriptor.raw)
        request.gsi = line
        request.flags = flags
        try control(descriptor, CLINUX_KVM_IRQFD, "KVM_IRQFD", with: &request)
    }

    /// A guest's 4-byte write of `value` to a guest-physical address signals `counter` instead of leaving the guest.
    package borrowing func connectNotification(
        _ counter: borrowing EventCounter, address: UInt64, value: UInt32
    ) throws(KVMError) {
        try setNotification(counter, address, value, flags: 1)  // KVM_IOEVENTFD_FLAG_DATAMATCH
    }

    /// Undoes `connectNotification`: such a write leaves the guest again.
    package borrowing func disconnectNotification(
        _ counter: borrowing EventCounter, address: UInt64, value: UInt32
    ) throws(KVMError) {
        // KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_DEASSIGN
        try setNotification(counter, address, value, flags: 1 | 4)
    }

    private borrowing func setNotification(
        _ counter: borrowing EventCounter, _ address: UInt64, _ value: UInt32, flags: UInt32
    ) throws(KVMError) {
        var request = kvm_ioeventfd()
        request.datamatch = UInt64(value)
        request.addr = address
        request.len = 4
        request.fd = counter.descriptor.raw
        request.flags = flags
        try control(descriptor, CLINUX_KVM_IOEVENTFD, "KVM_IOEVENTFD", with: &request)
    }

    /// A new vCPU, stopped, in its architecture's reset state.
    /// - Parameter index: its number, which becomes its APIC id on x86-64.
    package borrowing func createVCPU(index: Int) throws(KVMError) -> VCPU {
        let raw = try control(descriptor, CLINUX_KVM_CREATE_VCPU, "KVM_CREATE_VCPU", UInt(index))
        return try VCPU(index: index, descriptor: Descriptor(owning: raw), sharedSizeInBytes: sharedSizeInBytes)
    }
}
