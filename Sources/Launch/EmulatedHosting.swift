// SPDX-License-Identifier: Apache-2.0

package import EmulatedHost
internal import Glibc
internal import GuestProtocol
package import Platform
package import Sessions
internal import Worker

/// Carries commands into the emulated host.
package enum EmulatedHosting {
    /// The subcommand that is the host's keeper.
    package static let keeperCommand = "host-keeper"

    package static func host(memoryInMiB: Int? = nil) throws -> EmulatedHost {
        let installation = try Installation.find()
        return EmulatedHost(
            try HostConfiguration(
                paths: HostPaths.ofThisUser(), kernel: installation.kernel, initramfs: installation.initramfs,
                programs: [
                    installation.allCommands, installation.monitor, installation.supervisor, installation.fabric,
                    installation.pageServer,
                ] + (installation.front.map { [$0] } ?? []),
                keeper: [installation.allCommands, keeperCommand], fabric: installation.fabric, memoryInMiB: memoryInMiB
            ))
    }

    /// Runs a command inside and gives its exit status.
    package static func execute(_ command: [String], hasInput: Bool, signals: borrowing SignalQueue) throws -> Int32 {
        var streams = SessionStreams.standard
        if !hasInput { streams.input = nil }
        return try stand { host in try host.execute(command, streams: streams, signals: signals) }
    }

    /// Stands for what runs inside: gives its exit status, and says what went wrong with it.
    package static func stand(_ body: (EmulatedHost) throws -> SessionResult) throws -> Int32 {
        let host = try host()
        let line = ProgressLine()
        // Apart from what follows, so that the line is gone before the first byte of output comes.
        try host.start(progress: { line.show($0) })
        line.clear()
        return try body(host).commandStatus()
    }

    /// Runs this very command inside, and ends with its exit status.
    /// - Parameter numbers: the signals that go to it.
    package static func forwardThisCommand(
        passing numbers: [Int32] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT]
    ) throws -> Never {
        ignoreBrokenPipes()
        let signals = try SignalQueue(numbers)
        let arguments = Array(CommandLine.arguments.dropFirst())
        exit(try execute([try Installation.find().command] + arguments, hasInput: false, signals: signals))
    }
}
