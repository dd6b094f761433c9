// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// Signals by the names that users give them. Pure.
package enum SignalName {
    /// The number of `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN+3`.
    package static func number(_ text: String) throws(WorkerError) -> Int32 {
        if let number = Int32(text) {
            guard (1...64).contains(number) else { throw .invalid("\(quoted(text)) is not a signal: 1 to 64") }
            return number
        }
        var name = text.uppercased()
        if name.hasPrefix("SIG") { name.removeFirst(3) }
        if let number = names.first(where: { $0.name == name })?.number { return number }
        if name == "RTMIN" { return realTimeMinimum }
        if name == "RTMAX" { return realTimeMaximum }
        if name.hasPrefix("RTMIN+"), let step = Int32(name.dropFirst(6)), (0...30).contains(step) {
            return realTimeMinimum + step
        }
        if name.hasPrefix("RTMAX-"), let step = Int32(name.dropFirst(6)), (0...30).contains(step) {
            return realTimeMaximum - step
        }
        throw .invalid("\(quoted(text)) is not a signal: give a name such as TERM, or a number")
    }

    /// `SIGTERM` for 15.
    package static func text(_ number: Int32) -> String {
        names.first { $0.number == number }.map { "SIG\($0.name)" } ?? "signal \(number)"
    }

    // The kernel's numbers, less the two that threading libraries keep for themselves (signal(7)).
    private static let realTimeMinimum: Int32 = 34
    private static let realTimeMaximum: Int32 = 64

    private static let names: [(name: String, number: Int32)] = [
        ("HUP", SIGHUP), ("INT", SIGINT), ("QUIT", SIGQUIT), ("ILL", SIGILL), ("TRAP", SIGTRAP), ("ABRT", SIGABRT),
        ("BUS", SIGBUS), ("FPE", SIGFPE), ("KILL", SIGKILL), ("USR1", SIGUSR1), ("SEGV", SIGSEGV), ("USR2", SIGUSR2),
        ("PIPE", SIGPIPE), ("ALRM", SIGALRM), ("TERM", SIGTERM), ("STKFLT", SIGSTKFLT), ("CHLD", SIGCHLD),
        ("CONT", SIGCONT), ("STOP", SIGSTOP), ("TSTP", SIGTSTP), ("TTIN", SIGTTIN), ("TTOU", SIGTTOU), ("URG", SIGURG),
        ("XCPU", SIGXCPU), ("XFSZ", SIGXFSZ), ("VTALRM", SIGVTALRM), ("PROF", SIGPROF), ("WINCH", SIGWINCH),
        ("IO", SIGIO), ("PWR", SIGPWR), ("SYS", SIGSYS),
    ]
}
