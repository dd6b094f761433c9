// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Glibc
internal import Launch
internal import Platform
internal import Worker

/// Where all commands begin: `run` and `exec` have docker's syntax, everything else is ArgumentParser's. What `martlet`
/// does itself comes here too, where its arguments are not plain.
@main
enum Entry {
    static func main() {
        _ = CommandStart.moment
        let arguments = Array(CommandLine.arguments.dropFirst())
        let isRun = arguments.first == "run"
        let isExec = arguments.first == "exec"
        do {
            if isRun {
                let syntax = try RunSyntax(Array(arguments.dropFirst()))
                if let options = RunOptions(syntax) { try options.run() }
                var command = try Martlet.parseAsRoot(
                    ["run"] + syntax.options + (syntax.image.map { ["--", $0] } ?? []) + syntax.command)
                try command.run()
            } else if isExec {
                let syntax = try RunSyntax(Array(arguments.dropFirst()))
                var command = try Martlet.parseAsRoot(
                    ["exec"] + syntax.options + (syntax.image.map { ["--", $0] } ?? []) + syntax.command)
                try command.run()
            } else {
                var command = try Martlet.parseAsRoot(arguments)
                try command.run()
            }
        } catch {
            exit(report(error, isRun: isRun || isExec))
        }
        exit(0)
    }

    /// Says what went wrong and gives the exit status: 125 for `run` and `exec`, as docker has it; 64 for a wrong use of the other
    /// commands (sysexits(3)), 1 for what they could not do.
    private static func report(_ error: any Error, isRun: Bool) -> Int32 {
        if error is Failure { return Launch.report(error, usual: isRun ? 125 : 1) }
        let code = Martlet.exitCode(for: error)
        guard code != .success else {
            print(Martlet.fullMessage(for: error))
            return 0
        }
        // Only ArgumentParser's own errors come with a usage.
        guard code == .validationFailure else {
            complain("\(error)")
            return isRun ? 125 : 1
        }
        let text = Martlet.fullMessage(for: error)
        complain(text.hasPrefix("Error: ") ? String(text.dropFirst(7)) : text)
        return isRun ? 125 : 64
    }
}

/// Does the same for each of several names; one that fails does not keep the others from being done.
func forEach(_ references: [String], _ body: (String) throws -> Void) throws {
    var hasFailed = false
    for reference in references {
        do {
            try body(reference)
        } catch let failure as Failure {
            for line in failure.lines { complain(line) }
            hasFailed = true
        } catch {
            complain("\(error)")
            hasFailed = true
        }
    }
    if hasFailed { throw Failure(silentlyWith: 1) }
}
