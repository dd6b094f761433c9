// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

extension Agent {
    /// Becomes the machine that the host says, step by step, and tells how long each took. One that fails ends the
    /// machine: what comes after, the container's configuration and its processes, is never looked at.
    func identify(_ frame: Frame) {
        guard role == .container else { fail(text("an identity for what is no container's machine")) }
        guard !isIdentified, let identity = Identity(frame.payload) else { fail(text("not an identity")) }
        var report = StepReport()
        do throws(SystemFailure) {
            try step("entropy", &report) { () throws(SystemFailure) in
                try System.check(guest_add_entropy(identity.entropy, identity.entropy.count), "add entropy")
            }
            report.sample = [UInt8](repeating: 0, count: 16)
            try System.check(guest_random(&report.sample, report.sample.count), "getrandom")
            guard randomSample.renew(report.sample, original: identity.originalSample) else {
                fail(text("the random numbers are those of the machine that this one was made of"))
            }
            if identity.clock != 0 {
                try step("clock", &report) { () throws(SystemFailure) in
                    try System.check(guest_set_clock(identity.clock), "clock_settime")
                }
            }
            if !identity.hostname.isEmpty {
                try step("hostname", &report) { () throws(SystemFailure) in
                    try System.setHostname(identity.hostname)
                }
            }
            if !identity.machineID.isEmpty {
                try step("machine-id", &report) { () throws(SystemFailure) in machineID = identity.machineID }
            }
            var silenced = [UInt32?](repeating: nil, count: identity.interfaces.count)
            if identity.isClone {
                try step("connections", &report) { () throws(SystemFailure) in
                    // First, so that no reset reaches whom the connections are with: they are the other machine's.
                    for (place, interface) in identity.interfaces.enumerated() {
                        silenced[place] = try NetworkInterface.silence(interface)
                    }
                    try System.check(guest_reset_connections(), "reset connections")
                }
            }
            if !identity.interfaces.isEmpty {
                try step("network", &report) { () throws(SystemFailure) in
                    for (place, interface) in identity.interfaces.enumerated() {
                        if let slot = interface.slot { try DeviceSlot.find(slot) }
                        try NetworkInterface.replace(interface, silenced[place])
                    }
                }
            }
            if mainProcess != 0 {
                try step("files", &report) { () throws(SystemFailure) in try rewriteFiles(identity) }
            }
        } catch {
            fail(error.message)
        }
        isIdentified = true
        connection.send(.identified, report.payload)
    }

    /// Gives a container that exists already the names of the machine that it is in now, and a boot id that no other
    /// machine shows: the kernel's own is as old as the boot that both go back to.
    ///
    /// All that could keep it from an end stands still, and the host gives up a machine that does not come to one; so it
    /// is done without a process of its own, which would take longer than what it does.
    private func rewriteFiles(_ identity: Identity) throws(SystemFailure) {
        let own = try System.open(text("/proc/self/ns/mnt"), guest_read_only)
        let main = try openMainProcess()
        try System.check(guest_enter(main.raw, guest_new_mounts), "enter the container")
        defer {
            if guest_enter(own.raw, guest_new_mounts) < 0 { fail(text("cannot leave the container's mounts")) }
        }
        try Container.rename(identity)
    }

    func step(
        _ name: StaticString, _ report: inout StepReport, _ body: () throws(SystemFailure) -> Void
    ) throws(SystemFailure) {
        let before = guest_monotonic_clock()
        try body()
        report.steps.append(StepReport.Step(text(name), nanoseconds: guest_monotonic_clock() - before))
    }
}
