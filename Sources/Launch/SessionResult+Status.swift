// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Platform
package import Sessions
internal import Worker

extension SessionResult {
    /// What this command exits with when it stood for a process: the process's status. What was lost on the way is
    /// complained about, and 125 instead of success where that is output.
    ///
    /// - Throws: why the process never ran.
    package func commandStatus() throws(Failure) -> Int32 {
        if case .refused(let refusal) = outcome {
            throw Failure(printable(refusal.message), exitCode: Int32(refusal.exitCode))
        }
        if let failure = inputFailure { complain("standard input: \(failure.reason)") }
        if let failure = outputFailure {
            complain("output was lost: \(failure.reason)")
            if exitStatus == 0 { return 125 }
        }
        return Int32(exitStatus)
    }
}
