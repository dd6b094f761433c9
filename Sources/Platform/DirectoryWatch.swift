// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Says which names of directories have come, gone, or been written to (inotify(7)); non-blocking. One is enough for all
/// that a process watches: a user may have few (`fs.inotify.max_user_instances`).
package final class DirectoryWatch: Sendable {
    /// A directory that is watched.
    package struct Place: Hashable, Sendable {
        fileprivate let number: Int32
    }

    package struct Changes: Equatable, Sendable {
        /// There were more than the kernel has kept, or a directory itself has gone.
        package fileprivate(set) var isPartial = false
        fileprivate var names: [Int32: Set<String>] = [:]

        package init() {}

        /// The names that are known to have changed in a directory.
        package func names(in place: Place) -> Set<String> { names[place.number] ?? [] }
    }

    /// Readable where something has changed.
    package let descriptor: Descriptor

    package init() throws(SystemError) {
        let raw = inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK))
        guard raw >= 0 else { throw SystemError("inotify_init1") }
        descriptor = Descriptor(owning: raw)
    }

    /// Begins to watch a directory; one that is watched already is the same place.
    package func add(_ path: String) throws(SystemError) -> Place {
        let changes = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE
        let number = unsafe inotify_add_watch(descriptor.raw, path, UInt32(changes) | UInt32(IN_ONLYDIR))
        guard number >= 0 else { throw SystemError("inotify_add_watch", path) }
        return Place(number: number)
    }

    /// Takes what has changed since the last look.
    package func take() -> Changes {
        var changes = Changes()
        var space = [UInt8](repeating: 0, count: 8192)
        while case .bytes(let count)? = try? unsafe space.withUnsafeMutableBytes({
            try unsafe descriptor.read(into: $0)
        }) {
            // struct inotify_event: watch, mask, cookie, and the length of the name with the zeros behind it.
            var start = 0
            while count - start >= 16 {
                let (place, mask, length) = unsafe space.withUnsafeBytes { bytes in
                    unsafe (
                        bytes.loadUnaligned(fromByteOffset: start, as: Int32.self),
                        bytes.loadUnaligned(fromByteOffset: start + 4, as: UInt32.self),
                        Int(bytes.loadUnaligned(fromByteOffset: start + 12, as: UInt32.self))
                    )
                }
                if mask & UInt32(IN_Q_OVERFLOW | IN_IGNORED) != 0 { changes.isPartial = true }
                let name = space[(start + 16)...].prefix(length).prefix { $0 != 0 }
                if !name.isEmpty { changes.names[place, default: []].insert(String(decoding: name, as: UTF8.self)) }
                start += 16 + length
            }
        }
        return changes
    }
}
