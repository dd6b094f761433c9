// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import GuestProtocol
internal import Launch
internal import Platform
internal import Wire
internal import Worker

private func withContainers(_ references: [String], _ body: (MachineStore, MachineRecord) throws -> Void) throws {
    if try Placement.decide() == .emulatedHost { try EmulatedHosting.forwardThisCommand() }
    let store = try MachineStore.ofUser { environmentVariable($0) }
    try forEach(references) { reference in try body(store, try store.find(reference)) }
}

/// `martlet stop`
struct Stop: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Stop containers.",
        discussion: "The process gets its stop signal, and, if it is still there after a time, is killed.")

    @Option(
        name: [.customShort("t"), .customLong("time"), .customLong("timeout")],
        help: ArgumentHelp("How long to wait before killing (default: as run was told, or 10s).", valueName: "time"))
    var time: String?
    @Argument(help: "Names or ids.", completion: machineNames)
    var containers: [String]

    func run() throws {
        let time = try time.map(Quantities.milliseconds)
        try withContainers(containers) { _, record in
            if record.isHeld {
                var control = try Control(record)
                try control.send(.stop, number: time ?? record.configuration.stopTimeout)
                _ = try control.awaitEnd()
            }
            print(record.name)
        }
    }
}

/// `martlet kill`
struct Kill: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Send containers a signal.", discussion: "martlet kill -s HUP web")

    @Option(name: .shortAndLong, help: "A name such as HUP or SIGHUP, or a number.")
    var signal = "KILL"
    @Argument(help: "Names or ids.", completion: machineNames)
    var containers: [String]

    func run() throws {
        let number = try SignalName.number(signal)
        try withContainers(containers) { _, record in
            guard record.isHeld else { throw Failure("\(record.name) is not running") }
            var control = try Control(record)
            try control.send(.signal, number: UInt64(number))
            // What certainly ends it is done when it has ended.
            if number == 9 { _ = try control.awaitEnd() }
            print(record.name)
        }
    }
}

/// `martlet wait`
struct Wait: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Wait until containers have ended; print their exit codes.")

    @Argument(help: "Names or ids.", completion: machineNames)
    var containers: [String]

    func run() throws {
        try withContainers(containers) { store, record in
            var status: UInt8?
            if record.isHeld, var control = try? Control(record) { status = try control.awaitEnd() }
            if status == nil { status = try store.record(record.id)?.state.exitCode }
            guard let status else { throw Failure("\(record.name) crashed: nobody saw its exit code") }
            print(status)
        }
    }
}

/// `martlet rm`
struct Remove: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "rm", abstract: "Remove containers.")

    @Flag(name: .shortAndLong, help: "Kill those that run.")
    var force = false
    @Argument(help: "Names or ids.", completion: machineNames)
    var containers: [String]

    func run() throws {
        try withContainers(containers) { store, record in
            if record.isHeld {
                guard force else {
                    throw Failure("\(record.name) is running: stop it first (martlet stop), or remove it with rm -f")
                }
                // One that ends just now needs no order.
                if var control = try? Control(record) {
                    try? control.send(.stop, number: 0)
                    _ = try? control.awaitEnd()
                }
                record.state.supervisor?.waitForEnd(milliseconds: 10_000)
            }
            guard try store.remove(record.id) else { throw Failure("\(record.name) is still ending: try again") }
            HostNetworkStore.sweepAsFarAsPossible()
            print(record.name)
        }
    }
}

/// `martlet inspect`
struct Inspect: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Print all that is known about containers, as JSON.")

    enum Format: String, CaseIterable, ExpressibleByArgument {
        case json
    }

    @Option(help: "json, on one line; without it, indented.")
    var format: Format?
    @Argument(help: "Names or ids.", completion: machineNames)
    var containers: [String]

    func run() throws {
        var found: [JSON] = []
        var failure: (any Error)?
        do { try withContainers(containers) { _, record in found.append(record.details) } } catch { failure = error }
        print(String(decoding: JSON.array(found).encoded(indented: format == nil), as: UTF8.self))
        if let failure { throw failure }
    }
}
