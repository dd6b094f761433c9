// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import Virtio

/// The file of a snapshot that a machine's memory is a private mapping of.
struct MemoryBase: Sendable {
    let file: SharedDescriptor
    let identifier: SnapshotIdentifier
}

/// What was written since the last snapshot.
struct MemoryHistory: Sendable {
    /// The snapshot whose memory the guest's was, but for what was written since.
    var last: SnapshotIdentifier?
    /// Written since, as far as it was collected.
    var written: PageSet
    /// Whether KVM and the devices note what they write.
    var isTracked: Bool

    /// That of a machine that was just made.
    /// - Parameter isTracked: the devices note what they write from here on, whatever the memory's machine before did;
    ///   KVM is told by whoever gives it the memory.
    init(of memory: GuestMemory, isTracked: Bool) {
        memory.trackWrites(isTracked)
        written = PageSet(byteCount: memory.byteCount)
        self.isTracked = isTracked
    }

    /// Moves what KVM has noted here, and what the devices have if they stand still. A failure loses nothing: what was
    /// taken from KVM before it is here.
    /// - Parameter take: gives a region's bits, by the number of its slot; they are clear in KVM afterwards.
    /// - Returns: what was new.
    mutating func collect(
        from memory: GuestMemory, devices: Bool,
        take: (_ slot: UInt32, _ pageCount: Int) throws(KVMError) -> [UInt64]
    ) throws(KVMError) -> PageSet {
        var fresh = PageSet(byteCount: memory.byteCount)
        defer { written.formUnion(fresh) }
        for (slot, region) in memory.regions.enumerated() {
            let bits = try take(UInt32(slot), Int(region.count / PageSet.pageSize))
            let first = Int(region.offset / PageSet.pageSize / 64)
            for (index, word) in bits.enumerated() where word != 0 { fresh.insert(word, word: first + index) }
        }
        if devices, let pages = memory.dirtyPages {
            for index in 0..<pages.wordCount {
                let word = pages.take(word: index)
                if word != 0 { fresh.insert(word, word: index) }
            }
        }
        return fresh
    }
}

extension Machine {
    /// Moves what KVM has noted into `history`, and what the devices have, if they stand still: what was handed to them
    /// for writing counts from then on, not from the write.
    /// - Returns: what was new.
    @discardableResult
    func collectWrites(_ history: inout MemoryHistory, devices: Bool) throws(MachineError) -> PageSet {
        do throws(KVMError) {
            return try history.collect(from: memory, devices: devices) { slot, pageCount throws(KVMError) in
                try vm.takeDirtyLog(slot: slot, pageCount: pageCount)
            }
        } catch {
            throw .kvm(error)
        }
    }

    /// Has KVM and the devices note what they write from now on, or no more; the machine stands still.
    func track(_ isOn: Bool, _ history: inout MemoryHistory) throws(MachineError) {
        guard history.isTracked != isOn else { return }
        do throws(KVMError) {
            for (slot, region) in memory.regions.enumerated() {
                try unsafe vm.setMemory(
                    slot: UInt32(slot), guestAddress: region.guestStart, host: region.hostStart,
                    countInBytes: region.count, tracksDirtyPages: isOn)
            }
        } catch {
            throw .kvm(error)
        }
        memory.trackWrites(isOn)
        history.isTracked = isOn
        history.written = PageSet(byteCount: memory.byteCount)
        // What was written before is not known: the next diff has everything.
        history.last = nil
    }
}
