// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// A system call that failed: which one, on what, why.
struct SystemFailure: Error {
    let call: StaticString
    let subject: [UInt8]
    let code: Int32

    /// For example `mount /proc: no such device`.
    var message: [UInt8] {
        var message = text(call)
        if !subject.isEmpty { message += [UInt8(ascii: " ")] + subject }
        return message + text(": ") + System.errorText(code)
    }
}

/// The system calls of CGuest, with errors that are thrown.
enum System {
    @discardableResult
    static func check(_ result: Int, _ call: StaticString, _ subject: [UInt8] = []) throws(SystemFailure) -> Int {
        guard result < 0 else { return result }
        throw SystemFailure(call: call, subject: subject, code: Int32(truncatingIfNeeded: -result))
    }

    /// In small letters, as it stands after a colon.
    static func errorText(_ code: Int32) -> [UInt8] {
        var bytes: [UInt8] = []
        var position = guest_error_text(code)
        while position.pointee != 0 {
            bytes.append(UInt8(bitPattern: position.pointee))
            position += 1
        }
        if bytes.count > 1, bytes[0] >= UInt8(ascii: "A"), bytes[0] <= UInt8(ascii: "Z"),
            bytes[1] >= UInt8(ascii: "a")
        {
            bytes[0] += 32
        }
        return bytes
    }

    /// A path as the system takes it.
    static func path(_ bytes: [UInt8]) -> [UInt8] {
        bytes + [0]
    }

    static func open(_ path: [UInt8], _ flags: Int32) throws(SystemFailure) -> Descriptor {
        Descriptor(Int32(try check(guest_open(System.path(path), flags, 0), "open", path)))
    }

    /// The contents of a file, at most `limit` bytes.
    static func contents(_ path: [UInt8], limit: Int) throws(SystemFailure) -> [UInt8] {
        let file = try open(path, guest_read_only)
        var contents: [UInt8] = []
        while contents.count < limit {
            let chunk = try file.read(atMost: min(16_384, limit - contents.count))
            if chunk.isEmpty { break }
            contents += chunk
        }
        return contents
    }

    /// What is in a directory, a few kilobytes of names at most; nothing where it cannot be read.
    static func names(in directory: [UInt8]) -> [[UInt8]] {
        var names = [UInt8](repeating: 0, count: 8192)
        let used = guest_list(path(directory), &names, names.count)
        guard used > 0 else { return [] }
        return Array(names[..<used]).parts(separatedBy: 0).filter { !$0.isEmpty && $0[0] != UInt8(ascii: ".") }
    }

