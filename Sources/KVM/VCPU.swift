// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import Platform

/// A virtual processor (KVM API, "vcpu ioctls"). All calls are made by the thread that runs it, except for those of
/// its `VCPUKick`, and those before it runs for the first time.
@safe package struct VCPU: ~Copyable, @unchecked Sendable {  // Moved to its thread once, then used by that alone.
    package let index: Int
    let descriptor: Descriptor
    private let shared: MemoryMapping

    init(index: Int, descriptor: consuming Descriptor, sharedSizeInBytes: Int) throws(KVMError) {
        let raw = descriptor.raw
        shared = try system { () throws(SystemError) in
            let mapping = try MemoryMapping(count: sharedSizeInBytes, file: raw)
            // In a forked process it would be of no use, and keep the VM there.
            try mapping.advise(MADV_DONTFORK)
            return mapping
        }
        self.index = index
        self.descriptor = descriptor
    }

    /// What makes this vCPU leave the guest. It must not be used after the vCPU has ended.
    package borrowing func makeKick() -> VCPUKick {
        unsafe VCPUKick(immediateExit: shared.start + Int(clinux_kvm_run_immediate_exit))
    }

    /// Has a range of the guest's memory in its page tables before it is touched. For as many as the monitor has in its
    /// own already this is much cheaper than a touch each; the guest must not run.
    /// - Returns: false where the host's kernel cannot do that.
    package borrowing func prefault(_ guestAddress: UInt64, count: UInt64) -> Bool {
        clinux_kvm_prefault(descriptor.raw, guestAddress, count) == 0
    }

    /// Runs the guest until it leaves for a reason that the monitor has to see to.
    package borrowing func run() throws(KVMError) -> KVMExit {
        guard clinux_ioctl(descriptor.raw, CLINUX_KVM_RUN, 0) == 0 else {
            let code = clinux_errno()
            guard code == EINTR || code == EAGAIN else { throw .call(SystemError("ioctl", "KVM_RUN", code: code)) }
            return .interrupted
        }
        switch field(clinux_kvm_run_exit_reason, as: UInt32.self) {
        case UInt32(KVM_EXIT_IO): return portAccess()
        case UInt32(KVM_EXIT_MMIO): return memoryAccess()
        case UInt32(KVM_EXIT_HLT): return .halted
        case UInt32(KVM_EXIT_SHUTDOWN): return .shutdown
        case UInt32(KVM_EXIT_SYSTEM_EVENT): return .systemEvent(field(clinux_kvm_run_system_event, as: UInt32.self))
        case UInt32(KVM_EXIT_INTERNAL_ERROR): return .internalError(internalError())
        case UInt32(KVM_EXIT_FAIL_ENTRY):
            return .entryFailed(reason: field(clinux_kvm_run_entry_failure, as: UInt64.self))
        case UInt32(KVM_EXIT_INTR): return .interrupted
        case let reason: return .unexpected(reason)
        }
    }

    private borrowing func portAccess() -> KVMExit {
        let size = Int(field(clinux_kvm_run_io_size, as: UInt8.self))
        let count = Int(field(clinux_kvm_run_io_count, as: UInt32.self))
        let offset = Int(truncatingIfNeeded: field(clinux_kvm_run_io_data_offset, as: UInt64.self))
        let port = field(clinux_kvm_run_io_port, as: UInt16.self)
        precondition(offset >= 0 && size * count <= shared.count - offset, "KVM points out of its own page")
        let data = unsafe ExitData(start: shared.start + offset, count: size * count)
        return field(clinux_kvm_run_io_direction, as: UInt8.self) == UInt8(KVM_EXIT_IO_OUT)
            ? .portWrite(port: port, size: size, data: data) : .portRead(port: port, size: size, data: data)
    }

    private borrowing func memoryAccess() -> KVMExit {
        let address = field(clinux_kvm_run_mmio_address, as: UInt64.self)
        let length = min(8, Int(field(clinux_kvm_run_mmio_length, as: UInt32.self)))
        let data = unsafe ExitData(start: shared.start + Int(clinux_kvm_run_mmio_data), count: length)
        return field(clinux_kvm_run_mmio_is_write, as: UInt8.self) != 0
            ? .memoryWrite(address: address, data: data) : .memoryRead(address: address, data: data)
    }

    private borrowing func internalError() -> KVMInternalError {
        let suberror = field(clinux_kvm_run_internal_suberror, as: UInt32.self)
        var instruction: UInt64 = 0
        // struct emulation_failure: data[0] has flags, of which bit 0 says that data[1] starts with the instruction's
        // length, followed by up to 15 bytes of it.
        if suberror == UInt32(KVM_INTERNAL_ERROR_EMULATION), field(clinux_kvm_run_internal_count, as: UInt32.self) >= 3,
            field(clinux_kvm_run_internal_data, as: UInt64.self) & 1 != 0
        {
            let first = field(clinux_kvm_run_internal_data + 8, as: UInt64.self)
            let second = field(clinux_kvm_run_internal_data + 16, as: UInt64.self)
            instruction = first >> 8 | second << 56
        }
        return KVMInternalError(
            suberror: suberror, instruction: instruction, instructionPointer: (try? instructionPointer()) ?? 0)
    }

    private borrowing func field<Value: BitwiseCopyable, Offset: BinaryInteger>(
        _ offset: Offset, as type: Value.Type
    ) -> Value {
        unsafe shared.start.load(fromByteOffset: Int(offset), as: type)
    }
}

/// Makes a vCPU leave the guest from any thread.
@safe package struct VCPUKick: @unchecked Sendable {  // One byte, written by any thread and read by the kernel.
    private let immediateExit: UnsafeMutableRawPointer

    init(immediateExit: UnsafeMutableRawPointer) {
        unsafe self.immediateExit = unsafe immediateExit
    }

    /// The signal that takes a thread out of KVM_RUN. It does nothing else.
    package static let signal = clinux_first_realtime_signal()

    /// To be called once before any kick.
    package static func prepare() throws(KVMError) {
        guard clinux_interrupt_only(signal) == 0 else { throw .call(SystemError("sigaction")) }
    }

    /// From now on `VCPU.run` gives `.interrupted` at once. Where the thread may be inside the guest already, it
    /// gets `signal` as well, after this call: a thread on its way in sees the byte, one that is in sees the signal.
    package func request() {
        unsafe immediateExit.storeBytes(of: 1, as: UInt8.self)
    }

    /// Lets the vCPU run again.
    package func clear() {
        unsafe immediateExit.storeBytes(of: 0, as: UInt8.self)
    }

    /// `request`, and the signal for the thread that runs the vCPU.
    package func kick(_ thread: ThreadReference) {
        request()
        thread.send(Self.signal)
    }
}
