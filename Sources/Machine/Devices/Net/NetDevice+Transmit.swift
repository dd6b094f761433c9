// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

/// Frames on their way from the guest.
extension NetDevice {
    /// Moves frames from the queues of all pairs that go by a lane.
    func transmitAll(_ lane: NetLane) {
        let first = lane.firstPair
        lane.firstPair = (first + 1) % pairLimit
        for index in 0..<pairLimit where isRunning {
            let pair = (first + index) % pairLimit
            if self.lane(of: pair) === lane { transmit(pair) }
        }
    }

    /// Moves frames from a pair's queue to its link.
    func transmit(_ pair: Int) {
        let queue = 2 * pair + Queue.transmit
        guard queue < queues.count, queue != controlIndex else { return }
        let lane = lane(of: pair)
        do {
            var budget = Self.batchLimit
            repeat {
                queues[queue].suppressNotifications()
                while budget > 0, lane.isWritable || lane.link == nil {
                    let count = try sendBatch(queue, lane)
                    if count == 0 { break }
                    budget -= count
                }
                interruptIfNeeded(queue)
                // The timer brings us back here.
                if throttles[Queue.transmit].isWaiting { return }
                if budget <= 0 { return notifiers[queue].event.signal() }
                // A full link wakes us by itself.
                if !lane.isWritable, lane.link != nil { return }
            } while try queues[queue].requestNotifications()
        } catch {
            fail("\(error)")
        }
    }

    /// Sends up to 32 frames; gives the number of chains that were used up.
    private func sendBatch(_ queue: Int, _ lane: NetLane) throws(VirtioError) -> Int {
        let taken = try gather(queue)
        guard taken > 0 else { return 0 }
        var used = taken
        if batch.count > 0, let link = lane.link {
            if lanes.count == 1, activePairs > 1 { noteFlows(of: queue / 2) }
            let result = batch.send(link)
            let sent = max(0, min(result, batch.count))
            counters.fromGuest += UInt64(sent)
            for index in 0..<sent { counters.bytesFromGuest &+= UInt64(byteCount(ofMessage: index)) }
            if result < batch.count {
                used = stopped(result, on: lane, link, code: result < 0 ? clinux_errno() : EAGAIN, taken: taken)
            }
            counters.droppedFromGuest += UInt64(used - min(sent, used))
        } else {
            counters.droppedFromGuest += UInt64(taken)
        }
        for index in 0..<used {
            queues[queue].stage(head: transmitChains[index].head, written: 0, at: UInt16(index))
        }
        queues[queue].publish(UInt16(used))
        queues[queue].unpop(UInt16(taken - used))
        return used
    }

    /// Takes up to 32 chains, and puts those that can go into the batch; gives the number of chains.
    private func gather(_ queue: Int) throws(VirtioError) -> Int {
        var taken = 0
        batch.removeAll()
        while taken < MessageBatch.limit, try queues[queue].pop(into: transmitChains[taken]) {
            let length = transmitChains[taken].readable.byteCount
            if hasCarrier, length >= NetRecord.minimumFrameRecord, length <= NetRecord.limit {
                guard throttles[Queue.transmit].admits(length) else {
                    queues[queue].unpop()
                    break
                }
                positions[batch.count] = taken
                batch.append(transmitChains[taken].readable)
            }
            taken += 1
        }
        return taken
    }

    /// What is answered to the frames of the batch comes back by the same pair.
    private func noteFlows(of pair: Int) {
        for index in 0..<batch.count {
            var space = InlineArray<96, UInt8>(repeating: 0)
            unsafe withUnsafeMutableBytes(of: &space) { bytes in
                let count = unsafe transmitChains[positions[index]].readable.peek(into: bytes)
                let start = NetRecord.headerSize
                guard count > start else { return }
                unsafe steering.note(UnsafeRawBufferPointer(rebasing: bytes[start..<count]), pair: pair)
            }
        }
    }

    private func byteCount(ofMessage index: Int) -> Int { transmitChains[positions[index]].readable.byteCount }

    /// Not all of a batch went; gives the number of chains that are done with.
    private func stopped(_ result: Int, on lane: NetLane, _ link: NetLink, code: Int32, taken: Int) -> Int {
        let sent = max(0, result)
        switch link.failure(code) {
        case .full:
            // All before the first that did not go. A short count does not say why: the next call does.
            if result <= 0 { waitForRoom(lane) }
            giveBack(from: sent)
            return positions[sent]
        case .frame:
            // Dropped, the rest follows.
            counters.writeFailures &+= 1
            giveBack(from: sent + 1)
            return positions[sent] + 1
        case .gone:
            counters.writeFailures &+= 1
            disconnect()
            return taken
        }
    }

    /// What stays in the guest's queue is paid for when it goes.
    private func giveBack(from first: Int) {
        for index in first..<max(first, batch.count) {
            throttles[Queue.transmit].giveBack(byteCount(ofMessage: index))
        }
    }
}
