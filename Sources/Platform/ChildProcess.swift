// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// How a process ended.
package enum ProcessEnd: Equatable, Sendable {
    case exited(Int32)
    case signaled(Int32)

    /// The exit status as a shell shows it: the process's own, or 128 plus the signal's number.
    package var shellStatus: Int32 {
        switch self {
        case .exited(let status): status
        case .signaled(let signal): 128 + signal
        }
    }
}

/// What to start, and with what.
package struct ProcessSpecification: Sendable {
    /// The program's path; it is not searched for.
    package var path: String
    /// The arguments, the program's name first.
    package var arguments: [String]
    /// `NAME=value` each.
    package var environment: [String]
    package var directory: String?
    /// Descriptor i of the child; -1 stands for /dev/null. All others are closed in the child.
    package var descriptors: [Int32] = [-1, -1, -1]
    /// The signal that the child gets when the thread that started it ends; nil for none.
    package var parentDeathSignal: Int32?
    package var newSession = false
    package var newProcessGroup = false

    package init(_ path: String, _ arguments: [String], environment: [String] = []) {
        self.path = path
        self.arguments = arguments
        self.environment = environment
    }
}

/// A child process with one owner, who must see its end: by `wait`, or by `killAndWait`.
package struct ChildProcess: ~Copyable, Sendable {
    package let pid: Int32
    /// Readable when the process has ended (pidfd_open(2)).
    package let ended: Descriptor

    /// Starts a process. A program that cannot be executed is an error here, not an exit status.
    package init(_ specification: ProcessSpecification) throws(SystemError) {
        var pidfd: Int32 = -1
        let pid = unsafe withCStrings([specification.path] + (specification.directory.map { [$0] } ?? [])) { names in
            unsafe withCStrings(specification.arguments) { arguments in
                unsafe withCStrings(specification.environment) { environment in
                    unsafe specification.descriptors.withUnsafeBufferPointer { fds in
                        var spawn = unsafe clinux_spawn()
                        unsafe spawn.path = names[0].map { unsafe UnsafePointer($0) }
                        unsafe spawn.directory =
                            specification.directory == nil ? nil : names[1].map { unsafe UnsafePointer($0) }
                        unsafe spawn.arguments = arguments.baseAddress.map {
                            unsafe UnsafeRawPointer($0).assumingMemoryBound(to: UnsafePointer<CChar>?.self)
                        }
                        unsafe spawn.environment = environment.baseAddress.map {
                            unsafe UnsafeRawPointer($0).assumingMemoryBound(to: UnsafePointer<CChar>?.self)
                        }
                        unsafe spawn.fds = fds.baseAddress
                        unsafe spawn.fd_count = fds.count
                        unsafe spawn.parent_death_signal = specification.parentDeathSignal ?? 0
                        unsafe spawn.new_session = specification.newSession
                        unsafe spawn.new_process_group = specification.newProcessGroup
                        return unsafe clinux_spawn(&spawn, &pidfd)
                    }
                }
            }
        }
        guard pid > 0 else { throw SystemError("exec", specification.path) }
        self.pid = pid
        self.ended = Descriptor(owning: pidfd)
    }

    /// Sends a signal; a process that has ended already is no failure.
    package borrowing func send(_ signal: Int32) throws(SystemError) {
        guard clinux_pidfd_send_signal(ended.raw, signal) == 0 || clinux_errno() == ESRCH else {
            throw SystemError("pidfd_send_signal", "\(pid)")
        }
    }

    /// The end of the process if it has come, else nil. After an answer the process is reaped: do not ask again.
    package borrowing func poll() throws(SystemError) -> ProcessEnd? {
        var code: Int32 = 0
        var signaled = false
        switch unsafe clinux_wait(pid, true, &code, &signaled) {
        case 0: return nil
        case 1: return signaled ? .signaled(code) : .exited(code)
        default: throw SystemError("waitid", "\(pid)")
        }
    }

    /// Waits for the end.
    package borrowing func wait() throws(SystemError) -> ProcessEnd {
        var code: Int32 = 0
        var signaled = false
        guard unsafe clinux_wait(pid, false, &code, &signaled) == 1 else { throw SystemError("waitid", "\(pid)") }
        return signaled ? .signaled(code) : .exited(code)
    }

    /// Ends the process for certain and reaps it.
    @discardableResult
    package borrowing func killAndWait() throws(SystemError) -> ProcessEnd {
        try send(SIGKILL)
        return try wait()
    }
}

/// Goes on as another program, with this process's environment and what of its descriptors is not closed by that.
/// - Returns: why not.
package func becomeProgram(_ path: String, _ arguments: [String]) -> SystemError {
    unsafe withCStrings(arguments) { words in
        if let first = words.baseAddress { _ = unsafe execv(path, first) }
        return SystemError("execve", path)
    }
}

/// Lends the strings as a NULL-terminated array of C strings.
package func withCStrings<Result>(
    _ strings: [String], _ body: (UnsafeBufferPointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    var copies: [UnsafeMutablePointer<CChar>?] = unsafe []
    for string in strings { unsafe copies.append(unsafe strdup(string)) }
    unsafe copies.append(nil)
    defer { for index in unsafe copies.indices { unsafe free(copies[index]) } }
    return unsafe copies.withUnsafeBufferPointer(body)
}

/// The environment of this process, `NAME=value` each.
package func processEnvironment() -> [String] {
    var result: [String] = []
    var entry = unsafe environ
    while let text = unsafe entry.pointee {
        result.append(unsafe String(cString: text))
        unsafe entry += 1
    }
    return result
}

/// One variable of this process's environment, or nil.
package func environmentVariable(_ name: String) -> String? {
    guard let value = unsafe getenv(name) else { return nil }
    return unsafe String(cString: value)
}
