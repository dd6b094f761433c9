// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI

/// The monitor's command line: Firecracker's, and a few arguments of ours.
struct Arguments {
    var configurationPath: String?
    var socketPath: String?
    var withoutAPI = false
    var identifier = "anonymous-instance"
    var statusDescriptor: Int32?
    var lifelineDescriptor: Int32?
    var logger = Logger()
    var metricsPath: String?
    /// In bytes.
    var bodyLimit = 51200
    var startTime: UInt64?
    var startProcessorTime: UInt64?
    var parentProcessorTime: UInt64?
    var measuresBoot = false
    var showsVersion = false
    var showsHelp = false
    var showsSnapshotVersion = false
    var describedSnapshot: String?

    struct Problem: Error {
        let text: String
    }

    static let help = """
        usage: martlet-vmm --api-sock PATH [options]
               martlet-vmm --config-file FILE [--api-sock PATH] [options]

        Runs one microVM: one that requests to a unix socket configure and start, or one that a JSON file describes.

          --api-sock PATH       listen at this unix socket for requests (Firecracker's REST API; see Docs/API.md)
          --config-file FILE    start the machine that this file describes
          --no-api              no socket, whatever else is said; needs --config-file
          --id ID               the machine's name (1 to 64 letters, digits and -)
          --http-api-max-payload-size BYTES
                                the most bytes of a request's body (51200)
          --log-path PATH       add messages to this file or named pipe instead of writing them to standard error
          --level LEVEL         Off, Error, Warning, Info, Debug or Trace
          --module MODULE       only messages of this part of the monitor
          --show-level, --show-log-origin
                                messages have their level, and the file and line that they come from
          --metrics-path PATH   add figures to this file or named pipe, each minute, on request and at the end
          --boot-timer          report the time to the guest's write of 123 to 0xc0000000
          --start-time-us N, --start-time-cpu-us N, --parent-cpu-time-us N
                                when this process was started (monotonic clock, processor time), for the figures
          --status-fd N         write a line of JSON to this descriptor at each event of the machine's life
          --lifeline-fd N       end when this pipe's or socket's other side is closed
          --snapshot-version    print the version of snapshot files that this monitor writes
          --describe-snapshot FILE
                                print the version of a snapshot's file
          --no-seccomp          accepted: this monitor installs no filter
          --version, --help

        Exit status: 0 the guest or the host ended the machine, 1 the monitor could not go on, 148 to 151, 154 and 157 a
        signal ended it, 152 the configuration cannot be used, 153 wrong arguments, 156 a hangup ended the machine.

        """

    /// Arguments that have a value.
    private static let valued: Set<String> = [
        "--api-sock", "--config-file", "--id", "--status-fd", "--lifeline-fd", "--log-path", "--level", "--module",
        "--metrics-path", "--http-api-max-payload-size", "--start-time-us", "--start-time-cpu-us",
        "--parent-cpu-time-us", "--describe-snapshot", "--seccomp-filter", "--metadata", "--mmds-size-limit",
    ]
    private static let flags: Set<String> = [
        "--no-api", "--boot-timer", "--show-level", "--show-log-origin", "--snapshot-version", "--no-seccomp",
        "--enable-pci", "--version", "--help", "-h",
    ]

    init(_ arguments: [String]) throws(Problem) {
        var rest = arguments.dropFirst()
        var seen: Set<String> = []
        while let argument = rest.popFirst() {
            var name = argument
            var value: String?
            if let equals = argument.utf8.firstIndex(of: UInt8(ascii: "=")) {
                name = String(argument[..<equals])
                value = String(argument[argument.utf8.index(after: equals)...])
            }
            guard Self.valued.contains(name) || Self.flags.contains(name) else {
                throw Problem(text: "\(argument): there is no such argument; see martlet-vmm --help")
            }
            guard seen.insert(name).inserted else { throw Problem(text: "\(name) comes twice") }
            if Self.valued.contains(name) {
                guard let value = value ?? rest.popFirst() else { throw Problem(text: "\(name): a value is missing") }
                try take(name, value)
            } else {
                guard value == nil else { throw Problem(text: "\(name) takes no value") }
                try take(name)
            }
        }
        if showsVersion || showsHelp || showsSnapshotVersion || describedSnapshot != nil { return }
        if withoutAPI {
            guard configurationPath != nil else { throw Problem(text: "--no-api needs --config-file") }
            socketPath = nil
        }
        guard configurationPath != nil || socketPath != nil else {
            throw Problem(text: "--api-sock or --config-file is missing; see martlet-vmm --help")
        }
    }

    private mutating func take(_ flag: String) throws(Problem) {
        switch flag {
        case "--no-api": withoutAPI = true
        case "--boot-timer": measuresBoot = true
        case "--show-level": logger.showsLevel = true
        case "--show-log-origin": logger.showsOrigin = true
        case "--snapshot-version": showsSnapshotVersion = true
        case "--enable-pci": throw Problem(text: "--enable-pci: this monitor has no PCI bus; leave it out")
        case "--version": showsVersion = true
        case "--no-seccomp": break
        default: showsHelp = true
        }
    }

    private mutating func take(_ name: String, _ value: String) throws(Problem) {
        switch name {
        case "--api-sock": socketPath = value
        case "--config-file": configurationPath = value
        case "--log-path": logger.path = value
        case "--module": logger.module = value
        case "--metrics-path": metricsPath = value
        case "--describe-snapshot": describedSnapshot = value
        case "--id":
            guard isMachineIdentifier(value) else {
                throw Problem(text: "--id \(value): 1 to 64 letters, digits and - are wanted")
            }
            identifier = value
        case "--level":
            guard let level = Logger.Level(word: value) else {
                throw Problem(text: "--level \(value): Off, Error, Warning, Info, Debug or Trace is wanted")
            }
            logger.level = level
        case "--http-api-max-payload-size":
            guard let number = Int(value), (0...(64 << 20)).contains(number) else {
                throw Problem(text: "\(name) \(value): a number of bytes up to 67108864 is wanted")
            }
            bodyLimit = number
        case "--start-time-us": startTime = try Self.microseconds(name, value)
        case "--start-time-cpu-us": startProcessorTime = try Self.microseconds(name, value)
        case "--parent-cpu-time-us": parentProcessorTime = try Self.microseconds(name, value)
        case "--seccomp-filter":
            throw Problem(text: "\(name): this monitor takes no filters of its users; leave it out")
        case "--metadata", "--mmds-size-limit":
            throw Problem(text: "\(name): this monitor has no metadata service yet; leave it out")
        default:
            guard let number = Int32(value), number >= 0 else {
                throw Problem(text: "\(name) \(value): the number of an open descriptor is wanted")
            }
            if name == "--status-fd" { statusDescriptor = number } else { lifelineDescriptor = number }
        }
    }

    private static func microseconds(_ name: String, _ value: String) throws(Problem) -> UInt64 {
        guard let number = UInt64(value) else { throw Problem(text: "\(name) \(value): microseconds are wanted") }
        return number
    }
}
