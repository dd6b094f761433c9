// SPDX-License-Identifier: Apache-2.0

#if canImport(Wire)
internal import Wire
#endif

/// What a frame says. Docs/GUEST-PROTOCOL.md specifies each with its fields and who sends it when.
package enum FrameKind: UInt16, Sendable {
    /// Both sides, first of all: version and role.
    case hello = 1
    /// Host to guest: what the machine is to become (root, hostname, clock, entropy). Once.
    case configure = 2
    /// Guest to host: it has become that.
    case configured = 3
    /// Host to guest: a process is wanted. Opens the session.
    case request = 4
    /// Guest to host: the process can be started and will be at `go`.
    case accepted = 5
    /// Guest to host: it cannot, with the exit code that says so and the reason. Ends the session.
    case refused = 6
    /// Host to guest: start it.
    case go = 7
    /// Guest to host: it runs.
    case started = 8
    /// Both: bytes of one stream; the header's offset is that of the first byte within the stream.
    case data = 9
    /// Both: the stream ends at the header's offset.
    case end = 10
    /// Both: the receiver of a stream takes bytes up to the header's offset. Absolute, so saying it twice does no harm.
    case credit = 11
    /// Host to guest: send the process a signal.
    case signal = 12
    /// Guest to host: how the process ended. All output came before. Ends the session.
    case exited = 13
    /// Host to guest: who wanted the process is gone; end it.
    case hangUp = 14
    /// Host to guest: end all processes, write everything to the disks, and power off.
    case shutDown = 15
    /// Guest to host: how many processes of earlier requests are still there.
    case activity = 16
    /// Both: the other side has said what cannot be understood; the connection ends.
    case failure = 17
    /// Client to supervisor: end the machine's process with its stop signal, and by force after a time.
    case stop = 18
    /// Host to guest: who this machine is. Once before `configure`, and again for one that was restored.
    case identify = 19
    /// Guest to host: it is that now.
    case identified = 20
    /// Host to guest: keep every process of the container from running.
    case freeze = 21
    /// Guest to host: none runs, or why that cannot be had.
    case frozen = 22
    /// Host to guest: let them run again.
    case thaw = 23
    /// Guest to host: they run, or why they do not.
    case thawed = 24
    /// Guest to a new host, after `hello`: this session goes on from before. Its streams begin anew.
    case running = 25
    /// Client to supervisor: save the machine into a directory.
    case save = 26
    /// Supervisor to client: it is saved, or why not.
    case saved = 27
    /// Client to supervisor: fork the machine into others, whose supervisors wait for it.
    case fork = 28
    /// Supervisor to client: it is forked, or why not.
    case forked = 29
    /// Client to supervisor: connect the running machine to one more network.
    case connect = 30
    /// Client to supervisor: take it out of a network.
    case disconnect = 31
    /// Supervisor to client: it is, or why not.
    case networksChanged = 32
    /// Host to guest: network interfaces come and go, and what depends on them changes.
    case arrange = 33
    /// Guest to host: it is so, or why not.
    case arranged = 34
}

/// The streams of a session, in the header's field of that name.
package enum StreamKind: UInt16, Sendable {
    case input = 0
    case output = 1
    case errors = 2
}

/// The fixed head of each frame, 24 bytes:
///
///     0         4      6        8         12         16
///     | length  | kind | stream | session | reserved | offset |      all integers little-endian
package struct FrameHeader: Equatable, Sendable {
    package static let byteCount = 24
    /// The longest payload in bytes; a longer one ends the connection.
    package static let payloadLimit = 65_536
    /// The longest payload of `configure`, `identify`, `arrange` and `request`, which carry whole files or a whole
    /// environment, and of `fork` and `forked`.
    package static let requestPayloadLimit = 1_048_576

    /// The raw kind: an unknown one is skipped with its payload.
    package var kind: UInt16
    package var stream: UInt16
    package var session: UInt32
    package var offset: UInt64
    package var payloadLength: UInt32

    package init(
        _ kind: FrameKind, session: UInt32 = 0, stream: StreamKind = .input, offset: UInt64 = 0, payloadLength: Int = 0
    ) {
        self.kind = kind.rawValue
        self.stream = stream.rawValue
        self.session = session
        self.offset = offset
        self.payloadLength = UInt32(truncatingIfNeeded: payloadLength)
    }

    /// Reads the head at `position`; nil where fewer than 24 bytes are there.
    package init?(_ bytes: [UInt8], at position: Int = 0) {
        guard let length: UInt32 = bytes.integer(at: position), let kind: UInt16 = bytes.integer(at: position + 4),
            let stream: UInt16 = bytes.integer(at: position + 6), let session: UInt32 = bytes.integer(at: position + 8),
            let offset: UInt64 = bytes.integer(at: position + 16)
        else { return nil }
        self.kind = kind
        self.stream = stream
        self.session = session
        self.offset = offset
        payloadLength = length
    }

    /// Whether a peer that keeps the protocol can have sent this length with this kind.
    var isWithinLimits: Bool {
        let isLarge: Bool
        switch FrameKind(rawValue: kind) {
        case .request, .configure, .identify, .arrange, .fork, .forked: isLarge = true
        default: isLarge = false
        }
        return payloadLength <= UInt32(isLarge ? FrameHeader.requestPayloadLimit : FrameHeader.payloadLimit)
    }

    package func write(to bytes: inout [UInt8]) {
        bytes.appendInteger(payloadLength)
        bytes.appendInteger(kind)
        bytes.appendInteger(stream)
        bytes.appendInteger(session)
        bytes.appendInteger(UInt32(0))
        bytes.appendInteger(offset)
    }
}

/// A head with its payload.
package struct Frame: Equatable, Sendable {
    package var header: FrameHeader
    package var payload: [UInt8]

    package init(
        _ kind: FrameKind, session: UInt32 = 0, stream: StreamKind = .input, offset: UInt64 = 0, payload: [UInt8] = []
    ) {
        header = FrameHeader(kind, session: session, stream: stream, offset: offset, payloadLength: payload.count)
        self.payload = payload
    }

    init(header: FrameHeader, payload: [UInt8]) {
        self.header = header
        self.payload = payload
    }

    package var kind: FrameKind? { FrameKind(rawValue: header.kind) }
    package var stream: StreamKind? { StreamKind(rawValue: header.stream) }

    package func write(to bytes: inout [UInt8]) {
        header.write(to: &bytes)
        bytes.append(contentsOf: payload)
    }
}
