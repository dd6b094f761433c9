// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Wire

/// The monitor of a machine, as its supervisor holds it. It ends when this process ends: by the death signal and by the
/// lifeline, a pipe whose writing end only this process has; or, one that was forked from another machine's and is no
/// child of this process, by the end of the connection that it made, which it says its events on as well.
package struct MonitorProcess: ~Copyable {
    private enum Process: ~Copyable {
        case child(Started)
        case peer(PeerProcess)
    }

    private struct Started: ~Copyable {
        let process: ChildProcess
        let lifeline: Descriptor
    }

    /// An order to fork names each child with its files.
    private static let bodyLimit = 1 << 20

    private let process: Process
    private let statusPipe: Descriptor
    private var unread: [UInt8] = []
    /// What it said about its machine's end: a word, and more where there is more to say.
    private var end: (reason: String, detail: String?)?
    private(set) var isStatusClosed = false

    /// The number under which the monitor finds the descriptor of its network device.
    package static let networkDescriptor: Int32 = 5

    /// Starts the monitor in the working directory.
    /// - Parameters:
    ///   - configuration: the file that says what the machine is made of.
    ///   - network: the descriptor of its network device, where it is handed one.
    init(program: String, configuration: String, network: Int32?) throws(SystemError) {
        let console = try Descriptor.open(MachineFile.console, .append, permissions: 0o600)
        let diagnostics = try Descriptor.open(MachineFile.diagnostics, .append, permissions: 0o600)
        let lifelineEnds = try Pipe()
        let statusEnds = try Pipe()
        var specification = ProcessSpecification(
            program,
            [
                "martlet-vmm", "--config-file", configuration, "--api-sock", MachineFile.api, "--level", "Warning",
                "--status-fd", "3", "--lifeline-fd", "4", "--http-api-max-payload-size", "\(Self.bodyLimit)",
            ])
        specification.descriptors = [
            -1, console.raw, diagnostics.raw, statusEnds.writing.raw, lifelineEnds.reading.raw,
        ]
        if let network { specification.descriptors.append(network) }
        specification.parentDeathSignal = SIGKILL
        try statusEnds.reading.setNonBlocking()
        process = .child(Started(process: try ChildProcess(specification), lifeline: lifelineEnds.writing))
        statusPipe = statusEnds.reading
    }

    /// Takes over a monitor that was forked from another machine's.
    /// - Parameter connection: the one that it made.
    init(adopting connection: consuming Descriptor) throws(SystemError) {
        try connection.setNonBlocking()
        process = .peer(try PeerProcess(of: connection))
        statusPipe = connection
    }

    var pid: Int32 {
        switch process {
        case .child(let child): child.process.pid
        case .peer(let peer): peer.pid
        }
    }

    /// Readable once the process has ended.
    var ended: Int32 {
        switch process {
        case .child(let child): child.process.ended.raw
        case .peer(let peer): peer.ended.raw
        }
    }

    var status: Int32 { statusPipe.raw }

    func kill() {
        switch process {
        case .child(let child): try? child.process.send(SIGKILL)
        case .peer(let peer): try? peer.send(SIGKILL)
        }
    }

    /// An event of the monitor's life.
    struct Event {
        var name: String
        /// In nanoseconds on the monotonic clock.
        var time: UInt64
        /// Processor time that the monitor had used by then, in microseconds.
        var processorTime: UInt64?
    }

    /// Reads what the monitor says about itself, a JSON object a line.
    mutating func readStatus() -> [Event] {
        var events: [Event] = []
        var space = [UInt8](repeating: 0, count: 4096)
        while !isStatusClosed {
            let transfer = unsafe space.withUnsafeMutableBytes { unsafe try? statusPipe.read(into: $0) }
            guard case .bytes(let count) = transfer else {
                if transfer != .wouldBlock { isStatusClosed = true }
                break
            }
            unread.append(contentsOf: space[..<count])
            while let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
                if let event = take(Array(unread[..<end])) { events.append(event) }
                unread.removeFirst(end + 1)
            }
            // A monitor of ours says little; one that does not end its line is not listened to.
            if unread.count > 65_536 { isStatusClosed = true }
        }
        return events
    }

    private mutating func take(_ line: [UInt8]) -> Event? {
        guard let json = try? JSON(parsing: line), let name = json["event"]?.stringValue else { return nil }
        if name == "exited" { end = (json["reason"]?.stringValue ?? "", json["detail"]?.stringValue) }
        return Event(
            name: printable(Array(name.utf8), limit: 40),
            time: json["monotonic_ns"]?.unsignedValue ?? monotonicNanoseconds(),
            processorTime: json["cpu_us"]?.unsignedValue)
    }

    /// Takes note of the end; gives the reason as far as it is known.
    func reap() -> String {
        let status: ProcessEnd? =
            switch process {
            case .child(let child): try? child.process.wait()
            // Nobody but its parent is told.
            case .peer: nil
            }
        if let end, end.reason != "internal-error" {
            let what = Self.descriptions.first { $0.word == end.reason }?.text ?? "the machine ended (\(end.reason))"
            return end.detail.map { "\(what): \($0)" } ?? what
        }
        if let text = Self.lastDiagnostic { return text }
        switch status {
        case .exited(let code): return "the monitor ended with status \(code) before the container did"
        case .signaled(let signal): return "the monitor was ended by \(SignalName.text(signal))"
        case nil: return "the monitor ended"
        }
    }

    private static let descriptions: [(word: String, text: String)] = [
        ("power-off", "the guest powered itself off before its process had ended"),
        ("reboot", "the guest rebooted before its process had ended"),
        ("triple-fault", "the guest's processor reached a state that it cannot leave (triple fault)"),
        ("panic", "the guest's kernel panicked"), ("killed", "the monitor was told to end"),
    ]

    private static var lastDiagnostic: String? {
        let bytes = try? Files.readEnd(MachineFile.diagnostics, limit: 65_536)
        let lines = bytes?.split { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }
        return lines?.last.map { printable(Array($0)) }
    }
}
