// SPDX-License-Identifier: Apache-2.0

import Glibc
import GuestProtocol
import Platform
import Sessions

/// What the keeper takes for QEMU with a guest in it: speaks the protocol on descriptor 3. How it behaves is read from
/// the name of the "kernel". Its "processes" are these:
///
///     cat              its input as its output        exit N        exits with N
///     out BYTES        so many bytes of output        both          `out` and `err` on the two streams
///     wait             ends by the first signal       crash         takes the machine with it
///     linger           exits, and leaves a process    hostile N     the connection gets a broken frame of kind N
struct FakeGuest: ~Copyable {
    private var client: SessionClient
    private var processes: [UInt32: Process] = [:]
    private var lingering: UInt64 = 0
    private var told: UInt64 = 0

    private struct Process {
        var words: [String]
        var input = ReceiveWindow()
        var output = SendWindow()
        /// Output that waits for credit, and whether the process ends after it.
        var rest: [UInt8] = []
        var isEnding = false
        var code: UInt8 = 0
    }

    static func run(arguments: [String]) -> Int32 {
        ignoreBrokenPipes()
        let kernel = arguments.firstIndex(of: "-kernel").map { arguments[$0 + 1] } ?? ""
        if kernel.hasSuffix("panics") {
            print("Linux version 6\nKernel panic - not syncing: no working init found")
            return 0
        }
        do {
            var guest = FakeGuest(client: try SessionClient(socket: Descriptor(owning: 3)))
            try guest.serve()
        } catch SessionError.connectionLost {
            return 1
        } catch {
            print("fake guest: \(error)")
            return 1
        }
        return 0
    }

    private init(client: consuming SessionClient) {
        self.client = client
    }

    private mutating func serve() throws {
        try client.send(Frame(.hello, payload: Hello().payload))
        while let frame = try client.receive() {
            let id = frame.header.session
            switch frame.kind {
            case .configure: try client.send(Frame(.configured))
            case .request:
                guard let request = ProcessRequest(frame.payload) else { return }
                processes[id] = Process(words: request.arguments.map { String(decoding: $0, as: UTF8.self) })
                if request.arguments.first == Array("nosuch".utf8) {
                    processes[id] = nil
                    let refusal = Refusal(exitCode: 127, message: Array("nosuch: not found".utf8))
                    try client.send(Frame(.refused, session: id, payload: refusal.payload))
                } else {
                    try client.send(Frame(.accepted, session: id))
                }
            case .go:
                try client.send(Frame(.started, session: id))
                try start(id)
            case .data:
                guard processes[id]?.input.receive(frame.payload.count, at: frame.header.offset) == true else { break }
                processes[id]?.rest += frame.payload
                try pump(id)
            case .end:
                processes[id]?.isEnding = true
                try pump(id)
            case .credit:
                if frame.stream == .output { processes[id]?.output.extend(to: frame.header.offset) }
                try pump(id)
            case .signal:
                let number = NumberMessage(payload: frame.payload)?.number ?? 0
                try exit(id, UInt8(truncatingIfNeeded: number), signaled: true)
            case .hangUp: try exit(id, 1, signaled: true)
            case .shutDown: return
            default: break
            }
            let activity = UInt64(processes.count) + lingering
            if activity != told { try client.send(Frame(.activity, payload: NumberMessage(activity).payload)) }
            told = activity
        }
    }

    private mutating func start(_ id: UInt32) throws {
        guard let words = processes[id]?.words else { return }
        let number = words.count > 1 ? Int(words[1]) ?? 0 : 0
        switch words[0] {
        case "cat", "wait": break
        case "exit": try exit(id, UInt8(truncatingIfNeeded: number))
        case "out":
            processes[id]?.rest = [UInt8](repeating: 120, count: number)
            processes[id]?.isEnding = true
            try pump(id)
        case "both":
            try client.send(Frame(.data, session: id, stream: .errors, offset: 0, payload: Array("err".utf8)))
            processes[id]?.rest = Array("out".utf8)
            processes[id]?.isEnding = true
            try pump(id)
        case "crash":
            print("BUG: unable to handle page fault")
            fflush(nil)
            Glibc.exit(0)
        case "linger":
            lingering = 1
            try exit(id, 0)
        case "hostile":
            var frame = Frame(.data, session: id, stream: .output, offset: 12_345, payload: [1])
            frame.header.kind = UInt16(truncatingIfNeeded: number)
            try client.send(frame)
        default: try exit(id, 0)
        }
    }

    private mutating func pump(_ id: UInt32) throws {
        while var process = processes[id], !process.rest.isEmpty, process.output.available > 0 {
            let count = min(process.rest.count, process.output.available, 50_000)
            let offset = process.output.send(count)
            let piece = Array(process.rest[..<count])
            process.rest.removeFirst(count)
            let credit = process.input.consume(count)
            processes[id] = process
            try client.send(Frame(.data, session: id, stream: .output, offset: offset, payload: piece))
            if let credit { try client.send(Frame(.credit, session: id, stream: .input, offset: credit)) }
        }
        if let process = processes[id], process.rest.isEmpty, process.isEnding { try exit(id, process.code) }
    }

    private mutating func exit(_ id: UInt32, _ code: UInt8, signaled: Bool = false) throws {
        guard processes.removeValue(forKey: id) != nil else { return }
        var report = ExitReport()
        report.code = code
        report.wasSignaled = signaled
        try client.send(Frame(.exited, session: id, payload: report.payload))
    }
}
