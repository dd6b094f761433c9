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
internal import Wire
internal import Worker

extension Network {
    /// `martlet network capture`
    struct Capture: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Write the frames of a network, or of one container, as pcapng.",
            discussion: """
                Until Ctrl-C, or until nobody reads any more. Frames are written as containers send them and as they are \
                sent to containers; those that go nowhere say why. Of a container, all networks that it is in are \
                captured, each as an interface of its own.

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

/// A capture that runs: fabrics write into pipes, and whole blocks of what they write are passed on.
private struct CaptureRun: ~Copyable {
    /// What one fabric writes.
    private final class Source {
        let pipe: Descriptor
        /// The lease, with which the capture ends; nil once it has been given up.
        private var connection: FabricConnection?
        var hasEnded = false

        init(_ network: String, id: String?, of store: NetworkStore) throws {
            var connection = try FabricConnection(to: network, of: store, program: try Installation.find().fabric)
            let pipe = try Pipe()
            _ = try connection.ask(.capture(id: id), giving: pipe.writing)
            self.connection = consume connection
            self.pipe = pipe.reading
        }

        func giveUp() { connection = nil }

        /// The next bytes; nil at the end.
        func read(into space: inout [UInt8]) throws -> ArraySlice<UInt8>? {
            let transfer = space.withUnsafeMutableBytes { bytes in
                Result { () throws(SystemError) in try pipe.read(into: bytes) }
            }
            guard case .bytes(let count) = try transfer.get() else { return nil }
            return space[..<count]
        }
    }

    private let sources: [Source]
    private var hasLease = true
    /// A network's capture is passed on as it is; those of a machine's networks become one.
    private var blocks = PCAPNGBlocks()
    private var merge: PCAPNGMerge?

    /// - Parameter subject: a network's or a running container's name; a network comes first.
    init(of subject: String) throws {
        let store = try NetworkStore.ofUser { environmentVariable($0) }
        if store.names().contains(subject) {
            sources = [try Source(subject, id: nil, of: store)]
            return
        }
        let record: MachineRecord
        do { record = try MachineStore.ofUser { environmentVariable($0) }.find(subject) } catch {
            throw Failure("there is no network and no container \(subject)")
        }
        guard record.condition == .running else { throw Failure("\(record.name) is not running") }
        // Those that it is in now, but for the host's own.
        let interfaces = record.state.networks.compactMap { place -> (name: String, description: String)? in
            guard place["device"] == nil, let network = place["name"]?.stringValue,
                let name = place["interface"]?.stringValue
            else { return nil }
            return (name, network)
        }
        guard !interfaces.isEmpty else {
            throw Failure(
                record.state.networks.isEmpty
                    ? "\(record.name) is in no network"
                    : "\(record.name) is in the host's own network: tcpdump on its device, which martlet inspect shows")
        }
        var sources: [Source] = []
        for interface in interfaces { sources.append(try Source(interface.description, id: record.id, of: store)) }
        self.sources = sources
        merge = PCAPNGMerge(application: "martlet-fabric", interfaces: interfaces)
    }

    private var frames: UInt64 { merge?.frames ?? blocks.frames }

    mutating func run(to output: borrowing Descriptor, _ signals: borrowing SignalQueue) throws {
        var space = [UInt8](repeating: 0, count: 1 << 16)
        var isWanted = try write(merge?.head ?? [], to: output)
        while isWanted, sources.contains(where: { !$0.hasEnded }) {
            let open = sources.indices.filter { !sources[$0].hasEnded }
            let ready = poll(open.map { (sources[$0].pipe.raw, POLLIN) } + [(signals.descriptor.raw, POLLIN)])
            // The leases end, and with them the captures: what is in the pipes is still written. A second time nothing
            // is.
            while ready[open.count], signals.next() != nil {
                guard hasLease else { throw Failure(silentlyWith: 130) }
                hasLease = false
                for source in sources { source.giveUp() }
            }
            for (place, index) in open.enumerated() where ready[place] && isWanted {
                guard let bytes = try sources[index].read(into: &space) else {
                    sources[index].hasEnded = true
                    continue
                }
                guard let whole = merge != nil ? merge?.append(bytes, from: index) : blocks.append(bytes) else {
                    throw Failure("what the network's process writes is no capture")
                }
                isWanted = try write(whole, to: output)
            }
        }
        writeToStandardError("\(frames) frames captured\n")
    }

    /// - Returns: false where whoever reads has enough.
    private func write(_ bytes: [UInt8], to output: borrowing Descriptor) throws -> Bool {
        do throws(SystemError) { try output.writeAll(bytes) } catch {
            if error.code == EPIPE { return false }
            throw error
        }
        return true
    }
}
