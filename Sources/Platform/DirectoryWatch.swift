// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Says which names of a directory have come, gone, or been written to (inotify(7)); non-blocking.
package struct DirectoryWatch: ~Copyable, Sendable {
    package enum Changes: Equatable, Sendable {
        case names(Set<String>)
        /// More than the kernel has kept.
        case unknown
    }

    /// Readable where something has changed.
    package let descriptor: Descriptor

    package init(_ path: String) throws(SystemError) {
        let raw = inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK))
        guard raw >= 0 else { throw SystemError("inotify_init1") }
        let opened = Descriptor(owning: raw)
        let changes = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE
        guard unsafe inotify_add_watch(raw, path, UInt32(changes) | UInt32(IN_ONLYDIR)) >= 0 else {
            throw SystemError("inotify_add_watch", path)
        }
        descriptor = opened
    }

    /// Takes what has changed since the last look; no names where nothing has.
    package borrowing func take() -> Changes {
        var names: Set<String> = []
        var isUnknown = false
        var space = [UInt8](repeating: 0, count: 8192)
        while case .bytes(let count)? = try? unsafe space.withUnsafeMutableBytes({
            try unsafe descriptor.read(into: $0)
        }) {
            // struct inotify_event: watch, mask, cookie, and the length of the name with the zeros behind it.
            var start = 0
            while count - start >= 16 {
                let (mask, length) = unsafe space.withUnsafeBytes { bytes in
                    unsafe (
                        bytes.loadUnaligned(fromByteOffset: start + 4, as: UInt32.self),
                        Int(bytes.loadUnaligned(fromByteOffset: start + 12, as: UInt32.self))
                    )
                }
                if mask & UInt32(IN_Q_OVERFLOW) != 0 { isUnknown = true }
                let name = space[(start + 16)...].prefix(length).prefix { $0 != 0 }
                if !name.isEmpty { names.insert(String(decoding: name, as: UTF8.self)) }
                start += 16 + length
            }
        }
        return isUnknown ? .unknown : .names(names)
    }
}
