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
///
/// One thread, the loop's, serves all pairs of queues. What several are good for is the guest: its processors do not
/// wait for one another at one queue. Over a TAP device with several queues the kernel says which pair a frame is for;
/// over one descriptor for all, `FlowSteering` does.
package final class NetDevice: VirtioMMIODevice, @unchecked Sendable {
    /// The queues of the first pair, and the throttles of all. Those of pair `n` are at `2 * n` more.
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
    /// How many pairs of queues there are at most.
    package let pairLimit: Int
    private let path: String?

    // The loop thread's.
    /// One, or as many as there are pairs.
    let lanes: [NetLane]
    private var retryInMilliseconds = firstRetryInMilliseconds
    private(set) var hasCarrier = false
    let batch = MessageBatch()
    let transmitChains: [DescriptorChain]
    let receiveChain: DescriptorChain
    /// How many buffers of the guest's did not do for the next frame.
    var tooFew: UInt16 = 0
    /// Where in `transmitChains` each message of the batch is.
    var positions = InlineArray<32, Int>(repeating: 0)
    /// How many pairs the driver uses: one until it says more.
    var activePairs = 1
    /// What a kept state says of that.
    private var savedPairs = 1
    var steering = FlowSteering()
    /// The loop thread's, too.
    package internal(set) var counters = NetCounters()

    /// - Parameters:
    ///   - pairs: of queues, 1 to `NetworkInterface.queuePairLimit`; one pair comes without a control queue.
    ///   - receiveLimit: of what goes to the guest.
    ///   - transmitLimit: of what comes from it.
    package init(
        peer: NetPeer, address: MACAddress, mtu: UInt16 = 1500, pairs: Int = 1, receiveLimit: RateLimit? = nil,
        transmitLimit: RateLimit? = nil, memory: GuestMemory
    ) throws(DeviceError) {
        precondition((1...NetworkInterface.queuePairLimit).contains(pairs), "as many queues as there are tokens for")
        self.address = address
        self.mtu = mtu
        pairLimit = pairs
        let links: [NetLink?]
        var features = NetFeature.offered
        path = if case .path(let path) = peer { path } else { nil }
        switch peer {
        case .path: links = [nil]
        case .socket(let socket): links = [.socket(socket)]
        case .tap(let queues):
            precondition(queues.count == 1 || queues.count == pairs, "a queue for all pairs, or one for each")
            links = queues.map { .tap($0) }
            features = NetFeature.offeredWithTap
        }
        if pairs > 1 { features |= NetFeature.controlQueue | NetFeature.severalPairs }
        hasCarrier = links[0] != nil
        var lanes: [NetLane] = []
        for (index, link) in links.enumerated() {
            lanes.append(try devicePart { () throws(SystemError) in try NetLane(index, link) })
        }
        self.lanes = lanes
        let capacity = Int(Self.queueSize) + memory.regions.count
        transmitChains = (0..<MessageBatch.limit).map { _ in DescriptorChain(capacity: capacity) }
        receiveChain = DescriptorChain(capacity: capacity)
        do throws(SystemError) {
            try super.init(
                type: VirtioDeviceType.network, features: features, queueCount: Self.queueCount(pairs: pairs),
                maximumQueueSize: Self.queueSize,
                configuration: Self.configuration(address, mtu, pairs, hasCarrier: hasCarrier),
                limits: [receiveLimit, transmitLimit], memory: memory)
        } catch { throw .system(error) }
    }

    /// The configuration space (§5.1.4): MAC, status, number of queue pairs, MTU.
    private static func configuration(
        _ address: MACAddress, _ mtu: UInt16, _ pairs: Int, hasCarrier: Bool
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        for index in 0..<6 { bytes.append(address.bytes[index]) }
        for value in [hasCarrier ? linkUp : 0, UInt16(pairs), mtu] {
            bytes += [UInt8(truncatingIfNeeded: value), UInt8(truncatingIfNeeded: value >> 8)]
        }
        return bytes
    }

    // MARK: - The link

    override func attached(to loop: DeviceLoop) throws(SystemError) {
        guard lanes[0].link != nil else { return connect() }
        for lane in lanes { try watch(lane, loop) }
        tellAboutGuest()
    }

    override func detached() {
        letGo()
        attachedLoop?.setTimer(self, token: 0, afterMilliseconds: nil)
    }

    private func watch(_ lane: NetLane, _ loop: DeviceLoop) throws(SystemError) {
        guard let link = lane.link else { return }
        lane.registration = try loop.register(
            link.raw, Self.interest, self, token: Self.firstOwnToken + UInt32(lane.index))
        lane.isReadable = true
        lane.isWritable = true
    }

    private func connect() {
        guard let path, let loop = attachedLoop else { return }
        do throws(SystemError) {
            let socket = SharedDescriptor(try UnixSocket.connect(to: path, kind: .records, nonBlocking: true))
            lanes[0].link = .socket(socket)
            do throws(SystemError) { try watch(lanes[0], loop) } catch {
                lanes[0].link = nil
                throw error
            }
            tellAboutGuest()
            retryInMilliseconds = Self.firstRetryInMilliseconds
            setCarrier(true)
        } catch {
            loop.setTimer(self, token: 0, afterMilliseconds: retryInMilliseconds)
            retryInMilliseconds = min(2 * retryInMilliseconds, Self.lastRetryInMilliseconds)
        }
    }

    override func handleTimer(_ token: UInt32) {
        connect()
        transmitAll(lanes[0])
    }

    /// The network sees the end of every descriptor.
    private func letGo() {
        for lane in lanes {
            if let registration = lane.registration { attachedLoop?.deregister(registration) }
            lane.registration = nil
            lane.link = nil
            lane.clear()
        }
    }

    /// The network is gone.
    func disconnect() {
        letGo()
        setCarrier(false)
        if path != nil { attachedLoop?.setTimer(self, token: 0, afterMilliseconds: retryInMilliseconds) }
    }

    func setCarrier(_ on: Bool) {
        guard hasCarrier != on else { return }
        hasCarrier = on
        setConfiguration(Self.configuration(address, mtu, pairLimit, hasCarrier: on))
    }

    private func tellAboutGuest() {
        lanes[0].link?.tell(isRunning: isRunning, features: features, mtu: mtu, address: address)
    }

    /// Nothing goes before the link says that there is room.
    func waitForRoom(_ lane: NetLane) {
        lane.isWritable = false
        // A TAP device notes that somebody waits when it is asked, not when a write fails.
        if let registration = lane.registration { try? attachedLoop?.modify(registration, Self.interest) }
    }

    // MARK: - Life

    override func activate() {
        if isResuming { _ = setPairs(savedPairs) }
        tellAboutGuest()
    }

    override func deactivate() {
        _ = setPairs(1)
        for lane in lanes { lane.received.removeAll() }
        tellAboutGuest()
    }

    override var activeQueuePairs: UInt16? { pairLimit > 1 ? UInt16(activePairs) : nil }

    override func restoreQueuePairs(_ pairs: UInt16?) -> Bool {
        savedPairs = Int(pairs ?? 1)
        return (1...pairLimit).contains(Int(pairs ?? 1))
    }

    override func queueNotified(_ index: Int) {
        if index == controlIndex { return control() }
        if index % 2 == Queue.receive {
            counters.receiveNotifications &+= 1
            receive(lane(of: index / 2))
        } else {
            counters.transmitNotifications &+= 1
            transmit(index / 2)
        }
    }

    override func throttleReleased(_ index: Int) {
        for lane in lanes where isRunning {
            if index == Queue.receive { receive(lane) } else { transmitAll(lane) }
        }
    }

    override func descriptorReady(_ token: UInt32, _ readiness: Readiness) {
        let lane = lanes[Int(token - Self.firstOwnToken)]
        // A queue of a TAP device that is not in use has failed, says the kernel.
        guard isInUse(lane) else { return }
        counters.linkEvents &+= 1
        if readiness.contains(.writable) { lane.isWritable = true }
        if !readiness.isDisjoint(with: [.readable, .peerClosed, .hungUp, .failed]) { lane.isReadable = true }
        guard isRunning else {
            // Nobody to read for; but an end is an end.
            if readiness.contains(.hungUp) { disconnect() }
            return
        }
        receive(lane)
        if lane.isWritable { transmitAll(lane) }
    }
}
