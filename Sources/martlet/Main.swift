// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Launch
internal import Platform
internal import Worker

/// What users start. It is small and quick to be loaded, has the commands that are waited for most, and becomes
/// `martlet-commands`, which knows all of them, for everything else: other commands, arguments that are not plain, what
/// takes its time anyway.
@main
enum Main {
    static func main() {
        _ = CommandStart.moment
        let arguments = Array(CommandLine.arguments.dropFirst())
        let isExec = arguments.first == "exec"
        let isRun = arguments.first == "run"
        do {
            let syntax = isExec || isRun ? try? RunSyntax(Array(arguments.dropFirst())) : nil
            if isExec, let options = syntax.flatMap(ExecOptions.init) {
                try options.run()
            } else if isRun, let options = syntax.flatMap(SnapshotRun.init) {
                try options.run(asItIs)
            } else if let options = CloneOptions(arguments) {
                try options.run(asItIs)
            } else {
                try becomeAllCommands()
            }
        } catch is NeedsPreparation {
            do { try becomeAllCommands() } catch { exit(report(error, usual: isRun ? 125 : 1)) }
        } catch {
            exit(report(error, usual: isExec || isRun ? 125 : 1))
        }
        exit(0)
    }

    /// A snapshot that is not ready for a container yet.
    private struct NeedsPreparation: Error {}

    private static func asItIs(_ manifest: SnapshotManifest, _: SnapshotStore) throws -> ReadySnapshot {
        guard let snapshot = ReadySnapshot(asItIs: manifest) else { throw NeedsPreparation() }
        return snapshot
    }

    private static func becomeAllCommands() throws(Failure) {
        let program = try Installation.allCommands()
        throw Failure("\(program) cannot be executed: \(becomeProgram(program, CommandLine.arguments))")
    }
}
