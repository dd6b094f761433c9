// SPDX-License-Identifier: Apache-2.0

package import MachineAPI
internal import Platform
package import Virtio

/// What a network device has moved and dropped, in frames.
package struct NetCounters: Equatable, Sendable {
    package var toGuest: UInt64 = 0
    package var fromGuest: UInt64 = 0
    /// In bytes, with their virtio headers.
    package var bytesToGuest: UInt64 = 0
    package var bytesFromGuest: UInt64 = 0
    /// Not fit for the guest, or too long for the buffers that it gives.
    package var droppedToGuest: UInt64 = 0
    /// While there was no carrier, or outside the bounds of a frame, or what the link did not take.
    package var droppedFromGuest: UInt64 = 0
    /// How often the driver told of buffers, and of frames.
    package var receiveNotifications: UInt64 = 0
    package var transmitNotifications: UInt64 = 0
    /// How often the link woke the device, and how often a call on it failed for another reason than that there is
    /// nothing to read or no room.
    package var linkEvents: UInt64 = 0
    package var readFailures: UInt64 = 0
    package var writeFailures: UInt64 = 0
    /// How often a frame for the guest waited for its buffers.
    package var waitsForBuffers: UInt64 = 0
}

/// A virtio network device (virtio 1.2 §5.1) whose frames go over a unix socket or through a TAP device.
///
/// Towards the network, frames leave guest memory in batches, without a copy. Towards the guest a batch is received
/// into memory of ours and copied, since how many of the guest's buffers a frame takes is known only when it is there.
package final class NetDevice: VirtioMMIODevice, @unchecked Sendable {
    /// Queues, and their throttles.
    enum Queue {
        static let receive = 0
        static let transmit = 1
    }

    static let queueSize: UInt16 = 256
    private static let linkUp: UInt16 = 1
    private static let interest: Readiness = [.readable, .writable, .peerClosed, .edgeTriggered]
    private static let firstRetryInMilliseconds: UInt64 = 10
    private static let lastRetryInMilliseconds: UInt64 = 1000
    /// The most frames that are moved in one direction before others have their turn.
    static let batchLimit = 512

    package let address: MACAddress
    package let mtu: UInt16
    private let path: String?

    // The loop thread's.
    var link: NetLink?
    private var registration: EventRegistration?
    private var retryInMilliseconds = firstRetryInMilliseconds
    var isReadable = false
    var isWritable = false
    private(set) var hasCarrier = false
    let received: ReceivedMessages
    let batch = MessageBatch()
    let transmitChains: [DescriptorChain]
    let receiveChain: DescriptorChain
    /// How many buffers of the guest's did not do for the next frame.
    var tooFew: UInt16 = 0
    /// Where in `transmitChains` each message of the batch is.
    var positions = InlineArray<32, Int>(repeating: 0)
    /// The loop thread's, too.
    package internal(set) var counters = NetCounters()

    /// - Parameters:
    ///   - receiveLimit: of what goes to the guest.
    ///   - transmitLimit: of what comes from it.
    package init(
        peer: NetPeer, address: MACAddress, mtu: UInt16 = 1500, receiveLimit: RateLimit? = nil,
        transmitLimit: RateLimit? = nil, memory: GuestMemory
    ) throws(DeviceError) {
        self.address = address
        self.mtu = mtu
        var features = NetFeature.offered
        switch peer {
        case .path(let path):
            self.path = path
        case .socket(let socket):
            path = nil
            link = .socket(socket)
        case .tap(let tap):
            path = nil
            link = .tap(tap)
            features = NetFeature.offeredWithTap
        }
        hasCarrier = link != nil
        received = try devicePart { () throws(SystemError) in try ReceivedMessages() }
        let capacity = Int(Self.queueSize) + memory.regions.count
        transmitChains = (0..<MessageBatch.limit).map { _ in DescriptorChain(capacity: capacity) }
        receiveChain = DescriptorChain(capacity: capacity)
        do throws(SystemError) {
            try super.init(
                type: VirtioDeviceType.network, features: features, queueCount: 2,
                maximumQueueSize: Self.queueSize,
                configuration: Self.configuration(address, mtu, hasCarrier: link != nil),
                limits: [receiveLimit, transmitLimit], memory: memory)
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

    override func detached() {
        if let registration { attachedLoop?.deregister(registration) }
        attachedLoop?.setTimer(self, token: 0, afterMilliseconds: nil)
        registration = nil
        // The network sees its end.
        link = nil
        received.removeAll()
    }

    private func watch(_ link: NetLink, _ loop: DeviceLoop) throws(SystemError) {
        registration = try loop.register(link.raw, Self.interest, self, token: Self.firstOwnToken)
        self.link = link
        isReadable = true
        isWritable = true
        tellAboutGuest()
    }

    private func connect() {
        guard let path, let loop = attachedLoop else { return }
        do throws(SystemError) {
            let socket = SharedDescriptor(try UnixSocket.connect(to: path, kind: .records, nonBlocking: true))
            try watch(.socket(socket), loop)
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
        link?.tell(isRunning: isRunning, features: features, mtu: mtu, address: address)
    }

    /// Nothing goes before the link says that there is room.
    func waitForRoom() {
        isWritable = false
        // A TAP device notes that somebody waits when it is asked, not when a write fails.
        if let registration { try? attachedLoop?.modify(registration, Self.interest) }
    }

    // MARK: - Life

    override func activate() {
        tellAboutGuest()
    }

    override func deactivate() {
        received.removeAll()
        tellAboutGuest()
    }

    override func queueNotified(_ index: Int) {
        if index == Queue.receive {
            counters.receiveNotifications &+= 1
            receive()
        } else {
            counters.transmitNotifications &+= 1
            transmit()
        }
    }

    override func throttleReleased(_ index: Int) {
        if index == Queue.receive { receive() } else { transmit() }
    }

    override func descriptorReady(_ token: UInt32, _ readiness: Readiness) {
        counters.linkEvents &+= 1
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
}
