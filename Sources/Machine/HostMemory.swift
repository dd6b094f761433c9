// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import MachineAPI
internal import Platform
internal import Virtio

/// The host's side of a guest's memory.
enum HostMemory {
    /// Fails where the host does not have that much memory at all.
    static func check(sizeInBytes: UInt64) throws(MachineError) {
        let pages = sysconf(Int32(_SC_PHYS_PAGES))
        let pageSize = sysconf(Int32(_SC_PAGESIZE))
        guard pages > 0, pageSize > 0 else { return }
        let total = UInt64(pages) * UInt64(pageSize)
        guard sizeInBytes <= total else {
            throw .configuration(
                field: "machine-config.mem_size_mib",
                problem: "\(sizeInBytes >> 20) MiB are more than this host's memory, \(total >> 20) MiB")
        }
    }

    /// Anonymous memory, taken from the host page by page as the guest touches it.
    static func allocate(_ settings: MachineSettings) throws(MachineError) -> GuestMemory {
        let ranges = GuestLayout.memoryRanges(sizeInBytes: settings.memoryInMiB << 20)
        if settings.hugePages == .pool {
            return try HugePagePool.allocate(ranges, tracksWrites: settings.tracksDirtyPages)
        }
        do throws(SystemError) {
            return try GuestMemory(anonymous: ranges, tracksWrites: settings.tracksDirtyPages)
        } catch {
            throw .configuration(
                field: "machine-config.mem_size_mib",
                problem: "the host gives no \(settings.memoryInMiB) MiB of address space (\(error.reason)); "
                    + "lower it, or see vm.overcommit_memory and ulimit -v")
        }
    }

    /// Lets the guest's first touch take huge pages, where the settings want them. Not before the kernel, its initrd and
    /// the tables are in place: these few bytes would have whole huge pages cleared for them, before the first
    /// instruction.
    static func preferHugePages(for memory: GuestMemory, _ settings: MachineSettings) {
        guard settings.hugePages == .transparent else { return }
        // A kernel without huge pages says EINVAL: then there are none.
        try? memory.advise(MADV_HUGEPAGE)
    }
}
