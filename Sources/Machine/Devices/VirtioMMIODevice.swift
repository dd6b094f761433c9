// SPDX-License-Identifier: Apache-2.0

package import MachineAPI
package import Platform
internal import Synchronization
package import Virtio

/// The device types that there are (virtio 1.2 §5).
package enum VirtioDeviceType {
    package static let network: UInt32 = 1
    package static let block: UInt32 = 2
    package static let entropy: UInt32 = 4
    package static let socket: UInt32 = 19
}

/// What a queue's notifications arrive on: the machine has KVM signal it (ioeventfd) when the driver writes the queue's
/// number to the notification register.
package final class QueueNotifier: Sendable {
    package let event: EventCounter

    init() throws(SystemError) { event = try EventCounter() }
}

/// All that has to be kept of a device for it to go on elsewhere, but for what the kind of device adds.
package struct VirtioDeviceState: Equatable, Sendable {
    /// The registers, and the queues with where they stand.
    package var record: MMIOTransport.Record
    package var interruptStatus: UInt32
    /// How full the buckets of its rate limiters are, for each direction that can be limited.
    package var levels: [RateLimiter.Level]
    /// How many pairs of queues a network's driver uses, where it has a choice.
    package var queuePairs: UInt16?

    package init(
        record: MMIOTransport.Record, interruptStatus: UInt32, levels: [RateLimiter.Level] = [],
        queuePairs: UInt16? = nil
    ) {
        self.record = record
        self.interruptStatus = interruptStatus
        self.levels = levels
        self.queuePairs = queuePairs
    }
}

