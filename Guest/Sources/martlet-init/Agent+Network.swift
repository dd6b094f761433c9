// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// Networks that come and go while the container runs.
extension Agent {
    /// Does what the host wants in an order in which the container always has a way out: what goes first, then what comes,
    /// routes, and names last. The report's steps are those that are done; where one fails the host is told why, and the
    /// machine goes on.
    func arrange(_ frame: Frame) {
        guard role == .container, let order = Arrangement(frame.payload) else { fail(text("not an arrangement")) }
        guard isIdentified else { fail(text("an arrangement before an identity")) }
        var report = StepReport()
        do throws(SystemFailure) {
            // The order may cross the news of its end.
            guard mainProcess != 0 else {
                throw SystemFailure(call: "find", subject: text("the container's process"), code: guest_esrch)
            }
            for interface in order.removed {
                guard let slot = interface.slot else { continue }
                try step(Arrangement.Step.removal, &report) { () throws(SystemFailure) in try DeviceSlot.release(slot) }
            }
            for interface in order.added {
                try step(Arrangement.Step.addition, &report) { () throws(SystemFailure) in try add(interface) }
            }
            if !order.yielding.isEmpty || !order.leading.isEmpty {
                try step(Arrangement.Step.routes, &report) { () throws(SystemFailure) in
                    for interface in order.yielding { try NetworkInterface.yield(interface) }
                    for interface in order.leading { try NetworkInterface.lead(interface) }
                }
            }
            if !order.hosts.isEmpty || !order.resolvConf.isEmpty {
                try step(Arrangement.Step.files, &report) { () throws(SystemFailure) in
                    try changeContainer { () throws(SystemFailure) in
                        try Container.rewrite(hosts: order.hosts, resolvConf: order.resolvConf)
                    }
                }
            }
        } catch {
            report.failure = error.message
        }
        connection.send(.arranged, report.payload)
    }

    private func add(_ interface: InterfaceSettings) throws(SystemFailure) {
        if let slot = interface.slot { try DeviceSlot.find(slot) }
        do throws(SystemFailure) {
            try NetworkInterface.add(interface)
        } catch {
            if let slot = interface.slot { try? DeviceSlot.release(slot) }
            throw error
        }
    }

    /// Does something among the files of the container that runs, in a process of its own.
    private func changeContainer(_ body: () throws(SystemFailure) -> Void) throws(SystemFailure) {
        let main = try openMainProcess()
        let process = try fork(main, ownsNamespace: false, group: nil)
        if process == 0 {
            guard guest_enter(main.raw, guest_new_mounts) >= 0 else { guest_exit(1) }
            do throws(SystemFailure) {
                try body()
            } catch {
                System.say(error.message)
                guest_exit(1)
            }
            guest_exit(0)
        }
        hasChildren = true
        var status: Int32 = 0
        guard guest_reap_within(Int32(process), 5_000, &status) > 0, status == 0 else {
            _ = guest_kill(Int32(process), Power.kill)
            throw SystemFailure(call: "rewrite the files of", subject: text("the container"), code: guest_ecanceled)
        }
    }
}
