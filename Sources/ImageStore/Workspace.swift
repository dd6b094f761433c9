// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import OCI
internal import Platform
internal import Synchronization

/// A directory in the store for what is being made, gone with its owner. A lock beside it says that the owner lives;
/// what a crashed one left is removed by the next who makes one.
final class Workspace: Sendable {
    let path: String
    private let lockPath: String
    private let lock: FileLock

    private static let counter = Atomic<UInt64>(0)

    init(in layout: StoreLayout) throws(ImageStoreError) {
        Workspace.sweep(layout)
        while true {
            let number = Workspace.counter.add(1, ordering: .relaxed).newValue
            let base = "\(layout.temporary)/\(getpid())-\(monotonicNanoseconds())-\(number)"
            let made = try storing(layout.root) { () throws(SystemError) in try FileLock.attempt(at: base + ".lock") }
            // A sweeper may have come between the lock's file and its lock: then the file has no name any more.
            guard let lock = made, Workspace.isNamed(lock, base + ".lock") else { continue }
            try storing(layout.root) { () throws(SystemError) in try Files.makeDirectory(base, permissions: 0o700) }
            self.path = base
            self.lockPath = base + ".lock"
            self.lock = lock
            return
        }
    }

    deinit { remove() }

    /// Removes it now. Who made it does that when all is made: a thread that worked in it may let it go later than the
    /// process ends.
    func remove() {
        try? Files.removeTree(path)
        Files.remove(lockPath)
    }

    /// Removes what those left who are no more.
    static func sweep(_ layout: StoreLayout) {
        guard let names = try? Files.list(layout.temporary) else { return }
        for name in names where name.hasSuffix(".lock") {
            let lockPath = "\(layout.temporary)/\(name)"
            guard let lock = try? FileLock.attempt(at: lockPath) else { continue }
            if isNamed(lock, lockPath) {
                try? Files.removeTree(String(lockPath.dropLast(5)))
                Files.remove(lockPath)
            }
        }
        // A directory whose lock's file has been removed already was left in the middle of a removal.
        for name in names where !name.hasSuffix(".lock") && !names.contains(name + ".lock") {
            try? Files.removeTree("\(layout.temporary)/\(name)")
        }
    }

    private static func isNamed(_ lock: borrowing FileLock, _ path: String) -> Bool {
        var own = stat()
        var named = stat()
        return fstat(lock.descriptor.raw, &own) == 0 && stat(path, &named) == 0 && own.st_ino == named.st_ino
            && own.st_dev == named.st_dev
    }
}
