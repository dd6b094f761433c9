// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Page faults of a process's memory that another process answers (userfaultfd(2)): one makes and registers it, the other
/// has a copy of the descriptor, is told of each page that is missing, and puts it there.
package struct Userfault: ~Copyable, Sendable {
    package let descriptor: Descriptor

    /// What happened to the memory.
    package enum Event: Equatable, Sendable {
        /// A thread waits for the page at this address.
        case missing(UInt64)
        /// The pages were taken away (MADV_DONTNEED, MADV_REMOVE); what comes there next is zero.
        case removed(Range<UInt64>)
        /// Something that was not asked for.
        case other
    }

    /// What became of putting pages somewhere.
    package struct Supply: Equatable, Sendable {
        /// How many bytes are there now, from the beginning.
        package var byteCount: UInt64
        /// Why it stopped there, as an `errno`; 0 where all is done. EEXIST: there is a page already. EAGAIN: some was
        /// done, or the memory is changing, and there is an event to be read about it.
        package var code: Int32

        package init(byteCount: UInt64, code: Int32) {
            self.byteCount = byteCount
            self.code = code
        }
    }

    /// One for faults of the kernel's as well, KVM's among them, and with events about pages that are taken away.
    ///
    /// EPERM where the user may not: access to /dev/userfaultfd is wanted, or vm.unprivileged_userfaultfd = 1.
    package init() throws(SystemError) {
        let raw = clinux_userfault_open()
        guard raw >= 0 else { throw SystemError("userfaultfd") }
        let opened = Descriptor(owning: raw)
        guard clinux_userfault_enable_removals(opened.raw) == 0 else { throw SystemError("ioctl", "UFFDIO_API") }
        descriptor = opened
    }

    /// Takes over one that another process has made; nil where the descriptor is something else.
    package init?(adopting descriptor: consuming Descriptor) {
        guard clinux_is_userfault(descriptor.raw) else { return nil }
        self.descriptor = descriptor
    }

    /// From now on pages that are missing in this memory of the process are waited for.
    package borrowing func register(_ start: UnsafeRawPointer, count: UInt64) throws(SystemError) {
        let address = UInt64(UInt(bitPattern: start))
        guard clinux_userfault_register(descriptor.raw, address, count) == 0 else {
            throw SystemError("ioctl", "UFFDIO_REGISTER")
        }
    }

    /// Takes some of the events that have come; none where there are none. Never waits.
    package borrowing func events() throws(SystemError) -> [Event] {
        var faults = [clinux_fault](repeating: clinux_fault(), count: Int(clinux_fault_limit))
        let raw = descriptor.raw
        let count = unsafe faults.withUnsafeMutableBufferPointer { space in
            retryingInterrupts { unsafe clinux_userfault_read(raw, space.baseAddress, space.count) }
        }
        guard count >= 0 else {
            if clinux_errno() == EAGAIN { return [] }
            throw SystemError("read", "userfaultfd")
        }
        return faults.prefix(Int(count)).map { fault in
            switch fault.kind {
            case clinux_fault_missing: .missing(fault.start)
            case clinux_fault_removed: .removed(fault.start..<max(fault.start, fault.end))
            default: .other
            }
        }
    }

    /// Puts copies of pages of this process's memory to an address of the other's, and wakes who waits for them.
    package borrowing func copy(_ bytes: UnsafeRawBufferPointer, to address: UInt64) -> Supply {
        var done: UInt64 = 0
        let result = unsafe clinux_userfault_copy(
            descriptor.raw, address, bytes.baseAddress, UInt64(bytes.count), &done)
        return Supply(byteCount: done, code: result == 0 ? 0 : clinux_errno())
    }

    /// Puts pages of zeros to an address of the other's memory, and wakes who waits for them.
    package borrowing func zero(_ address: UInt64, count: UInt64) -> Supply {
        var done: UInt64 = 0
        let result = unsafe clinux_userfault_zero(descriptor.raw, address, count, &done)
        return Supply(byteCount: done, code: result == 0 ? 0 : clinux_errno())
    }

    /// Has whoever waits for one of these pages look again.
    package borrowing func wake(_ address: UInt64, count: UInt64) {
        _ = clinux_userfault_wake(descriptor.raw, address, count)
    }
}
