// SPDX-License-Identifier: Apache-2.0

internal import Glibc

/// What a command could not do, in words for its user.
package struct Failure: Error {
    package let lines: [String]
    /// Nil for the command's usual one.
    package let exitCode: Int32?

    package init(_ text: String, exitCode: Int32? = nil) {
        lines = [text]
        self.exitCode = exitCode
    }

    /// Everything was said already.
    package init(silentlyWith exitCode: Int32) {
        lines = []
        self.exitCode = exitCode
    }
}

/// Says why a command came to nothing; gives its exit status.
/// - Parameter usual: where the failure has none of its own: 125 for `run` and `exec`, as docker has it, 1 for the others.
package func report(_ error: any Error, usual: Int32) -> Int32 {
    guard let failure = error as? Failure else {
        complain("\(error)")
        return usual
    }
    for line in failure.lines { complain(line) }
    return failure.exitCode ?? usual
}

/// Writes a line to standard error.
package func complain(_ text: String) {
    writeToStandardError("martlet: \(text)\n")
}

package func writeToStandardError(_ text: String) {
    let bytes = Array(text.utf8)
    _ = bytes.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
