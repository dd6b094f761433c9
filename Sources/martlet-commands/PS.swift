// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import Launch
internal import Platform
internal import Wire
internal import Worker

enum OutputFormat: String, CaseIterable, ExpressibleByArgument {
    case table
    case json
}

/// `martlet ps`
struct PS: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ps", abstract: "List containers.",
        discussion: """
            Those that run; with -a all. A container whose supervisor was lost is shown as crashed; martlet rm removes it.

            martlet ps -a --format json | jq -r .Names
            """)

    @Flag(name: .shortAndLong, help: "List those that have ended, too.")
    var all = false
    @Flag(name: .shortAndLong, help: "Print ids only.")
    var quiet = false
    @Flag(help: "Print whole ids and commands.")
    var noTrunc = false
    @Option(help: "table, or json: one object a line.")
    var format = OutputFormat.table

    func run() throws {
        if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
        let store = try MachineStore.ofUser { environmentVariable($0) }
        store.sweep()
        HostNetworkStore.sweepAsFarAsPossible()
        let records = store.list().filter { all || $0.condition == .running || $0.condition == .created }
        if quiet {
            for record in records { print(noTrunc ? record.id : record.shortID) }
        } else if format == .json {
            for record in records { print(record.summary(now: wallClockNanoseconds())) }
        } else {
            var table = Table(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"])
            for record in records { table.rows.append(row(record)) }
            print(table.text, terminator: "")
        }
    }

    private func row(_ record: MachineRecord) -> [String] {
        let now = wallClockNanoseconds()
        let command = record.configuration.process.arguments.joined(separator: " ")
        let shown = printable(Array(command.utf8), limit: 10_000)
        let age = (now - min(now, record.configuration.createdAt)) / 1_000_000_000
        return [
            noTrunc ? record.id : record.shortID, record.configuration.image,
            noTrunc || shown.count <= 20 ? "\"\(shown)\"" : "\"\(shown.prefix(19))…\"",
            "\(Quantities.describe(seconds: age)) ago", record.statusText(now: now), record.name,
        ]
    }
}

extension MachineRecord {
    /// `Up 5 seconds`, `Exited (0) 2 minutes ago`.
    func statusText(now: UInt64) -> String {
        func ago(_ time: UInt64?) -> String {
            time.map { Quantities.describe(seconds: (now - min(now, $0)) / 1_000_000_000) } ?? "unknown"
        }
        switch condition {
        case .created: return "Created"
        case .running: return "Up \(ago(state.startedAt))"
        case .exited: return "Exited (\(state.exitCode ?? 0)) \(ago(state.finishedAt)) ago"
        case .crashed: return "Crashed"
        }
    }

    /// As `docker ps --format json` names things.
    func summary(now: UInt64) -> JSON {
        [
            "ID": .string(id), "Names": .string(name), "Image": .string(configuration.image),
            "Command": .string(configuration.process.arguments.joined(separator: " ")),
            "CreatedAt": .string(Timestamp.text(configuration.createdAt)), "State": .string(condition.rawValue),
            "Status": .string(statusText(now: now)),
        ]
    }

    /// Everything that is known.
    var details: JSON {
        var object = JSONObject()
        object["id"] = .string(id)
        object["name"] = .string(name)
        object["condition"] = .string(condition.rawValue)
        object["directory"] = .string(directory)
        object["createdAt"] = .string(Timestamp.text(configuration.createdAt))
        object["startedAt"] = state.startedAt.map { .string(Timestamp.text($0)) }
        object["finishedAt"] = state.finishedAt.map { .string(Timestamp.text($0)) }
        object["exitCode"] = state.exitCode.map { .number($0) }
        object["reason"] = state.reason.map { .string($0) }
        object["configuration"] = configuration.json
        object["state"] = state.json
        return .object(object)
    }
}
