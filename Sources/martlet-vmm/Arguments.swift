// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI

/// The monitor's command line.
struct Arguments {
    var configurationPath: String?
    var identifier = "anonymous-instance"
    var statusDescriptor: Int32?
    var lifelineDescriptor: Int32?
    var logPath: String?
    var level: Logger.Level?
    var measuresBoot = false
    var showsVersion = false
    var showsHelp = false

    struct Problem: Error {
        let text: String
    }

    static let help = """
        usage: martlet-vmm --config-file FILE [options]

        Runs one microVM as the JSON file says, until its guest ends.

          --config-file FILE  what the machine is made of
          --id ID             the machine's name in messages (letters, digits and -)
          --no-api            accepted; there is no API socket unless one is asked for
          --status-fd N       write a line of JSON to this descriptor at each event of the machine's life
          --lifeline-fd N     end when this pipe's or socket's other side is closed
          --log-path FILE     add messages to this file instead of writing them to standard error
          --level LEVEL       Off, Error, Warning, Info, Debug or Trace
          --boot-timer        report the time to the guest's write of 123 to 0xc0000000
          --version, --help

        Exit status: 0 the guest or the host ended the machine, 1 the monitor could not go on, 152 the configuration
        cannot be used, 153 wrong arguments.

        """

    init(_ arguments: [String]) throws(Problem) {
        var rest = arguments.dropFirst()
        while let argument = rest.popFirst() {
            var name = argument
            var value: String?
            if let equals = argument.utf8.firstIndex(of: UInt8(ascii: "=")) {
                name = String(argument[..<equals])
                value = String(argument[argument.utf8.index(after: equals)...])
            }
            switch name {
            case "--config-file", "--id", "--status-fd", "--lifeline-fd", "--log-path", "--level":
                guard let value = value ?? rest.popFirst() else { throw Problem(text: "\(name): a value is missing") }
                try take(name, value)
            case "--no-api", "--boot-timer", "--version", "--help", "-h":
                guard value == nil else { throw Problem(text: "\(name) takes no value") }
                switch name {
                case "--boot-timer": measuresBoot = true
                case "--version": showsVersion = true
                case "--no-api": break
                default: showsHelp = true
                }
            default:
                throw Problem(text: "\(argument): there is no such argument; see martlet-vmm --help")
            }
        }
        guard configurationPath != nil || showsVersion || showsHelp else {
            throw Problem(text: "--config-file is missing; see martlet-vmm --help")
        }
    }

    private mutating func take(_ name: String, _ value: String) throws(Problem) {
        switch name {
        case "--config-file": configurationPath = value
        case "--log-path": logPath = value
        case "--id":
            let isGood = value.utf8.allSatisfy { byte in
                byte == 0x2d || byte >= 0x30 && byte <= 0x39 || byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7a
            }
            guard isGood, !value.isEmpty, value.utf8.count <= 64 else {
                throw Problem(text: "--id \(value): 1 to 64 letters, digits and - are wanted")
            }
            identifier = value
        case "--level":
            guard let level = Logger.Level(word: value) else {
                throw Problem(text: "--level \(value): Off, Error, Warning, Info, Debug or Trace is wanted")
            }
            self.level = level
        default:
            guard let number = Int32(value), number >= 0 else {
                throw Problem(text: "\(name) \(value): the number of an open descriptor is wanted")
            }
            if name == "--status-fd" { statusDescriptor = number } else { lifelineDescriptor = number }
        }
    }
}
