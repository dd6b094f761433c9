// SPDX-License-Identifier: Apache-2.0

internal import Glibc
package import Platform
package import Sessions

/// `martlet host shell`.
extension EmulatedHost {
    /// Runs the user's shell inside. On a terminal it gets a terminal of its own inside, made by script(1) from the
    /// shared root, of the size that this one has now; this one passes every key on meanwhile. Otherwise, or where there
    /// is no script(1), it reads its commands from standard input.
    package func shell(
        signals: borrowing SignalQueue, progress: (String) -> Void = { _ in }
    ) throws(EmulatedHostError) -> SessionResult {
        let shell = environmentVariable("SHELL").flatMap { Files.exists($0) ? $0 : nil } ?? "/bin/sh"
        guard isatty(0) == 1, isatty(1) == 1, let script = findProgram("script") else {
            return try execute(
                [isatty(0) == 1 ? "/bin/sh" : shell, isatty(0) == 1 ? "-i" : "-s"], signals: signals, progress: progress
            )
        }
        var connection = try connect(progress: progress)
        let command = EmulatedHost.terminalCommand(script: script, shell: shell, size: EmulatedHost.terminalSize())
        let before = RawTerminal.enter()
        defer { RawTerminal.leave(before) }
        return try connection.run(request(for: command, hasInput: true), .standard, signals)
    }

    /// `script` gives its command a terminal; its own record goes nowhere, and its exit status is the command's.
    static func terminalCommand(script: String, shell: String, size: (rows: UInt16, columns: UInt16)) -> [String] {
        let quoted =
            "'" + shell.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
        let sizing = size.rows > 0 && size.columns > 0 ? "stty rows \(size.rows) cols \(size.columns); " : ""
        return [script, "-q", "-e", "-c", "\(sizing)exec \(quoted) -i", "/dev/null"]
    }

    private static func terminalSize() -> (rows: UInt16, columns: UInt16) {
        var size = winsize()
        guard unsafe ioctl(0, UInt(TIOCGWINSZ), &size) == 0 else { return (0, 0) }
        return (size.ws_row, size.ws_col)
    }
}

/// The terminal as it was, while every key goes to the other side.
private enum RawTerminal {
    static func enter() -> termios? {
        var settings = termios()
        guard unsafe tcgetattr(0, &settings) == 0 else { return nil }
        let before = settings
        unsafe cfmakeraw(&settings)
        _ = unsafe tcsetattr(0, TCSADRAIN, &settings)
        return before
    }

    static func leave(_ before: termios?) {
        guard var before else { return }
        _ = unsafe tcsetattr(0, TCSADRAIN, &before)
    }
}
