// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Virtio

/// Pairs of queues, and the queue by which the driver says how many it uses (virtio 1.2 §5.1.2, §5.1.6.5).
extension NetDevice {
    /// With one pair there is no control queue.
    static func queueCount(pairs: Int) -> Int { pairs == 1 ? 2 : 2 * pairs + 1 }

    /// How many pairs a device with so many queues has; nil for a number that none has.
    static func pairs(queueCount: Int) -> Int? {
        let pairs = queueCount / 2
        return pairs > 0 && Self.queueCount(pairs: pairs) == queueCount ? pairs : nil
    }

    /// How many pairs this driver may use.
    private var agreedPairs: Int { features & NetFeature.severalPairs != 0 ? pairLimit : 1 }

    /// The control queue's number, which comes after those pairs; nil for a driver that has none.
    var controlIndex: Int? { features & NetFeature.controlQueue != 0 ? 2 * agreedPairs : nil }

    // MARK: - Lanes

    /// The way of a pair's frames. What a driver sends by a pair that it has given up goes by the first.
    func lane(of pair: Int) -> NetLane { pair < min(activePairs, lanes.count) ? lanes[pair] : lanes[0] }

    func isInUse(_ lane: NetLane) -> Bool { lane.index < activePairs }

    /// Has the driver's pairs use their lanes, and no others be used.
    /// - Returns: false where the TAP device does not let it; nothing is changed then.
    func setPairs(_ count: Int) -> Bool {
        for lane in lanes.dropFirst() where lane.link != nil && lane.index < count && !isInUse(lane) {
            guard lane.use() else {
                for other in lanes[activePairs...lane.index] { other.useNoLonger() }
                return false
            }
        }
        for lane in lanes.dropFirst() where lane.index >= count && isInUse(lane) { lane.useNoLonger() }
        if count != activePairs { steering.removeAll() }
        activePairs = count
        return true
    }

    // MARK: - The control queue

    private enum Control {
        static let several: UInt8 = 4
        static let setPairs: UInt8 = 0
        static let accepted: UInt8 = 0
        static let refused: UInt8 = 1
    }

    /// Answers what the driver asks for.
    func control() {
        guard let index = controlIndex else { return }
        do {
            var budget = Int(Self.queueSize)
            repeat {
                queues[index].suppressNotifications()
                while budget > 0, try queues[index].pop(into: receiveChain) {
                    budget -= 1
                    let answer = unsafe withUnsafeBytes(of: reply()) { bytes in
                        unsafe receiveChain.writable.copy(from: bytes)
                    }
                    queues[index].push(head: receiveChain.head, written: answer)
                }
                interruptIfNeeded(index)
                if budget == 0 { return notifiers[index].event.signal() }
            } while try queues[index].requestNotifications()
        } catch {
            fail("\(error)")
        }
    }

    /// Does what the command in `receiveChain` says: class, command, and the number of pairs (§5.1.6.5.5).
    private func reply() -> UInt8 {
        var command: UInt32 = 0
        let length = unsafe withUnsafeMutableBytes(of: &command) { bytes in
            unsafe receiveChain.readable.copy(into: bytes)
        }
        command = UInt32(littleEndian: command)
        let pairs = Int(command >> 16)
        guard length == 4, UInt8(truncatingIfNeeded: command) == Control.several,
            UInt8(truncatingIfNeeded: command >> 8) == Control.setPairs, (1...agreedPairs).contains(pairs),
            (0..<2 * pairs).allSatisfy({ queues[$0].state.isReady })
        else { return Control.refused }
        guard setPairs(pairs) else { return Control.refused }
        // What lies in the queues' ways is looked at when this is answered.
        for pair in 0..<pairs { notifiers[2 * pair].event.signal() }
        return Control.accepted
    }
}