    /// Makes the file anew; a symbolic link in its place is replaced, not followed, and so is a named pipe that nobody
    /// reads.
    static func write(_ bytes: [UInt8], to path: [UInt8]) throws(SystemFailure) {
        let name = System.path(path)
        let flags = Int32(guest_create_flags()) | guest_write_only
        var result = guest_open(name, flags, 0o644)
        if result < 0 {
            _ = guest_remove(name)
            result = guest_open(name, flags, 0o644)
        }
        let file = Descriptor(Int32(try check(result, "create", path)))
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = unsafe rest.withUnsafeBytes { unsafe guest_write(file.raw, $0.baseAddress, $0.count) }
            rest = rest.dropFirst(try check(count, "write", path))
        }
    }

    /// Makes a directory and what is missing above it.
    static func makeDirectories(_ path: [UInt8]) throws(SystemFailure) {
        for index in path.indices.dropFirst() where path[index] == UInt8(ascii: "/") {
            _ = guest_make_directory(System.path(Array(path[..<index])), 0o755)
        }
        let result = guest_make_directory(System.path(path), 0o755)
        if result < 0, result != -Int(guest_eexist) { try check(result, "mkdir", path) }
    }

    /// Mounts, and makes the mount point if it is missing.
    static func mount(
        _ source: [UInt8], _ target: [UInt8], type: StaticString, flags: UInt64 = 0, options: [UInt8] = []
    ) throws(SystemFailure) {
        let (source, name, options) = (System.path(source), System.path(target), System.path(options))
        var result = guest_mount(source, name, type.utf8Start, flags, options)
        if result == -Int(guest_enoent) {
            try? makeDirectories(target)
            result = guest_mount(source, name, type.utf8Start, flags, options)
        }
        try check(result, "mount", target)
    }

    static func mount(_ entry: MountEntry) throws(SystemFailure) {
        try mount(
            text(entry.type), text(entry.target), type: entry.type, flags: entry.flags, options: text(entry.options))
    }

    static func makeLinks(_ links: [LinkEntry]) {
        for link in links { _ = guest_make_link(link.target.utf8Start, link.path.utf8Start) }
    }

    /// Makes `directory` the root of this process's mount namespace. The initramfs stays below, as it does wherever a
    /// system was started from one: it cannot be pivoted away from.
    static func switchRoot(to directory: [UInt8]) throws(SystemFailure) {
        try check(guest_change_directory(path(directory)), "chdir", directory)
        try check(guest_mount(path([46]), path([47]), nil, guest_mount_move, nil), "move", directory)
        try check(guest_change_root(path([46])), "chroot", directory)
        try check(guest_change_directory(path([47])), "chdir", [47])
    }

    static func setHostname(_ name: [UInt8]) throws(SystemFailure) {
        try check(guest_set_hostname(name, name.count), "sethostname", name)
    }

    /// A line on the machine's console, by way of the kernel's log: that is written out before this returns, while a
    /// terminal's last words are lost when the machine ends at once. Outside of a machine, on standard error.
    static func say(_ message: [UInt8]) {
        let line = text("martlet-init: ") + message + [UInt8(ascii: "\n")]
        // Priority 3 is an error, which is shown even where a kernel is told to be quiet.
        if guest_process_id() == 1, let log = try? open(text("/dev/kmsg"), guest_write_only) {
            let entry = text("<3>") + line
            _ = guest_write(log.raw, entry, entry.count)
        } else {
            _ = guest_write(2, line, line.count)
        }
    }

    /// Sees to it that descriptors 0, 1 and 2 are taken. The kernel opens the console as these for its first process;
    /// where there is none, or it has no driver, that process begins with nothing open.
    static func openConsole() throws(SystemFailure) {
        guard guest_is_open(2) < 0 else { return }
        while try check(guest_open(path(text("/dev/kmsg")), guest_read_write, 0), "open /dev/kmsg") < 2 {}
    }
}

/// An open descriptor, closed with its last reference. A class, since sessions give theirs up at any time and Embedded
/// Swift counts references for less than the code costs that moves `~Copyable` optionals in and out of classes.
final class Descriptor {
    let raw: Int32

    init(_ raw: Int32) {
        self.raw = raw
    }

    deinit {
        _ = guest_close(raw)
    }

    /// Reads what there is; nothing at the end.
    func read(atMost count: Int) throws(SystemFailure) -> [UInt8] {
        var failure = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            let result = guest_read(raw, buffer.baseAddress, count)
            initialized = max(result, 0)
            failure = min(result, 0)
        }
        try System.check(failure, "read")
        return bytes
    }

    func setNonblocking() throws(SystemFailure) {
        try System.check(guest_set_nonblocking(raw, 1), "fcntl")
    }

    /// Both ends of a pipe, that to read from first.
    static func pipe() throws(SystemFailure) -> (reading: Descriptor, writing: Descriptor) {
        var ends: (Int32, Int32) = (-1, -1)
        let result = withUnsafeMutablePointer(to: &ends) {
            $0.withMemoryRebound(to: Int32.self, capacity: 2) { guest_pipe($0) }
        }
        try System.check(result, "pipe")
        return (Descriptor(ends.0), Descriptor(ends.1))
    }
}
