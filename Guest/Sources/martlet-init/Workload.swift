// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
#else
import CGuest
#endif

/// All processes of the container: a control group, into which each is born.
final class Workload {
    private static let path = text("/sys/fs/cgroup/container")
    private static let limitInMilliseconds: Int32 = 5_000

    let directory: Descriptor

    init() throws(SystemFailure) {
        try System.makeDirectories(Workload.path)
        directory = try System.open(Workload.path, guest_read_only)
    }

    /// Keeps them from running; when this returns none does.
    func freeze() throws(SystemFailure) { try set(frozen: true) }

    /// Lets them run.
    func thaw() throws(SystemFailure) { try set(frozen: false) }

    private func set(frozen: Bool) throws(SystemFailure) {
        let events = try System.open(Workload.path + text("/cgroup.events"), guest_read_only)
        let epoll = Descriptor(Int32(try System.check(guest_epoll(), "epoll_create")))
        try System.check(guest_epoll_add(epoll.raw, events.raw, guest_urgent, 0), "epoll_ctl")
        let control = try System.open(Workload.path + text("/cgroup.freeze"), guest_write_only)
        let word: [UInt8] = [frozen ? UInt8(ascii: "1") : UInt8(ascii: "0")]
        try System.check(guest_write(control.raw, word, 1), "write", Workload.path)
        let wanted = frozen ? text("frozen 1") : text("frozen 0")
        var event = guest_event()
        while true {
            let contents = try System.contents(Workload.path + text("/cgroup.events"), limit: 4096)
            if contents.parts(separatedBy: 10).contains(where: { $0.hasPrefix(wanted) }) { return }
            // Each change is announced; a process that cannot be stopped, in the middle of a write for example, is
            // waited for, but not for ever.
            let ready = guest_epoll_wait(epoll.raw, &event, 1, Workload.limitInMilliseconds)
            if ready == 0 {
                throw SystemFailure(call: "freeze", subject: text("the container"), code: guest_etimedout)
            }
            try System.check(ready, "epoll_wait")
        }
    }
}
