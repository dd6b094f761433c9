// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Wire

/// The monitor of a machine, as its supervisor holds it. It ends when this process ends, by the death signal and by the
/// lifeline, a pipe whose writing end only this process has.
struct MonitorProcess: ~Copyable {
    private let child: ChildProcess
    private let lifeline: Descriptor
    private let statusPipe: Descriptor
    private var unread: [UInt8] = []
    /// The last that it said about its own end.
    private var lastWords: String?
    private(set) var isStatusClosed = false

    /// Starts the monitor in the working directory, with the configuration that lies there.
    init(program: String) throws(SystemError) {
        let console = try Descriptor.open(MachineFile.console, .append, permissions: 0o600)
        let diagnostics = try Descriptor.open(MachineFile.diagnostics, .append, permissions: 0o600)
        let lifelineEnds = try Pipe()
        let statusEnds = try Pipe()
        var specification = ProcessSpecification(
            program,
            [
                "martlet-vmm", "--config-file", MachineFile.monitorConfiguration, "--status-fd", "3", "--lifeline-fd",
                "4",
            ])
        specification.descriptors = [
            -1, console.raw, diagnostics.raw, statusEnds.writing.raw, lifelineEnds.reading.raw,
        ]
        specification.parentDeathSignal = SIGKILL
        try statusEnds.reading.setNonBlocking()
        child = try ChildProcess(specification)
        lifeline = lifelineEnds.writing
        statusPipe = statusEnds.reading
    }

    var pid: Int32 { child.pid }
    /// Readable once the process has ended.
    var ended: Int32 { child.ended.raw }
    var status: Int32 { statusPipe.raw }

    func kill() {
        try? child.send(SIGKILL)
    }

    /// Reads what the monitor says about itself, a JSON object a line; gives the events' names.
    mutating func readStatus() -> [String] {
        var events: [String] = []
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

    private mutating func take(_ line: [UInt8]) -> String? {
        guard let json = try? JSON(parsing: line), let event = json["event"]?.stringValue else { return nil }
        if event == "error" || event == "exited" || event == "ended" {
            lastWords = json["message"]?.stringValue ?? json["reason"]?.stringValue ?? lastWords
        }
        return printable(Array(event.utf8), limit: 40)
    }

    /// Takes note of the end; gives the reason as far as it is known.
    func reap() -> String {
        let end = try? child.wait()
        if let lastWords { return "the machine ended: \(printable(Array(lastWords.utf8)))" }
        if let text = Self.lastLine(of: MachineFile.diagnostics) { return text }
        switch end {
        case .exited(let status): return "the monitor ended with status \(status) before the container did"
        case .signaled(let signal): return "the monitor was ended by \(SignalName.text(signal))"
        case nil: return "the monitor ended"
        }
    }

    private static func lastLine(of path: String) -> String? {
        guard let bytes = try? Files.read(path, limit: 65_536) else { return nil }
        return bytes.split(separator: UInt8(ascii: "\n")).last.map { printable(Array($0)) }
    }
}
