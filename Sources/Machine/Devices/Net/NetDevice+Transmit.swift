// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

/// Frames on their way from the guest.
extension NetDevice {
    /// Moves frames from the guest's queue to the link.
    func transmit() {
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
                // The timer brings us back here.
                if throttles[Queue.transmit].isWaiting { return }
                if budget <= 0 { return notifiers[Queue.transmit].event.signal() }
                // A full link wakes us by itself.
                if !isWritable, link != nil { return }
            } while try queues[Queue.transmit].requestNotifications()
        } catch {
            fail("\(error)")
        }
    }

    /// Sends up to 32 frames; gives the number of chains that were used up.
    private func sendBatch() throws(VirtioError) -> Int {
        let taken = try gather()
        guard taken > 0 else { return 0 }
        var used = taken
        if batch.count > 0, let link {
            let result = batch.send(link)
            let sent = max(0, min(result, batch.count))
            counters.fromGuest += UInt64(sent)
            for index in 0..<sent { counters.bytesFromGuest &+= UInt64(byteCount(ofMessage: index)) }
            if result < batch.count {
                used = stopped(result, on: link, code: result < 0 ? clinux_errno() : EAGAIN, taken: taken)
            }
            counters.droppedFromGuest += UInt64(used - min(sent, used))
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

    /// Takes up to 32 chains, and puts those that can go into the batch; gives the number of chains.
    private func gather() throws(VirtioError) -> Int {
        var taken = 0
        batch.removeAll()
        while taken < MessageBatch.limit, try queues[Queue.transmit].pop(into: transmitChains[taken]) {
            let length = transmitChains[taken].readable.byteCount
            if hasCarrier, length >= NetRecord.minimumFrameRecord, length <= NetRecord.limit {
                guard throttles[Queue.transmit].admits(length) else {
                    queues[Queue.transmit].unpop()
                    break
                }
                positions[batch.count] = taken
                batch.append(transmitChains[taken].readable)
            }
            taken += 1
        }
        return taken
    }

    private func byteCount(ofMessage index: Int) -> Int { transmitChains[positions[index]].readable.byteCount }

    /// Not all of a batch went; gives the number of chains that are done with.
    private func stopped(_ result: Int, on link: NetLink, code: Int32, taken: Int) -> Int {
        let sent = max(0, result)
        switch link.failure(code) {
        case .full:
            // All before the first that did not go. A short count does not say why: the next call does.
            if result <= 0 { waitForRoom() }
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