/// A virtio device on MMIO (virtio 1.2 §4.2): the registers, the queues' life, interrupts. The kinds of devices are
/// subclasses.
///
/// Threads: vCPU threads call `read` and `write`, which touch the registers under a lock and nothing else. All other
/// work is the loop thread's. A driver that becomes ready is handed to the loop by a posted job; a driver that resets
/// an active device waits in its vCPU thread until the loop has let go of guest memory, since the driver takes the
/// memory back as soon as the write is done.
package class VirtioMMIODevice: EventHandler, @unchecked Sendable {
    package enum Interrupt {
        package static let usedBuffer: UInt32 = 1
        package static let configurationChange: UInt32 = 2
    }

    /// The window of registers, in bytes.
    package static let windowSize: UInt64 = 0x1000
    /// Where in the window the driver writes a queue's number to notify.
    package static let notifyOffset = MMIORegister.queueNotify

    package let deviceType: UInt32
    package let memory: GuestMemory
    /// Signalled for each interrupt: the machine attaches it to the device's line (irqfd, edge).
    package let interrupt: EventCounter
    /// One a queue.
    package let notifiers: [QueueNotifier]

    // For any thread.
    private let registers: Mutex<MMIOTransport>
    private let interruptStatus = Atomic<UInt32>(0)
    /// Whether the loop has been told to start the device since the last reset.
    private let startRequested = Atomic(false)

    // The loop thread's.
    final var queues: [VirtQueue] = []
    /// One for each direction that can be limited.
    final let throttles: [Throttle]
    /// What driver and device agreed on, while the device runs.
    final private(set) var features: UInt64 = 0
    /// Whether the driver is ready and the queues may be used.
    final private(set) var isRunning = false
    /// The device is about to go on from a kept state: until `activate` returns.
    final private(set) var isResuming = false
    private var resumedInterrupts: UInt32 = 0
    private var notifierRegistrations: [EventRegistration] = []
    private var throttleRegistrations: [EventRegistration] = []
    private(set) final var attachedLoop: DeviceLoop?
    /// It was taken out of the machine: it does nothing any more.
    final private(set) var isDetached = false

    /// - Parameters:
    ///   - features: those of the kind of device; VERSION_1 and those of the queues are added.
    ///   - configuration: the device's own configuration space.
    ///   - limits: of each direction that can be limited.
    init(
        type: UInt32, features: UInt64, queueCount: Int, maximumQueueSize: UInt16 = 256, configuration: [UInt8],
        limits: [RateLimit?] = [], memory: GuestMemory
    ) throws(SystemError) {
        deviceType = type
        var throttles: [Throttle] = []
        for limit in limits { throttles.append(try Throttle(limit)) }
        self.throttles = throttles
        self.memory = memory
        interrupt = try EventCounter()
        var notifiers: [QueueNotifier] = []
        for _ in 0..<queueCount { notifiers.append(try QueueNotifier()) }
        self.notifiers = notifiers
        registers = Mutex(
            MMIOTransport(
                deviceID: type, features: features | VirtQueue.eventIndex | VirtQueue.indirectDescriptors,
                queueCount: queueCount, maximumQueueSize: maximumQueueSize, configuration: configuration))
    }

    // MARK: - For the kinds of devices

    /// The driver is ready: `queues` and `features` are set. Called on the loop's thread.
    func activate() {}

    /// There may be chains in a queue. Called on the loop's thread, while the device runs.
    func queueNotified(_ index: Int) {}

    /// What `throttles[index]` held back may be asked for again. Called on the loop's thread, while the device runs.
    func throttleReleased(_ index: Int) {}

    /// One of the device's own descriptors is ready; `token` is what it was registered with, from `firstOwnToken` up.
    func descriptorReady(_ token: UInt32, _ readiness: Readiness) {}

    /// The device was put into a loop, which is not running yet or is the calling thread's.
    func attached(to loop: DeviceLoop) throws(SystemError) {}

    /// The device is taken out of its loop: nothing of its own is watched any more. Called on the loop's thread, or while
    /// that stands still, after `deactivate`.
    func detached() {}

    /// Ends all use of guest memory and queues before it returns. Called on the loop's thread.
    func deactivate() {}

    /// Waits until nothing that the device has under way reaches guest memory any more, and gives it back to the
    /// driver. Called on the loop's thread, which then stands still.
    package func quiesce() {}

    /// The part of a kept state that a network device adds, with the loop not running.
    var activeQueuePairs: UInt16? { nil }

    /// Takes that part of a state that is about to be gone on from; false where it cannot be.
    func restoreQueuePairs(_ pairs: UInt16?) -> Bool { true }

    /// Tokens below this are the queues', those from here on the throttles'.
    private static let firstThrottleToken: UInt32 = 48
    /// From here on they are the kind of device's.
    static let firstOwnToken: UInt32 = 64

    // MARK: - Life

    /// Puts the device into the loop that is to run it. Before the loop runs, or on its thread.
    package final func attach(to loop: DeviceLoop) throws(SystemError) {
        precondition(attachedLoop == nil, "a device has one loop")
        attachedLoop = loop
        for index in throttles.indices { try watchThrottle(index) }
        try attached(to: loop)
        if startRequested.load(ordering: .acquiring) { loop.post { self.start() } }
    }

    private func watchThrottle(_ index: Int) throws(SystemError) {
        guard let descriptor = throttles[index].descriptor else { return }
        if let registration = try attachedLoop?.register(
            descriptor, .readable, self, token: Self.firstThrottleToken + UInt32(index))
        {
            throttleRegistrations.append(registration)
        }
    }

    /// Takes the device out of its loop, for good: guest memory and its own descriptors are left alone from now on. On
    /// the loop's thread, or while that stands still.
    package final func detach() {
        guard !isDetached else { return }
        isDetached = true
        halt()
        for registration in throttleRegistrations { attachedLoop?.deregister(registration) }
        throttleRegistrations.removeAll()
        detached()
    }

    /// Changes a limit. On the loop's thread, or while that stands still.
    package final func updateLimit(_ index: Int, _ update: RateLimitUpdate) throws(SystemError) {
        if try throttles[index].update(update) { try watchThrottle(index) }
        // What was held back is looked at again, once the loop runs.
        kickQueues()
    }

    private func start() {
        guard !isRunning, !isDetached, let loop = attachedLoop else { return }
        let transport = registers.withLock { $0 }
        guard transport.isActive else { return }
        do {
            var queues: [VirtQueue] = []
            for state in transport.queues {
                queues.append(
                    state.isReady
                        ? try VirtQueue(
                            state, maximumSize: transport.maximumQueueSize, features: transport.acceptedFeatures,
                            memory: memory)
                        : VirtQueue(inactiveIn: memory))
            }
            self.queues = queues
            features = transport.acceptedFeatures
            for (index, notifier) in notifiers.enumerated() {
                notifierRegistrations.append(
                    try loop.register(notifier.event.descriptor.raw, .readable, self, token: UInt32(index)))
            }
        } catch {
            return fail("\(error)")
        }
        isRunning = true
        activate()
        if isResuming {
            isResuming = false
            // An interrupt that was on its way when the state was taken may be in none of its parts: one more does no
            // harm.
            raise(resumedInterrupts | Interrupt.usedBuffer)
        }
        for index in notifiers.indices where isRunning { queueNotified(index) }
    }

    private func halt() {
        if let loop = attachedLoop {
            for registration in notifierRegistrations { loop.deregister(registration) }
        }
        notifierRegistrations.removeAll()
        guard isRunning else { return }
        isRunning = false
        deactivate()
        // Where the queues stand stays readable; they are not used any more.
        registers.withLock { transport in
            for index in queues.indices { transport.setQueue(index, queues[index].state) }
        }
        queues.removeAll()
    }

    /// The driver did something that the device cannot go on from: it stops and asks for a reset (§2.1.2).
    final func fail(_ reason: String) {
        attachedLoop?.log("virtio device \(deviceType): stopped: \(reason)")
        halt()
        registers.withLock { $0.failDevice() }
        raise(Interrupt.configurationChange)
    }

    final override func handleEvent(_ token: UInt32, _ readiness: Readiness) {
        guard token < Self.firstOwnToken else { return descriptorReady(token, readiness) }
        guard token < Self.firstThrottleToken else {
            let index = Int(token - Self.firstThrottleToken)
            throttles[index].release()
            if isRunning { throttleReleased(index) }
            return
        }
        notifiers[Int(token)].event.drain()
        if isRunning { queueNotified(Int(token)) }
    }

    /// Has the loop look at every queue once. For any thread.
    package final func kickQueues() {
        for notifier in notifiers { notifier.event.signal() }
    }

    // MARK: - Interrupts and configuration

    /// Sets a bit of the interrupt status and raises the interrupt. For any thread.
    final func raise(_ cause: UInt32) {
        interruptStatus.bitwiseOr(cause, ordering: .releasing)
        interrupt.signal()
    }

    /// Interrupts the driver for what was given back in a queue, if it wants that.
    final func interruptIfNeeded(_ queue: Int) {
        if queues[queue].needsInterrupt() { raise(Interrupt.usedBuffer) }
    }

    /// Changes the device's own configuration and tells the driver. For any thread.
    final func setConfiguration(_ bytes: [UInt8]) {
        let isActive = registers.withLock { transport in
            transport.setConfiguration(bytes)
            return transport.isActive
        }
        if isActive { raise(Interrupt.configurationChange) }
    }

    // MARK: - Registers, from vCPU threads

    /// The driver reads from the window.
    package final func read(offset: UInt64, into bytes: UnsafeMutableRawBufferPointer) {
        let status = interruptStatus.load(ordering: .acquiring)
        let value = registers.withLock { $0.read(offset, width: bytes.count, interruptStatus: status) }
        for index in 0..<bytes.count {
            unsafe bytes[index] = index < 8 ? UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) : 0
        }
    }

    /// The driver writes to the window. Returns when what it asked for is done or, a start, under way.
    package final func write(offset: UInt64, bytes: UnsafeRawBufferPointer) {
        var value: UInt64 = 0
        for index in 0..<min(8, bytes.count) { unsafe value |= UInt64(bytes[index]) << UInt64(8 * index) }
        switch registers.withLock({ $0.write(offset, width: bytes.count, value: value) }) {
        case .none:
            break
        case .notify(let queue):
            notifiers[queue].event.signal()
        case .acknowledge(let bits):
            interruptStatus.bitwiseAnd(~bits, ordering: .acquiringAndReleasing)
        case .activate:
            startRequested.store(true, ordering: .releasing)
            attachedLoop?.post { self.start() }
        case .reset:
            reset()
        }
    }

    private func reset() {
        if startRequested.exchange(false, ordering: .acquiringAndReleasing), let loop = attachedLoop {
            do throws(SystemError) {
                try loop.performAndWait { self.halt() }
            } catch {
                // Without a descriptor to wait on, the device must not look reset: it may still use the memory.
                startRequested.store(true, ordering: .releasing)
                loop.log("virtio device \(deviceType): not reset: \(error)")
                return
            }
        }
        interruptStatus.store(0, ordering: .releasing)
        registers.withLock { $0.reset() }
    }

    // MARK: - State

    /// The device's registers and queues, with the loop not running.
    package final func captureState() -> VirtioDeviceState {
        registers.withLock { transport in
            for index in queues.indices { transport.setQueue(index, queues[index].state) }
            return VirtioDeviceState(
                record: transport.record, interruptStatus: interruptStatus.load(ordering: .acquiring),
                levels: throttles.map(\.level), queuePairs: activeQueuePairs)
        }
    }

    /// Gives a fresh device a kept state, before it is attached; it runs from then on if it ran when that was taken.
    /// Its driver is told if the device's own configuration is another than it was.
    /// - Returns: false when the state is not of such a device.
    package final func restore(_ state: VirtioDeviceState) -> Bool {
        precondition(attachedLoop == nil, "a state is restored before the device is attached")
        let outcome: (isActive: Bool, isSame: Bool)? = registers.withLock { transport in
            guard transport.resume(state.record) else { return nil }
            return (transport.isActive, transport.configuration == state.record.configuration)
        }
        guard let outcome, restoreQueuePairs(state.queuePairs) else { return false }
        interruptStatus.store(state.interruptStatus, ordering: .releasing)
        for (throttle, level) in zip(throttles, state.levels) { throttle.restore(level) }
        isResuming = outcome.isActive
        resumedInterrupts = outcome.isSame ? 0 : Interrupt.configurationChange
        startRequested.store(outcome.isActive, ordering: .releasing)
        return true
    }
}
