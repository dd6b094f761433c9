// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol

/// How a machine's life ended.
package enum Outcome: Equatable, Sendable {
    /// The process ended by itself or by a signal.
    case exited(ExitReport)
    /// The process could not be started; the guest says why.
    case refused(Refusal)
    /// The machine, or what was wanted of it, ended otherwise; with the exit code for that.
    case failed(Refusal)

    static func failed(_ exitCode: UInt8, _ reason: String) -> Outcome {
        .failed(Refusal(exitCode: exitCode, message: Array(reason.utf8)))
    }

    /// What `martlet run` exits with.
    package var exitCode: UInt8 {
        switch self {
        case .exited(let report): report.shellStatus
        case .refused(let refusal), .failed(let refusal): refusal.exitCode
        }
    }

    /// Why it was not the process's own end; nil where it was. A guest's words are cut to a length and made printable.
    package var reason: String? {
        switch self {
        case .exited: nil
        case .refused(let refusal), .failed(let refusal): printable(refusal.message)
        }
    }

    /// What the one who wants the process is told.
    var frame: Frame {
        switch self {
        case .exited(let report):
            Frame(.exited, session: SupervisorStateMachine.mainSession, payload: report.payload)
        case .refused(let refusal):
            Frame(.refused, session: SupervisorStateMachine.mainSession, payload: refusal.payload)
        case .failed(let refusal): Frame(.failure, payload: refusal.payload)
        }
    }
}

/// Text from a guest or a log, for a terminal: at most `limit` bytes, without control characters.
package func printable(_ bytes: [UInt8], limit: Int = 1000) -> String {
    let text = String(decoding: bytes.prefix(limit), as: UTF8.self)
    // As nearly all of it is; then there is nothing to replace.
    if text.utf8.allSatisfy({ (0x20..<0x7F).contains($0) }) { return text }
    return String(
        String.UnicodeScalarView(
            text.unicodeScalars.map { scalar in
                scalar.value < 0x20 || (0x7F..<0xA0).contains(scalar.value) ? " " : scalar
            }))
}
