// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
package import Virtio

/// Where a network device's frames go; Docs/NET-SOCKET.md says how.
package enum NetPeer: Sendable {
    /// To whoever listens at this path.
    case path(String)
    /// To the other end of this socket, which is one of records, non-blocking or not.
    case socket(SharedDescriptor)
}

/// What a network device has moved and dropped, in frames.
package struct NetCounters: Equatable, Sendable {
    package var toGuest: UInt64 = 0
    package var fromGuest: UInt64 = 0
    /// In bytes, with their virtio headers.
    package var bytesToGuest: UInt64 = 0
    package var bytesFromGuest: UInt64 = 0
    /// Not fit for the guest, or too long for the buffers that it gives.
    package var droppedToGuest: UInt64 = 0
    /// While there was no carrier, or outside the bounds of a frame.
    package var droppedFromGuest: UInt64 = 0
}

/// A virtio network device (virtio 1.2 §5.1) whose frames go over a unix socket.
///
/// Towards the network, frames leave guest memory in batches, without a copy. Towards the guest a batch is received
/// into memory of ours and copied, since how many of the guest's buffers a frame takes is known only when it is there.
package final class NetDevice: VirtioMMIODevice, @unchecked Sendable {
    enum Queue {
        static let receive = 0
        static let transmit = 1
    }

    static let queueSize: UInt16 = 256
    private static let linkUp: UInt16 = 1
    private static let firstRetryInMilliseconds: UInt64 = 10
    private static let lastRetryInMilliseconds: UInt64 = 1000
    /// The most frames that are moved in one direction before others have their turn.
    static let batchLimit = 512

    package let address: MACAddress
    package let mtu: UInt16
    private let path: String?

    // The loop thread's.
    var link: SharedDescriptor?
    private var registration: EventRegistration?
    private var retryInMilliseconds = firstRetryInMilliseconds
    var isReadable = false
    private var isWritable = false
    private var hasCarrier = false
    let received: ReceivedMessages
    private let batch = MessageBatch()
    private let transmitChains: [DescriptorChain]
    let receiveChain: DescriptorChain
    /// How many buffers of the guest's did not do for the next frame.
    var tooFew: UInt16 = 0
    private var positions = InlineArray<32, Int>(repeating: 0)
    /// The loop thread's, too.
    package internal(set) var counters = NetCounters()

    package init(
        peer: NetPeer, address: MACAddress, mtu: UInt16 = 1500, memory: GuestMemory
    ) throws(DeviceError) {
        self.address = address
        self.mtu = mtu
        switch peer {
        case .path(let path):
            self.path = path
        case .socket(let socket):
            path = nil
            link = socket
            hasCarrier = true
        }
        received = try devicePart { () throws(SystemError) in try ReceivedMessages() }
        let capacity = Int(Self.queueSize) + memory.regions.count
        transmitChains = (0..<MessageBatch.limit).map { _ in DescriptorChain(capacity: capacity) }
        receiveChain = DescriptorChain(capacity: capacity)
        do throws(SystemError) {
            try super.init(
                type: VirtioDeviceType.network, features: NetFeature.offered, queueCount: 2,
                maximumQueueSize: Self.queueSize,
                configuration: Self.configuration(address, mtu, hasCarrier: link != nil), memory: memory)
        } catch { throw .system(error) }
    }

    /// The configuration space (§5.1.4): MAC, status, number of queue pairs, MTU.
    private static func configuration(_ address: MACAddress, _ mtu: UInt16, hasCarrier: Bool) -> [UInt8] {
        var bytes: [UInt8] = []
        for index in 0..<6 { bytes.append(address.bytes[index]) }
        for value in [hasCarrier ? linkUp : 0, 1, mtu] {
            bytes += [UInt8(truncatingIfNeeded: value), UInt8(truncatingIfNeeded: value >> 8)]
        }
        return bytes
    }

    // MARK: - The link

    override func attached(to loop: DeviceLoop) throws(SystemError) {
        if let link { try watch(link, loop) } else { connect() }
    }

    private func watch(_ socket: SharedDescriptor, _ loop: DeviceLoop) throws(SystemError) {
        registration = try loop.register(
            socket.raw, [.readable, .writable, .peerClosed, .edgeTriggered], self, token: Self.firstOwnToken)
        link = socket
        isReadable = true
        isWritable = true
        tellAboutGuest()
    }

    private func connect() {
        guard let path, let loop = attachedLoop else { return }
        do throws(SystemError) {
            let socket = SharedDescriptor(try UnixSocket.connect(to: path, kind: .records, nonBlocking: true))
            try watch(socket, loop)
            retryInMilliseconds = Self.firstRetryInMilliseconds
            setCarrier(true)
        } catch {
            loop.setTimer(self, token: 0, afterMilliseconds: retryInMilliseconds)
            retryInMilliseconds = min(2 * retryInMilliseconds, Self.lastRetryInMilliseconds)
        }
    }

    override func handleTimer(_ token: UInt32) {
        connect()
        if isRunning { transmit() }
    }

    /// The network is gone.
    func disconnect() {
        if let registration { attachedLoop?.deregister(registration) }
        registration = nil
        link = nil
        isReadable = false
        isWritable = false
        received.removeAll()
        setCarrier(false)
        if path != nil { attachedLoop?.setTimer(self, token: 0, afterMilliseconds: retryInMilliseconds) }
    }

    func setCarrier(_ on: Bool) {
        guard hasCarrier != on else { return }
        hasCarrier = on
        setConfiguration(Self.configuration(address, mtu, hasCarrier: on))
    }

    private func tellAboutGuest() {
        guard let link else { return }
        let message = NetRecord.guestMessage(isRunning: isRunning, features: features, mtu: mtu, address: address)
        let fd = link.raw
        let flags = Int32(MSG_DONTWAIT | MSG_NOSIGNAL)
        // A network that does not read is told again at the next change, and misses offloads until then.
        _ = unsafe message.withUnsafeBytes { bytes in
            retryingInterrupts { unsafe send(fd, bytes.baseAddress, bytes.count, flags) }
        }
    }

    // MARK: - Life

    override func activate() {
        tellAboutGuest()
    }

    override func deactivate() {
        received.removeAll()
        tellAboutGuest()
    }

    override func openDescriptors() -> [Int32] {
        super.openDescriptors() + (link.map { [$0.raw] } ?? [])
    }

    override func queueNotified(_ index: Int) {
        if index == Queue.receive { receive() } else { transmit() }
    }

    override func descriptorReady(_ token: UInt32, _ readiness: Readiness) {
        if readiness.contains(.writable) { isWritable = true }
        if !readiness.isDisjoint(with: [.readable, .peerClosed, .hungUp, .failed]) { isReadable = true }
        guard isRunning else {
            // Nobody to read for; but an end is an end.
            if readiness.contains(.hungUp) { disconnect() }
            return
        }
        receive()
        if isRunning, isWritable { transmit() }
    }

    // MARK: - From the guest

    private func transmit() {
        do {
            var budget = Self.batchLimit
            repeat {
                queues[Queue.transmit].suppressNotifications()
                while budget > 0, isWritable || link == nil {
                    let count = try sendBatch()
                    if count == 0 { break }
                    budget -= count
                }
                interruptIfNeeded(Queue.transmit)
                if budget <= 0 { return notifiers[Queue.transmit].event.signal() }
                // A full socket wakes us by itself.
                if !isWritable, link != nil { return }
            } while try queues[Queue.transmit].requestNotifications()
        } catch {
            fail("\(error)")
        }
    }

    /// Sends up to 32 frames; gives the number of chains that were used up.
    private func sendBatch() throws(VirtioError) -> Int {
        var taken = 0
        batch.removeAll()
        while taken < MessageBatch.limit, try queues[Queue.transmit].pop(into: transmitChains[taken]) {
            let length = transmitChains[taken].readable.byteCount
            if hasCarrier, length >= NetRecord.minimumFrameRecord, length <= NetRecord.limit {
                positions[batch.count] = taken
                batch.append(transmitChains[taken].readable)
            }
            taken += 1
        }
        guard taken > 0 else { return 0 }
        var used = taken
        if batch.count > 0, let link {
            let sent = batch.send(link.raw)
            counters.fromGuest += UInt64(max(0, sent))
            for index in 0..<max(0, min(sent, batch.count)) {
                counters.bytesFromGuest &+= UInt64(transmitChains[positions[index]].readable.byteCount)
            }
            if sent < batch.count {
                used = try stopped(sent, code: sent < 0 ? clinux_errno() : EAGAIN, taken: taken)
            }
            counters.droppedFromGuest += UInt64(used - max(0, min(sent, used)))
        } else {
            counters.droppedFromGuest += UInt64(taken)
        }
        for index in 0..<used {
            queues[Queue.transmit].stage(head: transmitChains[index].head, written: 0, at: UInt16(index))
        }
        queues[Queue.transmit].publish(UInt16(used))
        queues[Queue.transmit].unpop(UInt16(taken - used))
        return used
    }

    /// Not all of a batch went; gives the number of chains that are done with.
    private func stopped(_ sent: Int, code: Int32, taken: Int) throws(VirtioError) -> Int {
        let done = max(0, sent)
        switch code {
        case EAGAIN, ENOBUFS:
            // All before the first that did not go. A short count does not say why: the next call does.
            if sent <= 0 { isWritable = false }
            return positions[done]
        case EMSGSIZE:
            // Longer than the socket can ever hold: dropped, the rest follows.
            return positions[done] + 1
        default:
            disconnect()
            return taken
        }
    }
}
