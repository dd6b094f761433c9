// SPDX-License-Identifier: Apache-2.0

package import MachineAPI
internal import Platform
package import Virtio

/// How safe what the guest wrote is when the host loses power.
package enum BlockCacheType: Equatable, Sendable {
    /// The guest is not offered a flush.
    case unsafe
    /// A flush of the guest's reaches the host's disk before it is answered.
    case writeback
}

/// A virtio block device (virtio 1.2 §5.2) with one queue.
///
/// What needs no disk is done on the loop's thread, without another thread's wake-up: reads from the page cache and
/// writes into it. What would wait goes to the workers, several at a time, and comes back through `BlockCompletions`.
/// A file system that cannot say whether a write would wait is judged by how long the last one took.
package final class BlockDevice: VirtioMMIODevice, @unchecked Sendable {
    private enum Feature {
        static let segMax: UInt64 = 1 << 2
        static let readOnly: UInt64 = 1 << 5
        static let blkSize: UInt64 = 1 << 6
        static let flush: UInt64 = 1 << 9
        static let topology: UInt64 = 1 << 10
        static let discard: UInt64 = 1 << 13
        static let writeZeroes: UInt64 = 1 << 14
    }

    private static let queueSize: UInt16 = 256
    /// The most ranges of one discard or write zeroes request.
    static let rangeLimit = 64
    /// The longest range, in sectors: 1 GiB.
    static let rangeSectorLimit: UInt32 = 1 << 21
    /// The most bytes that the loop's thread moves for one request.
    private static let inlineLimit = 1 << 20
    /// A write that took longer has waited for a disk.
    private static let slowWriteInNanoseconds: UInt64 = 2_000_000
    /// How many writes go to the workers after a slow one.
    private static let slowWriteCount = 64
    /// In bytes.
    private static let idLength = 20

    /// The drive's name.
    let name: String
    private let workers: IOWorkers
    private let completions: BlockCompletions
    private let id: [UInt8]

    // The loop thread's.
    private(set) var backend: BlockBackend
    private var idle: [BlockRequest] = []
    private var requestCount = 0
    private var inFlight = 0
    private var staged: UInt16 = 0
    private var writesToHandOver = 0
    private var hasLoggedError = false
    private(set) var counters = BlockCounters()

    /// - Parameter id: what the guest sees as the disk's serial number; its first 20 bytes.
    package init(
        id: String, backend: BlockBackend, cacheType: BlockCacheType = .unsafe, limit: RateLimit? = nil,
        workers: IOWorkers, memory: GuestMemory
    ) throws(DeviceError) {
        self.backend = backend
        self.workers = workers
        name = id
        self.id = Array(id.utf8.prefix(Self.idLength))
        completions = try devicePart { () throws(SystemError) in try BlockCompletions() }
        var features = Feature.segMax | Feature.blkSize | Feature.topology
        if backend.isReadOnly {
            features |= Feature.readOnly
        } else {
            features |= Feature.discard | Feature.writeZeroes
            if cacheType == .writeback { features |= Feature.flush }
        }
        do throws(SystemError) {
            try super.init(
                type: VirtioDeviceType.block, features: features, queueCount: 1, maximumQueueSize: Self.queueSize,
                configuration: Self.configuration(backend), limits: [limit], memory: memory)
        } catch { throw .system(error) }
    }

    /// The configuration space (§5.2.4).
    private static func configuration(_ backend: BlockBackend) -> [UInt8] {
        var bytes: [UInt8] = []
        func add<Value: FixedWidthInteger>(_ value: Value) {
            for index in 0..<MemoryLayout<Value>.size {
                bytes.append(UInt8(truncatingIfNeeded: value >> Value(8 * index)))
            }
        }
        add(backend.byteCount / BlockBackend.sectorSize)  // capacity
        add(UInt32(0))  // size_max, not offered
        add(UInt32(queueSize - 2))  // seg_max: header and status take the other two
        add(UInt32(0))  // geometry, not offered
        add(UInt32(BlockBackend.sectorSize))  // blk_size
        add(UInt8(3))  // physical block: 2³ logical ones
        add(UInt8(0))  // alignment_offset
        add(UInt16(8))  // min_io_size, in logical blocks
        add(UInt32(0))  // opt_io_size
        add(UInt8(0))  // writeback, not offered
        add(UInt8(0))
        add(UInt16(1))  // num_queues, not offered
        add(rangeSectorLimit)  // max_discard_sectors
        add(UInt32(rangeLimit))  // max_discard_seg
        add(UInt32(8))  // discard_sector_alignment
        add(rangeSectorLimit)  // max_write_zeroes_sectors
        add(UInt32(rangeLimit))  // max_write_zeroes_seg
        add(UInt8(1))  // write_zeroes_may_unmap
        bytes += [0, 0, 0]
        return bytes
    }

    override func attached(to loop: DeviceLoop) throws(SystemError) {
        _ = try loop.register(completions.event.descriptor.raw, .readable, self, token: Self.firstOwnToken)
    }

    // MARK: - Requests

    override func throttleReleased(_ index: Int) { serve() }

    override func queueNotified(_ index: Int) {
        counters.notifications &+= 1
        serve()
    }

    private func serve() {
        do {
            // A driver that adds as fast as we take must leave the loop to others in between.
            var budget = 2 * Int(Self.queueSize)
            repeat {
                queues[0].suppressNotifications()
                while budget > 0, let request = takeRequest() {
                    guard try queues[0].pop(into: request.chain) else {
                        idle.append(request)
                        break
                    }
                    let parsed = request.parse()
                    // The timer brings us back here.
                    guard throttles[0].admits(request.transferCount) else {
                        queues[0].unpop()
                        idle.append(request)
                        return publish()
                    }
                    budget -= 1
                    begin(request, parsed)
                }
                publish()
                // With all requests in flight, the next completion looks here again.
                if idle.isEmpty, requestCount == Int(Self.queueSize) { return }
                if budget == 0 { return notifiers[0].event.signal() }
            } while try queues[0].requestNotifications()
        } catch {
            publish()
            fail("\(error)")
        }
    }

    private func takeRequest() -> BlockRequest? {
        if let request = idle.popLast() { return request }
        guard requestCount < Int(Self.queueSize) else { return nil }
        requestCount += 1
        return BlockRequest(
            backend: backend, completions: completions, chainCapacity: Int(Self.queueSize) + memory.regions.count)
    }

    private func begin(_ request: BlockRequest, _ parsed: BlockRequest.Parsed) {
        switch parsed {
        case .request: break
        case .refused(let status):
            counters.invalidRequests &+= 1
            return end(request, status)
        case .unanswerable:
            counters.invalidRequests &+= 1
            return giveBack(request, written: 0)
        }
        switch request.type {
        case BlockRequestType.read:
            if request.dataCount <= Self.inlineLimit {
                let outcome = backend.read(&request.data, at: &request.offset, waiting: false)
                if outcome != .wouldBlock { return end(request, outcome) }
            }
        case BlockRequestType.getID:
            unsafe id.withUnsafeBytes { _ = unsafe request.data.copy(from: $0) }
            request.data.zero(Self.idLength - id.count)
            return end(request, BlockStatus.ok)
        case _ where backend.isReadOnly:
            return end(request, BlockStatus.ioError)
        case BlockRequestType.write:
            if request.dataCount <= Self.inlineLimit, writesToHandOver == 0 {
                let start = monotonicNanoseconds()
                let outcome = backend.write(&request.data, at: &request.offset)
                if monotonicNanoseconds() - start > Self.slowWriteInNanoseconds {
                    writesToHandOver = Self.slowWriteCount
                }
                return end(request, outcome)
            }
            writesToHandOver = max(0, writesToHandOver - 1)
        default: break
        }
        inFlight += 1
        workers.submit(request)
    }

    private func end(_ request: BlockRequest, _ outcome: BlockBackend.Outcome) {
        guard case .failed(let code) = outcome else {
            count(request)
            return end(request, BlockStatus.ok)
        }
        counters.failures &+= 1
        if !hasLoggedError {
            hasLoggedError = true
            attachedLoop?.log(
                "block device \(String(decoding: id, as: UTF8.self)): request type \(request.type) at byte "
                    + "\(request.offset): \(systemErrorText(code)); further errors are only reported to the guest")
        }
        end(request, BlockStatus.ioError)
    }

    private func count(_ request: BlockRequest) {
        switch request.type {
        case BlockRequestType.read:
            counters.reads &+= 1
            counters.readBytes &+= UInt64(request.dataCount)
        case BlockRequestType.write:
            counters.writes &+= 1
            counters.writtenBytes &+= UInt64(request.dataCount)
        case BlockRequestType.flush: counters.flushes &+= 1
        default: break
        }
    }

    private func end(_ request: BlockRequest, _ status: UInt8) {
        giveBack(request, written: request.finish(status))
    }

    private func giveBack(_ request: BlockRequest, written: Int) {
        queues[0].stage(head: request.chain.head, written: written, at: staged)
        staged += 1
        idle.append(request)
    }

    /// Shows the driver what was given back since the last time.
    private func publish() {
        guard staged > 0 else { return }
        queues[0].publish(staged)
        staged = 0
        interruptIfNeeded(0)
    }

    // MARK: - Completions

    override func descriptorReady(_ token: UInt32, _ readiness: Readiness) {
        let wasFull = idle.isEmpty && requestCount == Int(Self.queueSize)
        collect()
        if wasFull, isRunning { serve() }
    }

    private func collect() {
        var list = completions.take()
        while let item = list.popFirst() {
            guard let request = item as? BlockRequest else { continue }
            inFlight -= 1
            end(request, request.outcome)
        }
        publish()
    }

    /// Waits until nothing is in flight, and gives all of it back.
    override package func quiesce() {
        while inFlight > 0 {
            completions.wait()
            collect()
        }
    }

    /// Puts another disk in the place of this one, which the driver is told of. What is under way is finished with the
    /// one that was. On the loop's thread, or while that stands still.
    /// - Parameter other: as writable as this one, which the driver learned when it began.
    func replace(_ other: BlockBackend) {
        precondition(other.isReadOnly == backend.isReadOnly)
        quiesce()
        backend = other
        // They know the backend that they were made for.
        idle = []
        requestCount = 0
        counters.replacements &+= 1
        setConfiguration(Self.configuration(other))
    }

    override func deactivate() {
        quiesce()
    }
}
