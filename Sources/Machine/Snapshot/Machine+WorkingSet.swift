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
        // Both page tables in one go, where the host's kernel can do that; else at least this process's.
        if !prefault(set) { set.populate(memory, isWritten: false) }
        workingSet.withLock { $0 = set }
    }

    /// Has pages in the guest's own page tables as well, where the host's kernel can do that (from 6.11): then the guest
    /// does not leave for them.
    /// - Returns: whether it can.
    @discardableResult
    func prefault(_ set: WorkingSet) -> Bool {
        guard let vcpu = runners.first else { return false }
        for stretch in set.stretches {
            for region in memory.regions {
                let part = stretch.range.clamped(to: region.offset..<region.offset + region.count)
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
