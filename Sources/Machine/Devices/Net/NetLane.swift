// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// One way that a network device's frames go: one for all of its pairs of queues, or, where a TAP device has several
/// queues, one a pair. The loop thread's.
final class NetLane {
    /// Its place among the device's.
    let index: Int
    /// Nil while there is nobody.
    var link: NetLink?
    var registration: EventRegistration?
    /// Records that came and are not the guest's yet.
    let received: ReceivedMessages
    /// Whether a read may find something, and a write room.
    var isReadable = false
    var isWritable = false
    /// The pair of queues that is sent from first when there is room again: another each time.
    var firstPair = 0

    init(_ index: Int, _ link: NetLink?) throws(SystemError) {
        self.index = index
        self.link = link
        received = try ReceivedMessages()
    }

    /// Has the kernel steer frames to this queue of a TAP device, and take them from it.
    /// - Returns: false where it does not.
    func use() -> Bool {
        guard case .tap(let tap) = link, tap.setUse(true) else { return false }
        isReadable = true
        isWritable = true
        return true
    }

    /// The kernel leaves this queue alone, which is not to be read or written any more. What came is lost.
    func useNoLonger() {
        if case .tap(let tap) = link { _ = tap.setUse(false) }
        clear()
    }

    /// Nothing goes here until there is a link again.
    func clear() {
        isReadable = false
        isWritable = false
        received.removeAll()
    }
}
