// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Synchronization
internal import Virtio

/// Which pages forks of a machine write in their first moments, to become machines of their own: the first that has lived
/// for a while notes it, and those after it have copies of these pages before they go on, instead of one fault each. The
/// machine itself, which loses its page tables to a fork, writes much the same when it is thawed, and has them too.
///
/// It lies in memory that a machine and all that come of it by forks share: a working set as it is in a file, behind its
/// length. Only a hint, and any of them may write there at any time, so it is neither locked nor trusted: what is not
/// whole is not there.
final class ForkWorkingSet: Sendable {
    /// What is copied beforehand at the most, in bytes. A family whose machines write more than that from their first
    /// moments on has nothing copied.
    static let byteLimit: UInt64 = 8 << 20
    private static let lengthSize = 8
    private static let sizeLimit = WorkingSet.headerSize + Int(byteLimit / 4096) * 8

    let identifier: SnapshotIdentifier
    private let memorySize: UInt64
    private let mapping: MemoryMapping

    init(memorySize: UInt64, identifier: SnapshotIdentifier = .random()) throws(SystemError) {
        self.identifier = identifier
        self.memorySize = memorySize
        mapping = try MemoryMapping(count: Self.lengthSize + Self.sizeLimit)
    }

    /// In bytes; 0 as long as nothing is known.
    private var length: UInt64 { unsafe mapping.start.load(as: UInt64.self) }

    var isKnown: Bool { length != 0 }

    /// Nil as long as it is not known, or where a machine of the family has written there what it is not to.
    func read() -> WorkingSet? {
        let length = length
        guard length > 0, length <= Self.sizeLimit else { return nil }
        let bytes = unsafe [UInt8](
            UnsafeRawBufferPointer(start: mapping.start + Self.lengthSize, count: Int(length)))
        guard let set = WorkingSet(reading: bytes, of: identifier, memorySize: memorySize),
            set.byteCount <= Self.byteLimit
        else { return nil }
        return set
    }

    /// Notes what a machine that was forked has for itself by now, once for all of its family.
    func note(_ ranges: [Range<UInt64>]) {
        guard !isKnown else { return }
        let written = ranges.map { WorkingSet.Stretch(range: $0, isWritten: true) }
        let set = WorkingSet(identifier: identifier, memorySize: memorySize, stretches: written)
        let isTooMuch = set.byteCount > Self.byteLimit
        put((isTooMuch ? WorkingSet(identifier: identifier, memorySize: memorySize, stretches: []) : set).encoded())
    }

    /// Of others than this type, only tests call it: as a machine does that has been taken over.
    func put(_ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { source in
            unsafe UnsafeMutableRawBufferPointer(start: mapping.start + Self.lengthSize, count: source.count)
                .copyMemory(from: source)
        }
        setLength(UInt64(bytes.count))
    }

    /// As `put`.
    func setLength(_ length: UInt64) { unsafe mapping.start.storeBytes(of: length, as: UInt64.self) }
}

/// A machine's place among those that come of each other by forks.
struct ForkFamily: Sendable {
    let workingSet: ForkWorkingSet
    /// It was forked, and can tell what it has written since.
    let isChild: Bool
}

extension Machine {
    /// What its forks write first, as far as that is known; nil where they are to have nothing beforehand.
    func workingSetOfForks() -> ForkWorkingSet? {
        guard memory.pageSize == 4096 else { return nil }
        return family.withLock { family in
            if family == nil, let set = try? ForkWorkingSet(memorySize: memory.byteCount) {
                family = ForkFamily(workingSet: set, isChild: false)
            }
            return family?.workingSet
        }
    }

    /// What a machine that was forked is to note for the next of its family; nil for any other, and once it is known.
    private var setToNote: ForkWorkingSet? {
        family.withLock { $0.flatMap { $0.isChild && !$0.workingSet.isKnown ? $0.workingSet : nil } }
    }

    /// From a machine's first instruction until its first moments are over, and `noteForkWorkingSet` is to be called.
    package static let settlingTimeInMilliseconds: UInt64 = 1_000

    /// Notes what a machine that was forked has written until now; of any other nothing. It may run meanwhile.
    package func noteForkWorkingSet() {
        // Where it cannot be told, nothing is copied beforehand.
        guard let set = setToNote, let pages = try? memory.pages(.exclusive) else { return }
        set.note(pages)
    }
}
