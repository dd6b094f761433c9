// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
package import Virtio

/// A virtio socket device (virtio 1.2 §5.10) whose host side is unix sockets.
///
/// A program of the host's that wants port P of the guest connects to the device's socket, writes `CONNECT P\n` and
/// reads `OK H\n`, H being the host's port; after that the stream is the guest's. A stream that the guest opens to
/// port P of the host goes to whoever listens at the device's path with `_P` added; nobody there is a refusal.
///
/// Bounds: so many streams, so much memory for what a slow reader leaves, one packet a stream in turn. A guest that
/// gives no buffers is not read for: the sockets' own buffers fill, and their writers wait.
package final class VsockDevice: VirtioMMIODevice, @unchecked Sendable {
    enum Queue {
        static let receive = 0
        static let transmit = 1
        static let event = 2
    }

    private enum Token {
        static let listener = VirtioMMIODevice.firstOwnToken
        static let firstStream = VirtioMMIODevice.firstOwnToken + 1
    }

    enum Timer {
        static let deadlines: UInt32 = 0
        static let listenAgain: UInt32 = 1
    }

    /// The most streams there are at once.
    package static let streamLimit = 1024
    /// The most bytes kept for sockets that do not take them, all streams together.
    package static let heldLimit = 64 << 20
    /// How long a program of the host's may take to say its port, and the guest to answer.
    static let openingTimeInMilliseconds: UInt64 = 10_000
    /// `CONNECT 4294967295\n` has 19.
    static let greetingLimit = 32
    static let queueSize: UInt16 = 256
    /// No more packets are taken while so many resets wait for the guest's buffers.
    static let resetLimit = 512

    package let guestCID: UInt64
    private let path: String
    let listener: Descriptor

    // The loop thread's.
    var counters = VsockCounters()
    var streams: [VsockKey: VsockStream] = [:]
    private var slots: [VsockStream?] = []
    private var freeSlots: [Int] = []
    var ringCount = 0
    private var nextHostPort: UInt32 = 1 << 30
    private var listenerRegistration: EventRegistration?
    private var hasDeadlines = false
    var ready = VsockReadyList()
    /// Streams that the guest is to drop.
    var resets: [VsockKey] = []
    var firstReset = 0
    let receiveChain: DescriptorChain
    let transmitChain: DescriptorChain
    /// Packets wait in the transmit queue until resets have left.
    var transmitIsHeldUp = false
    private enum TransportReset: Equatable {
        /// The driver has given no buffer for events yet.
        case owed
        /// The driver has so many buffers left with us.
        case told(buffers: UInt16)
    }
    private var transportReset: TransportReset?

    /// - Parameters:
    ///   - guestCID: the guest's address, 3 or above.
    ///   - path: of the unix socket, made by this; relative ones count from the working directory.
    package convenience init(guestCID: UInt64, path: String, memory: GuestMemory) throws(DeviceError) {
        let listener = try devicePart { () throws(SystemError) in try UnixSocket.listen(at: path) }
        try self.init(guestCID: guestCID, path: path, listener: listener, memory: memory)
    }

    /// - Parameters:
    ///   - path: the stem of the sockets that the guest's connections go to.
    ///   - listener: a unix stream socket that listens.
    init(
        guestCID: UInt64, path: String, listener: consuming Descriptor, memory: GuestMemory
    ) throws(DeviceError) {
        self.guestCID = guestCID
        self.path = path
        try devicePart { () throws(SystemError) in try listener.setNonBlocking() }
        self.listener = listener
        receiveChain = DescriptorChain(capacity: Int(Self.queueSize) + memory.regions.count)
        transmitChain = DescriptorChain(capacity: Int(Self.queueSize) + memory.regions.count)
        var configuration: [UInt8] = []
        for index in 0..<8 { configuration.append(UInt8(truncatingIfNeeded: guestCID >> UInt64(8 * index))) }
        do throws(SystemError) {
            try super.init(
                type: VirtioDeviceType.socket, features: 0, queueCount: 3, maximumQueueSize: Self.queueSize,
                configuration: configuration, memory: memory)
        } catch { throw .system(error) }
        slots.reserveCapacity(Self.streamLimit)
        streams.reserveCapacity(Self.streamLimit)
        resets.reserveCapacity(Self.streamLimit)
    }

    // MARK: - Life

    override func activate() {
        if isResuming {
            transportReset = .owed
            oweTransportReset()
        } else {
            listen()
        }
    }

    /// A device that goes on from a kept state has lost its streams. The guest is told so, and new ones, in either
    /// direction, come only when it has dropped the old: it says that by giving the event's buffer back.
    private func oweTransportReset() {
        do {
            if transportReset == .owed {
                // Counted before: a guest that runs may give the buffer back before this thread gets any further.
                let buffers = try queues[Queue.event].waiting()
                guard resetTransport() else {
                    _ = try queues[Queue.event].requestNotifications()
                    return
                }
                transportReset = .told(buffers: max(buffers, 1) - 1)
            }
            guard case .told(let buffers) = transportReset else { return }
            guard try queues[Queue.event].requestNotifications(beyond: buffers) else { return }
            transportReset = nil
            listen()
            takePackets()
        } catch {
            fail("\(error)")
        }
    }

    /// Programs that connect before the guest's driver is ready wait in the backlog.
    private func listen() {
        guard listenerRegistration == nil, isRunning else { return }
        listenerRegistration = try? attachedLoop?.register(
            listener.raw, .readable, self, token: Token.listener)
    }

    override func deactivate() {
        stopListening()
        dropAllStreams()
        attachedLoop?.setTimer(self, token: Timer.deadlines, afterMilliseconds: nil)
        attachedLoop?.setTimer(self, token: Timer.listenAgain, afterMilliseconds: nil)
        hasDeadlines = false
        transmitIsHeldUp = false
        transportReset = nil
    }

    func stopListening() {
        if let registration = listenerRegistration { attachedLoop?.deregister(registration) }
        listenerRegistration = nil
    }

    private func dropAllStreams() {
        for stream in slots { if let stream { forget(stream) } }
        resets.removeAll(keepingCapacity: true)
        firstReset = 0
        ready.removeAll()
    }

    /// Tells the guest that all its streams are gone, and drops them: its address, or the host behind it, is another
    /// (§5.10.6.7). On the loop's thread.
    /// - Returns: false when the driver has given no buffer for events.
    package func resetTransport() -> Bool {
        guard isRunning else { return false }
        dropAllStreams()
        do {
            guard try queues[Queue.event].pop(into: receiveChain) else { return false }
            let event: [UInt8] = [0, 0, 0, 0]
            let count = unsafe event.withUnsafeBytes { unsafe receiveChain.writable.copy(from: $0) }
            queues[Queue.event].push(head: receiveChain.head, written: count)
            interruptIfNeeded(Queue.event)
            return true
        } catch {
            fail("\(error)")
            return false
        }
    }

    override func queueNotified(_ index: Int) {
        switch index {
        case Queue.receive: deliver()
        case Queue.transmit: if transportReset == nil { takePackets() }
        default: if transportReset != nil { oweTransportReset() }
        }
    }

    // MARK: - Streams

    /// Gives a socket a slot in the loop; nil when there are too many, and the socket is closed.
    func admit(_ socket: consuming Descriptor, _ phase: VsockStream.Phase) -> VsockStream? {
        let slot: Int
        if let free = freeSlots.popLast() {
            slot = free
        } else {
            guard slots.count < Self.streamLimit else { return nil }
            slot = slots.count
            slots.append(nil)
        }
        let stream = VsockStream(socket, slot: slot, phase: phase)
        stream.registration = try? attachedLoop?.register(
            stream.socket.raw, [.readable, .writable, .peerClosed, .edgeTriggered], self,
            token: Token.firstStream + UInt32(slot))
        guard stream.registration != nil else {
            freeSlots.append(slot)
            return nil
        }
        slots[slot] = stream
        return stream
    }

    /// Ends a stream here: socket, slot and table. The guest is told by `reset`, if at all.
    func forget(_ stream: VsockStream) {
        guard stream.phase != .closed else { return }
        if stream.phase == .open { streams[stream.key] = nil }
        if stream.hasRing {
            _ = stream.dropHeld()
            ringCount -= 1
        }
        stream.phase = .closed
        if let registration = stream.registration { attachedLoop?.deregister(registration) }
        stream.registration = nil
        slots[stream.slot] = nil
        freeSlots.append(stream.slot)
    }

    /// Ends a stream on both sides.
    func reset(_ stream: VsockStream) {
        resets.append(stream.key)
        forget(stream)
    }

    /// A host port that the guest's port has no stream with.
    func takeHostPort(guestPort: UInt32) -> UInt32 {
        while true {
            let port = nextHostPort
            nextHostPort = nextHostPort == .max ? 1 << 30 : nextHostPort + 1
            // Fewer streams than ports: there is one.
            if streams[VsockKey(hostPort: port, guestPort: guestPort)] == nil { return port }
        }
    }

    /// The guest wants a stream to the host; nil is a refusal.
    func connectToHost(_ key: VsockKey) -> VsockStream? {
        guard let socket = try? UnixSocket.connect(to: "\(path)_\(key.hostPort)", nonBlocking: true),
            let stream = admit(socket, .open)
        else { return nil }
        stream.key = key
        streams[key] = stream
        return stream
    }

    // MARK: - Sockets that are ready

    override func descriptorReady(_ token: UInt32, _ readiness: Readiness) {
        if token == Token.listener { return acceptPrograms() }
        guard let stream = slots[Int(token - Token.firstStream)] else { return }
        if readiness.contains(.writable) { stream.isWritable = true }
        if !readiness.isDisjoint(with: [.readable, .peerClosed, .hungUp, .failed]) { stream.isReadable = true }
        if stream.phase == .greeting {
            readGreeting(stream)
        } else {
            if stream.isWritable { flush(stream) }
            // Both directions have ended; the one from here to there by its program, unless we did that ourselves.
            if stream.phase == .open, readiness.contains(.hungUp), !stream.hasShutSending {
                stream.connection.hostEnded(sending: false, receiving: true)
            }
            noteWork(stream)
        }
        deliver()
    }

    // MARK: - Time

    func setDeadline(_ stream: VsockStream) {
        stream.deadline = monotonicNanoseconds() + Self.openingTimeInMilliseconds * 1_000_000
        guard !hasDeadlines else { return }
        hasDeadlines = true
        attachedLoop?.setTimer(self, token: Timer.deadlines, afterMilliseconds: Self.openingTimeInMilliseconds)
    }

    override func handleTimer(_ token: UInt32) {
        guard isRunning else { return }
        if token == Timer.listenAgain { return listen() }
        hasDeadlines = false
        let now = monotonicNanoseconds()
        var nearest: UInt64?
        for stream in slots {
            guard let stream, let deadline = stream.deadline else { continue }
            if deadline > now {
                nearest = min(nearest ?? .max, deadline)
            } else if stream.phase == .open {
                reset(stream)
            } else {
                forget(stream)
            }
        }
        if let nearest {
            hasDeadlines = true
            attachedLoop?.setTimer(
                self, token: Timer.deadlines, afterMilliseconds: (nearest - now) / 1_000_000 + 1)
        }
        deliver()
    }
}
