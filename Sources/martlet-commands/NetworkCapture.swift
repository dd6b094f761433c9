// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import EmulatedHost
internal import FabricAPI
internal import Glibc
internal import Launch
internal import Networks
internal import Packet
internal import Platform
internal import Sessions
internal import Worker

extension Network {
    /// `martlet network capture`
    struct Capture: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write the frames of a network, or of one container, as pcapng.",
            discussion: """
                Until Ctrl-C, or until nobody reads any more. Frames are written as containers send them and as they are \
                sent to containers; those that go nowhere say why.

                martlet network capture default | tcpdump -n -r -
                martlet network capture web -w web.pcapng
                """)

        @Option(
            name: [.customShort("w"), .customLong("write")],
            help: ArgumentHelp("Write to this file instead of standard output.", valueName: "file"),
            completion: .file())
        var file: String?
        @Argument(help: ArgumentHelp("A network or a container.", valueName: "name"))
        var subject: String

        func run() throws {
            ignoreBrokenPipes()
            guard file != nil || isatty(1) == 0 else {
                throw Failure(
                    "standard output is a terminal, and this is no text: name a file with -w, or pipe it into "
                        + "tcpdump -n -r - or wireshark -k -i -")
            }
            let signals = try SignalQueue([SIGINT, SIGTERM, SIGHUP])
            switch try Placement.decide() {
            case .here:
                var capture = try CaptureRun(of: subject)
                let output = try output()
                try capture.run(to: output, signals)
            case .emulatedHost:
                // The file is out here.
                let output = try output()
                let command = [try Installation.find().command, "network", "capture", subject]
                let streams = SessionStreams(input: nil, output: output.raw, errors: 2)
                throw Failure(
                    silentlyWith: try EmulatedHosting.stand { host in
                        try host.execute(command, streams: streams, signals: signals)
                    })
            }
        }

        private func output() throws -> Descriptor {
            guard let file else { return try Descriptor(duplicating: 1) }
            do throws(SystemError) {
                return try Descriptor.open(file, .create, permissions: 0o600)
            } catch {
                throw Failure("-w: \(error)")
            }
        }
    }
}

/// A capture that runs: the fabric writes into a pipe, and whole blocks of it are passed on.
private struct CaptureRun: ~Copyable {
    private var connection: FabricConnection?
    private let pipe: Descriptor
    private var blocks = PCAPNGBlocks()
    private var hasLease = true

    /// - Parameter subject: a network's or a running container's name; a network comes first.
    init(of subject: String) throws {
        let store = try NetworkStore.ofUser { environmentVariable($0) }
        var network = subject
        var id: String?
        if !store.names().contains(subject) {
            let record: MachineRecord
            do { record = try MachineStore.ofUser { environmentVariable($0) }.find(subject) } catch {
                throw Failure("there is no network and no container \(subject)")
            }
            guard let wish = record.configuration.networks.first else {
                throw Failure("\(record.name) is in no network")
            }
            guard record.condition == .running else { throw Failure("\(record.name) is not running") }
            network = wish.network
            id = record.id
        }
        var connection = try FabricConnection(to: network, of: store, program: try Installation.find().fabric)
        let pipe = try Pipe()
        _ = try connection.ask(.capture(id: id), giving: pipe.writing)
        self.connection = consume connection
        self.pipe = pipe.reading
    }

    mutating func run(to output: borrowing Descriptor, _ signals: borrowing SignalQueue) throws {
        var space = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let ready = poll([(pipe.raw, POLLIN), (signals.descriptor.raw, POLLIN)])
            // The lease ends, and with it the capture: what is in the pipe is still written. A second time nothing is.
            while ready[1], signals.next() != nil {
                guard hasLease else { throw Failure(silentlyWith: 130) }
                hasLease = false
                connection = nil
            }
            guard ready[0] else { continue }
            let transfer = space.withUnsafeMutableBytes { bytes in
                Result { () throws(SystemError) in try pipe.read(into: bytes) }
            }
            guard case .bytes(let count) = try transfer.get() else { break }
            guard let whole = blocks.append(space[..<count]) else {
                throw Failure("what the network's process writes is no capture")
            }
            do throws(SystemError) {
                try output.writeAll(whole)
            } catch {
                // Whoever reads has enough.
                if error.code == EPIPE { break }
                throw error
            }
        }
        writeToStandardError("\(blocks.frames) frames captured\n")
    }
}
