// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// A system call that failed: which call, on what, and why.
package struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The call's name as in its manual page, for example `open`.
    package let call: StaticString
    /// What the call was made on: a path, an address, a device; empty where there is nothing to name.
    package let subject: String
    /// The value of `errno`.
    package let code: Int32

    /// The failure that `errno` tells of: to be made right after the call.
    package init(_ call: StaticString, _ subject: String = "") {
        self.init(call, subject, code: clinux_errno())
    }

    package init(_ call: StaticString, _ subject: String = "", code: Int32) {
        self.call = call
        self.subject = subject
        self.code = code
    }

    package static func == (one: SystemError, other: SystemError) -> Bool {
        one.call.description == other.call.description && one.subject == other.subject && one.code == other.code
    }

    /// The system's own text for the code, for example `No such file or directory`.
    package var reason: String { systemErrorText(code) }

    package var description: String {
        subject.isEmpty ? "\(call): \(reason)" : "\(call) \(subject): \(reason)"
    }
}

/// The system's text for an `errno` value.
package func systemErrorText(_ code: Int32) -> String {
    guard let text = unsafe strerror(code) else { return "error \(code)" }
    return unsafe String(cString: text)
}

/// Makes a call again for as long as a signal interrupts it; gives -1 only for a real failure.
@inline(__always)
package func retryingInterrupts<Result: SignedInteger>(_ call: () -> Result) -> Result {
    while true {
        let result = call()
        if result == -1 && clinux_errno() == EINTR { continue }
        return result
    }
}
