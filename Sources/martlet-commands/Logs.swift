// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Launch
internal import Platform
internal import Worker

/// `martlet logs`
struct Logs: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print a container's output.",
        discussion: """
            What the process wrote to standard output goes to standard output, its errors to standard error.

            martlet logs -f --tail 10 web
            martlet logs --since 5m -t web
            """)

    @Flag(name: .shortAndLong, help: "Go on with what comes, until the container ends.")
    var follow = false
    @Option(name: [.customShort("n"), .long], help: ArgumentHelp("The last lines only.", valueName: "lines"))
    var tail = "all"
    @Option(help: ArgumentHelp("From a time on (RFC 3339), or the last 10m, 2h, …", valueName: "time"))
    var since: String?
    @Flag(name: .shortAndLong, help: "Begin each line with its time.")
    var timestamps = false
    @Argument(help: "A container's name or id.", completion: machineNames)
    var container: String

    func run() throws {
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        let store = try MachineStore.ofUser { environmentVariable($0) }
        let record = try store.find(container)
        var selection = LogSelection()
        if tail != "all" {
            guard let count = Int(tail), count >= 0 else { throw ValidationError("--tail takes a number or all") }
            selection.lastLines = count
        }
        if let since {
            if let time = Timestamp.parse(since) {
                selection.since = time
            } else {
                let now = wallClockNanoseconds()
                selection.since = now - min(now, try Quantities.milliseconds(since) &* 1_000_000)
            }
        }
        try LogPrinter(record: record, selection: selection, hasTimestamps: timestamps).run(follow: follow)
    }
}
