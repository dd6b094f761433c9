// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A file that is written out of sight and gets its name when it is whole. Whoever is killed before leaves nothing of
/// it, where the file system has files without a name; elsewhere it has another name until then.
package struct HiddenFile: ~Copyable {
    package let descriptor: Descriptor
    private let path: String
    /// The name that it has until it is whole.
    private var draft: String?

    /// - Parameter permissions: before the umask.
    package init(for path: String, permissions: UInt32) throws(SystemError) {
        self.path = path
        let directory = splitPath(path).directory
        do throws(SystemError) {
            descriptor = try Descriptor.open(directory, .unnamed, permissions: permissions)
            draft = nil
        } catch {
            guard [EOPNOTSUPP, EISDIR, EINVAL].contains(error.code) else {
                throw SystemError("open", path, code: error.code)
            }
            let name = path + Files.draftSuffix()
            descriptor = try Descriptor.open(name, .createNew, permissions: permissions)
            draft = name
        }
    }

    /// Gives it its name, its bytes being on the disk; a file that has the name is replaced.
    package consuming func publish() throws(SystemError) {
        try descriptor.synchronizeData()
        if draft == nil {
            if try link(to: path) { return }
            // A link does not replace a file, only a name does.
            let name = path + Files.draftSuffix()
            guard try link(to: name) else { throw SystemError("linkat", name, code: EEXIST) }
            draft = name
        }
        if let name = draft {
            try Files.rename(name, to: path)
            draft = nil
        }
    }

    /// False where there is a file of that name.
    private borrowing func link(to name: String) throws(SystemError) -> Bool {
        if unsafe linkat(AT_FDCWD, "/proc/self/fd/\(descriptor.raw)", AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0 {
            return true
        }
        guard clinux_errno() == EEXIST else { throw SystemError("linkat", name) }
        return false
    }

    deinit {
        if let draft { Files.remove(draft) }
    }
}
