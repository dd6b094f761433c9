// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// The child's side of a start: from the fork to the program. It runs in a copy of init, on the same single thread, and
/// ends in the program or in `_exit`.
///
/// What it says on the status pipe: `R` when all is ready; or `E`, the exit code, and the reason. Then it waits for a
/// byte on the go pipe; the pipe's end says that nobody wants the program any more. Without a go pipe it neither says that
/// it is ready nor waits.
struct Launch {
    static let ready = UInt8(ascii: "R")
    static let error = UInt8(ascii: "E")
    /// The longest reason.
    static let errorLimit = 4096

    let request: ProcessRequest
    let root: Root
    let isInEmulatedHost: Bool
    /// To be 0 (negative for /dev/null), 1 and 2, and the ends of the status and go pipes.
    let input: Int32
    let output: Int32
    let errors: Int32
    let status: Int32
    let go: Int32?

    /// Where the process is to live.
    enum Root {
        /// In init's own root and namespaces.
        case own
        /// In a container that it is the first process of, in new namespaces.
        case container(Container)
        /// In the container whose main process this descriptor is of.
        case joined(Int32)
    }

    struct Problem: Error {
        let exitCode: UInt8
        let message: [UInt8]
    }

    private static let statusTarget: Int32 = 3
    private static let goTarget: Int32 = 4
    private static let joinedTarget: Int32 = 5

    func run() -> Never {
        var problem = Problem(exitCode: 125, message: [])
        do throws(Problem) {
            try takeDescriptors()
            try start()
        } catch {
            problem = error
        }
        let message = [Launch.error, problem.exitCode] + problem.message.prefix(Launch.errorLimit)
        _ = guest_write(Launch.statusTarget, message, message.count)
        guest_exit(Int32(problem.exitCode))
    }

    /// No descriptor of init's or of another session's stays, not even until the program is executed: a pipe would not
    /// end while this child waits.
    private func takeDescriptors() throws(Problem) {
        do throws(SystemFailure) {
            // The status pipe first: it carries what goes wrong with the others. Its own end and theirs are beyond 4.
            try System.check(guest_duplicate(status, Launch.statusTarget, 0), "dup")
            // Without it, something that closes when the program is executed, and nothing of init's.
            try System.check(guest_duplicate(go ?? status, Launch.goTarget, 0), "dup")
            if input >= 0 { try System.check(guest_duplicate(input, 0, 1), "dup") }
            try System.check(guest_duplicate(output, 1, 1), "dup")
            try System.check(guest_duplicate(errors, 2, 1), "dup")
            if case .joined(let process) = root {
                try System.check(guest_duplicate(process, Launch.joinedTarget, 0), "dup")
                guest_close_from(Launch.joinedTarget + 1)
            } else {
                guest_close_from(Launch.joinedTarget)
            }
        } catch {
            throw Problem(exitCode: 125, message: error.message)
        }
    }

    private func start() throws(Problem) {
        guest_reset_signals()
        _ = guest_new_session()
        guest_set_mask(0o022)
        do throws(SystemFailure) {
            switch root {
            // Here and not in init: it takes as long as there are names to forget, and other sessions go on meanwhile.
            case .own: if isInEmulatedHost { EmulatedHost.freshen() }
            case .container(let container): try container.enter()
            case .joined:
                try System.check(
                    guest_enter(Launch.joinedTarget, guest_new_mounts | guest_new_ipc | guest_new_control_groups),
                    "setns")
            }
            if input < 0 { try openNull() }
        } catch {
            throw Problem(exitCode: 125, message: error.message)
        }
        let account = try findAccount()
        try changeDirectory()
        do throws(SystemFailure) {
            try become(account)
        } catch {
            throw Problem(exitCode: 125, message: error.message)
        }
        var environment = Environment(request.environment)
        environment.setDefault("HOME", account.home)
        let program = try findProgram(environment)

        if go != nil {
            guard guest_write(Launch.statusTarget, [Launch.ready], 1) == 1 else { guest_exit(125) }
            var word: UInt8 = 0
            guard guest_read(Launch.goTarget, &word, 1) == 1 else { guest_exit(125) }
        }
        let code = execute(program, environment)
        throw Problem(
            exitCode: code == guest_enoent ? 127 : 126,
            message: ProgramSearch.start(of: request.arguments[0]) + reason(code, program))
    }
}
