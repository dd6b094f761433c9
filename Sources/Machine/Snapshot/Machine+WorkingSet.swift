// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import Platform
internal import Synchronization
internal import Virtio

extension WorkingSet {
    /// Reads a file; nil where there is none that can be used. One that is damaged, or another snapshot's, is removed, so
    /// that a new one is made.
    static func load(_ path: String, of state: MachineState, log: (String) -> Void) -> WorkingSet? {
        let bytes: [UInt8]
        do throws(SystemError) { bytes = try Files.read(path, limit: sizeLimit) } catch {
            return nil
        }
        if let set = WorkingSet(reading: bytes, of: state.identifier, memorySize: state.memorySize) { return set }
        log("the working set \(path) is damaged or another snapshot's: it is removed, and nothing prefetched")
        Files.remove(path)
        return nil
    }

    /// Has the pages in this process's page tables that will be written, as copies of its own, or the others. What cannot
    /// be had comes when it is touched.
    func populate(_ memory: GuestMemory, isWritten: Bool) {
        for stretch in stretches where stretch.isWritten == isWritten {
            do throws(SystemError) {
                try memory.populate(stretch.range, writing: stretch.isWritten)
            } catch {
                return
            }
        }
    }
}

extension Machine {
    /// Has what the machine will touch first, the pages that it will write being populated already. Nothing of the guest
    /// runs yet.
    func expect(_ set: WorkingSet) {
        let huge = memoryBase == nil ? [] : memory.rangesInHugePages(trying: set.unitsOnlyRead)
        let rest = huge.isEmpty ? set : set.outside(huge)
        // Of a huge page one look has all.
        let first = huge.flatMap { range in
            stride(from: range.lowerBound, to: range.upperBound, by: Int(MemoryMapping.hugePageSize))
                .map { $0..<$0 + 4096 }
        }
        // Both page tables in one go, where the host's kernel can do that; else at least this process's.
        if !prefault(first + rest.stretches.map(\.range)) { rest.populate(memory, isWritten: false) }
        workingSet.withLock { $0 = set }
    }

    /// Has pages in the guest's own page tables as well, where the host's kernel can do that (from 6.11): then the guest
    /// does not leave for them.
    /// - Parameter ranges: of whole pages, by offset in the memory.
    /// - Returns: whether it can.
    @discardableResult
    func prefault(_ ranges: [Range<UInt64>]) -> Bool {
        guard let vcpu = runners.first else { return false }
        for range in ranges {
            for region in memory.regions {
                let part = range.clamped(to: region.offset..<region.offset + region.count)
                guard !part.isEmpty else { continue }
                let address = region.guestStart + part.lowerBound - region.offset
                guard vcpu.vcpu.prefault(address, count: part.upperBound - part.lowerBound) else { return false }
            }
        }
        return true
    }

    /// Writes which pages of its snapshot's memory the machine has touched until now, for `RestoreRequest.workingSetPath`
    /// of the next ones. It may run meanwhile.
    package func recordWorkingSet(to path: String) throws(MachineError) {
        guard let base = memoryBase else {
            throw .state("the machine's memory is no snapshot's file: there is no working set of one")
        }
        try system("the working set \(path)") { () throws(SystemError) in
            let set = WorkingSet(
                identifier: base.identifier, memorySize: memory.byteCount, stretches: try touchedStretches())
            touched.withLock { $0 = nil }
            workingSet.withLock { $0 = set }
            try Files.writeAtomically(set.encoded(), to: path, permissions: 0o600)
        }
        gatherPages()
    }

    /// Has what is much read and never written of the snapshot's memory, such as a kernel's code, as huge pages in the page
    /// cache, from which all machines of it have it: those after this one from their beginning, this one as far as it has
    /// mapped it apart. Only for speed, and only where the host's kernel can do that. For when the machine has become
    /// quiet, as it reads from the disk what is not in memory. It may run meanwhile.
    package func gatherPages() {
        guard let base = memoryBase, let set = workingSet.withLock({ $0 }) else { return }
        for unit in set.unitsOnlyRead {
            // Before Linux 6.7 it cannot be told, and no working set says what was only read.
            let range = unit..<unit + MemoryMapping.hugePageSize
            guard let huge = try? memory.pages(.ofHugePage, in: range) else { return }
            guard huge.isEmpty else { continue }
            guard FilePages.gather(base.file.raw, at: unit) else { return }
        }
    }

    /// What is in this process's page tables: what was touched, since it was mapped singly. What was only read is not
    /// known before Linux 6.7.
    private func touchedStretches() throws(SystemError) -> [WorkingSet.Stretch] {
        let written = try memory.pages(.own)
        let read = (try? memory.pages(.ofFile)) ?? []
        return written.map { WorkingSet.Stretch(range: $0, isWritten: true) }
            + read.map { WorkingSet.Stretch(range: $0, isWritten: false) }
    }
}

extension GuestMemory {
    /// What is touched from now on can be told from its neighbours.
    func mapSingly() -> SinglePageFaults? {
        unsafe SinglePageFaults(UnsafeRawBufferPointer(bytes(offset: 0, count: Int(byteCount))))
    }
}
