// SPDX-License-Identifier: Apache-2.0

/// What a process does about signals, by /proc/PID/status. A set is a bit a signal, signal 1 the lowest (proc(5)).
package struct SignalSets: Equatable, Sendable {
    package var blocked: UInt64 = 0
    package var ignored: UInt64 = 0
    package var caught: UInt64 = 0

    package static let highest: Int32 = 64

    package init() {}

    /// Nil where the file does not have all three sets.
    package init?(status: [UInt8]) {
        var found = 0
        for line in status.parts(separatedBy: UInt8(ascii: "\n")) {
            guard line.hasPrefix(text("Sig")), line.count > 8, let set = SignalSets.set(line[8...]) else { continue }
            if line.hasPrefix(text("SigBlk:\t")) {
                blocked = set
            } else if line.hasPrefix(text("SigIgn:\t")) {
                ignored = set
            } else if line.hasPrefix(text("SigCgt:\t")) {
                caught = set
            } else {
                continue
            }
            found += 1
        }
        guard found == 3 else { return nil }
    }

    private static func set(_ digits: ArraySlice<UInt8>) -> UInt64? {
        guard digits.count == 16 else { return nil }
        var value: UInt64 = 0
        for digit in digits {
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(digit - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(digit - UInt8(ascii: "a") + 10)
            default: return nil
            }
        }
        return value
    }

    /// Whether the kernel drops this signal on its way to PID 1 of a namespace although it would end any other process:
    /// it is neither handled nor ignored, and its default action is to terminate. A blocked one is not dropped but kept
    /// until it is taken with sigwait(3) or signalfd(2), as small inits do.
    package func isDroppedThoughFatal(_ signal: Int32) -> Bool {
        guard signal >= 1, signal <= SignalSets.highest, SignalSets.terminates(signal) else { return false }
        return (blocked | ignored | caught) & (1 << UInt64(signal - 1)) == 0
    }

    /// Whether the default action is to terminate (signal(7)); the numbers are those of x86-64 and arm64.
    static func terminates(_ signal: Int32) -> Bool {
        switch signal {
        case 17, 18, 23, 28: false  // SIGCHLD, SIGCONT, SIGURG, SIGWINCH
        case 19, 20, 21, 22: false  // SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU
        default: true
        }
    }
}
