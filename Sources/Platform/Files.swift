// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Files and directories by path.
package enum Files {
    /// Reads a whole file of at most `limit` bytes (EFBIG beyond).
    package static func read(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
        let file = try Descriptor.open(path, .readOnly)
        do throws(SystemError) {
            return try file.readAll(limit: limit)
        } catch {
            throw SystemError("read", path, code: error.code)
        }
    }

    /// The last bytes of a file, `limit` at the most.
    package static func readEnd(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
        let file = try Descriptor.open(path, .readOnly)
        let start = off_t(clamping: try file.size()) - off_t(limit)
        if start > 0, lseek(file.raw, start, SEEK_SET) != start { throw SystemError("lseek", path) }
        return try file.readAll(limit: 2 * limit)
    }

    /// Puts bytes at a path so that others see the old file or the new one, never a part of it.
    /// - Parameter durable: the bytes are on the disk before the name is.
    package static func writeAtomically(
        _ bytes: [UInt8], to path: String, permissions: UInt32 = 0o644, durable: Bool = false
    ) throws(SystemError) {
        let temporary = path + draftSuffix()
        do throws(SystemError) {
            let file = try Descriptor.open(temporary, .createNew, permissions: permissions)
            try file.writeAll(bytes)
            if durable { try file.synchronizeData() }
            try rename(temporary, to: path)
        } catch {
            remove(temporary)
            throw SystemError("write", path, code: error.code)
        }
    }

    /// Behind the name of a file that is being written under another one, until it is whole: no two have the same.
    package static func draftSuffix() -> String { ".\(getpid()).\(monotonicNanoseconds()).tmp" }

    /// Whether a name ends as `draftSuffix` has it, and the process that made it still lives.
    package static func isDraftOfTheLiving(_ name: String) -> Bool {
        let parts = name.split(separator: ".")
        guard parts.count >= 4, parts.last == "tmp", let process = Int32(parts[parts.count - 3]) else { return false }
        return exists("/proc/\(process)")
    }

    package static func rename(_ from: String, to path: String) throws(SystemError) {
        guard unsafe Glibc.rename(from, path) == 0 else { throw SystemError("rename", path) }
    }

    /// Renames unless the new name exists (EEXIST).
    package static func renameExclusively(_ from: String, to path: String) throws(SystemError) {
        guard unsafe clinux_renameat2(AT_FDCWD, from, AT_FDCWD, path, 1) == 0 else {
            throw SystemError("renameat2", path)
        }
    }

    /// Removes a file; whether there was one.
    @discardableResult
    package static func remove(_ path: String) -> Bool {
        unsafe unlink(path) == 0
    }

    package static func exists(_ path: String) -> Bool {
        unsafe access(path, F_OK) == 0
    }

    package static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return unsafe stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    /// Makes a directory and those above it that are missing.
    package static func makeDirectories(_ path: String, permissions: UInt32 = 0o755) throws(SystemError) {
        if unsafe mkdir(path, permissions) == 0 { return }
        let code = clinux_errno()
        if code == EEXIST {
            guard isDirectory(path) else { throw SystemError("mkdir", path, code: ENOTDIR) }
            return
        }
        let parent = splitPath(path).directory
        guard code == ENOENT, parent != path else { throw SystemError("mkdir", path, code: code) }
        try makeDirectories(parent, permissions: permissions)
        guard unsafe mkdir(path, permissions) == 0 || clinux_errno() == EEXIST else { throw SystemError("mkdir", path) }
    }

    /// Makes one directory, which must not exist yet.
    package static func makeDirectory(_ path: String, permissions: UInt32 = 0o755) throws(SystemError) {
        guard unsafe mkdir(path, permissions) == 0 else { throw SystemError("mkdir", path) }
    }

    /// The names in a directory, unsorted, without `.` and `..`.
    package static func list(_ path: String) throws(SystemError) -> [String] {
        guard let directory = unsafe opendir(path) else { throw SystemError("opendir", path) }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { field in
                unsafe String(cString: UnsafeRawPointer(field).assumingMemoryBound(to: CChar.self))
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names
    }

    /// Removes a directory with all that is in it, without following symbolic links; a missing one is no failure.
    package static func removeTree(_ path: String) throws(SystemError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else {
            if clinux_errno() == ENOENT { return }
            throw SystemError("lstat", path)
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            guard unsafe unlink(path) == 0 || clinux_errno() == ENOENT else { throw SystemError("unlink", path) }
            return
        }
        if status.st_mode & 0o700 != 0o700 { _ = unsafe chmod(path, 0o700) }
        for name in try list(path) { try removeTree("\(path)/\(name)") }
        guard unsafe rmdir(path) == 0 || clinux_errno() == ENOENT else { throw SystemError("rmdir", path) }
    }

    package static func makeSymbolicLink(_ path: String, to target: String) throws(SystemError) {
        guard unsafe symlink(target, path) == 0 else { throw SystemError("symlink", path) }
    }

    package static func readSymbolicLink(_ path: String) throws(SystemError) -> String {
        var space = [UInt8](repeating: 0, count: 4096)
        let count = unsafe space.withUnsafeMutableBytes { buffer in
            unsafe buffer.withMemoryRebound(to: CChar.self) { text in
                guard let start = text.baseAddress else { return 0 }
                return unsafe readlink(path, start, text.count)
            }
        }
        guard count >= 0 else { throw SystemError("readlink", path) }
        return String(decoding: space[..<count], as: UTF8.self)
    }

    /// The path with symbolic links resolved; the file must exist.
    package static func resolve(_ path: String) throws(SystemError) -> String {
        guard let resolved = unsafe realpath(path, nil) else { throw SystemError("realpath", path) }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }
}

/// A lock on a file (flock(2)), held until its owner lets it go or the process ends, however it ends.
/// It is exclusive unless it was taken as shared.
package struct FileLock: ~Copyable, Sendable {
    package let descriptor: Descriptor

    /// Takes the lock, waiting for its holder; the file is made where it is missing.
    /// - Parameter shared: others may hold it at the same time, if shared as well.
    package init(waitingAt path: String, shared: Bool = false) throws(SystemError) {
        let file = try Descriptor.open(path, .openOrCreate, permissions: 0o600)
        let raw = file.raw
        let operation = shared ? LOCK_SH : LOCK_EX
        guard retryingInterrupts({ flock(raw, operation) }) == 0 else { throw SystemError("flock", path) }
        descriptor = file
    }

    /// Takes the lock, or nil at once where another holds it.
    package static func attempt(at path: String) throws(SystemError) -> FileLock? {
        let file = try Descriptor.open(path, .openOrCreate, permissions: 0o600)
        let raw = file.raw
        if retryingInterrupts({ flock(raw, LOCK_EX | LOCK_NB) }) != 0 {
            let code = clinux_errno()
            if code == EWOULDBLOCK { return nil }
            throw SystemError("flock", path, code: code)
        }
        return FileLock(adopting: file)
    }

    /// Takes over a descriptor on which the lock is held already (inherited from the process that started this one).
    package init(adopting descriptor: consuming Descriptor) {
        self.descriptor = descriptor
    }

    /// Lets the lock go now; the same as letting the value go, but visible.
    package consuming func end() {}
}
