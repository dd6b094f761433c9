// SPDX-License-Identifier: Apache-2.0

internal import CLinux
package import MachineAPI
internal import Platform
package import Virtio

/// A virtio entropy device (virtio 1.2 §5.4): the host's random bytes.
package final class EntropyDevice: VirtioMMIODevice, @unchecked Sendable {
    private static let queueSize: UInt16 = 64
    /// The most bytes that one request gets: a guest that wants more asks again.
    package static let requestLimit = 64 * 1024
    /// The most requests that are answered before others have their turn.
    private static let batch = 16

    private let chain: DescriptorChain
    /// The loop thread's.
    private(set) var counters = EntropyCounters()

    package init(limit: RateLimit? = nil, memory: GuestMemory) throws(DeviceError) {
        chain = DescriptorChain(capacity: Int(Self.queueSize) + memory.regions.count)
        do throws(SystemError) {
            try super.init(
                type: VirtioDeviceType.entropy, features: 0, queueCount: 1, maximumQueueSize: Self.queueSize,
                configuration: [], limits: [limit], memory: memory)
        } catch { throw .system(error) }
    }

    override func throttleReleased(_ index: Int) { queueNotified(0) }

    override func queueNotified(_ index: Int) {
        do {
            var budget = Self.batch
            repeat {
                queues[0].suppressNotifications()
                while budget > 0, try queues[0].pop(into: chain) {
                    chain.writable.limit(to: Self.requestLimit)
                    guard throttles[0].admits(chain.writable.byteCount) else {
                        queues[0].unpop()
                        return interruptIfNeeded(0)
                    }
                    budget -= 1
                    let count = fill()
                    queues[0].push(head: chain.head, written: count)
                    counters.requests &+= 1
                    counters.bytes &+= UInt64(count)
                }
                interruptIfNeeded(0)
                if budget == 0 { return notifiers[0].event.signal() }
            } while try queues[0].requestNotifications()
        } catch {
            fail("\(error)")
        }
    }

    private func fill() -> Int {
        var total = 0
        while unsafe chain.writable.vectors.count > 0 {
            let piece = unsafe chain.writable.vectors[0]
            let count = retryingInterrupts { unsafe clinux_getrandom(piece.iov_base, piece.iov_len) }
            guard count > 0 else { break }
            chain.writable.dropFirst(count)
            total += count
        }
        return total
    }
}
