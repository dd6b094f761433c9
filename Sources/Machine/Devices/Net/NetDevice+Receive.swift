// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Virtio

/// Frames on their way to the guest.
extension NetDevice {
    /// Buffers of a pair's that are filled and not the guest's yet.
    private struct Staged {
        var pair = 0
        var count: UInt16 = 0
    }

    /// Moves frames from a link into the guest's buffers.
    func receive(_ lane: NetLane) {
        guard isRunning, isInUse(lane) else { return }
        do {
            var budget = Self.batchLimit
            var staged = Staged()
            take: while budget > 0 {
                if lane.received.isEmpty {
                    guard lane.isReadable, let link = lane.link else { break }
                    guard lane.received.receive(link) > 0 else {
                        lane.isReadable = false
                        let code = clinux_errno()
                        if code != EAGAIN { counters.readFailures &+= 1 }
                        if link.isGone(code) { disconnect() }
                        break
                    }
                }
                switch try takeRecord(lane, &staged) {
                case .done:
                    budget -= 1
                    if staged.count > Self.queueSize / 2 { publish(&staged) }
                case .tooFewBuffers(let pair):
                    publish(&staged)
                    counters.waitsForBuffers &+= 1
                    // The guest tells when it has given more than those, unless it just has.
                    guard try queues[2 * pair].requestNotifications(beyond: tooFew) else { return }
                case .held:
                    // The timer brings us back here.
                    break take
                }
            }
            publish(&staged)
            if budget == 0 { notifiers[2 * lane.index].event.signal() }
        } catch {
            fail("\(error)")
        }
    }

    /// What came of a record.
    private enum Taken {
        /// It is the guest's, or dropped.
        case done
        /// This pair has too few; what comes after it waits as well.
        case tooFewBuffers(Int)
        /// More than the limit allows now.
        case held
    }

    private func publish(_ staged: inout Staged) {
        guard staged.count > 0 else { return }
        queues[2 * staged.pair].publish(staged.count)
        staged.count = 0
        interruptIfNeeded(2 * staged.pair)
    }

    /// The pair whose receive queue a record is for.
    private func pair(of record: UnsafeMutableRawBufferPointer, _ lane: NetLane) -> Int {
        guard lanes.count == 1, activePairs > 1 else { return lane.index }
        return unsafe steering.pair(
            of: UnsafeRawBufferPointer(rebasing: record[NetRecord.headerSize...]), among: activePairs)
    }

    /// Does away with the first record that came, where that can be now.
    private func takeRecord(_ lane: NetLane, _ staged: inout Staged) throws(VirtioError) -> Taken {
        let received = lane.received
        guard let record = unsafe received.peek() else {
            counters.droppedToGuest += 1
            received.removeFirst()
            return .done
        }
        let isTap = lane.link?.isTap == true
        guard record.count >= NetRecord.minimumFrameRecord else {
            if isTap {
                received.removeFirst()
            } else if record.count == 0 {
                // The end of the socket reads as an empty record.
                disconnect()
            } else {
                if let carrier = unsafe NetRecord.linkMessage(UnsafeRawBufferPointer(record)) { setCarrier(carrier) }
                received.removeFirst()
            }
            return .done
        }
        if isTap, features & NetFeature.guestCsum == 0 {
            // The kernel says of checksums that it has seen them, also to readers who did not ask (§5.1.6.4.1).
            unsafe record[NetRecord.flagsOffset] &= ~NetHeader.dataValid
        }
        let header = unsafe NetHeader(UnsafeRawBufferPointer(record))
        if header.isFor(features: features, frameCount: record.count - NetRecord.headerSize) {
            guard throttles[Queue.receive].admits(record.count) else { return .held }
            let pair = unsafe pair(of: record, lane)
            if pair != staged.pair { publish(&staged) }
            staged.pair = pair
            guard let buffers = try unsafe put(record, in: 2 * pair, at: staged.count) else {
                throttles[Queue.receive].giveBack(record.count)
                return .tooFewBuffers(pair)
            }
            staged.count += buffers
            if buffers > 0 {
                counters.toGuest += 1
                counters.bytesToGuest &+= UInt64(record.count)
            } else {
                counters.droppedToGuest += 1
            }
        } else {
            counters.droppedToGuest += 1
        }
        received.removeFirst()
        return .done
    }

    /// Copies a frame into the guest's buffers in a queue, staged from `position` on. Gives their number, 0 where the guest's
    /// buffers are too short for it, nil when there are too few.
    private func put(
        _ record: UnsafeMutableRawBufferPointer, in queue: Int, at position: UInt16
    ) throws(VirtioError) -> UInt16? {
        tooFew = 0
        guard try queues[queue].pop(into: receiveChain) else { return nil }
        var count: UInt16 = 1
        if receiveChain.writable.byteCount < record.count {
            var room = receiveChain.writable.byteCount
            let most = min(queues[queue].state.size, Self.queueSize / 2)
            while features & NetFeature.mergeableBuffers != 0, room < record.count, count < most {
                guard try queues[queue].pop(into: receiveChain) else {
                    queues[queue].unpop(count)
                    tooFew = count
                    return nil
                }
                room += receiveChain.writable.byteCount
                count += 1
            }
            queues[queue].unpop(count)
            guard room >= record.count else { return 0 }
            // Now that their number is known, once more from the first.
            guard try queues[queue].pop(into: receiveChain) else { return nil }
        }
        unsafe record.storeBytes(of: count.littleEndian, toByteOffset: NetRecord.bufferCountOffset, as: UInt16.self)
        var done = 0
        for index in 0..<count {
            if index > 0 {
                guard try queues[queue].pop(into: receiveChain) else { throw .badRing(.availableIndex) }
            }
            let written = unsafe receiveChain.writable.copy(
                from: UnsafeRawBufferPointer(rebasing: record[done...]))
            done += written
            queues[queue].stage(head: receiveChain.head, written: written, at: position + index)
        }
        // The guest has shortened its buffers between two looks.
        guard done == record.count else { throw .badRing(.availableIndex) }
        return count
    }
}
