// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// The end of the machine.
enum Power {
    static let kill: Int32 = 9

    /// Ends all processes, writes what is to stay, and turns the machine off. The emulated host, which has no ACPI, ends
    /// by a restart. An agent that is an ordinary process ends with its sessions.
    static func off(_ agent: Agent) -> Never {
        switch agent.role {
        case .server:
            endSessions(of: agent)
            guest_exit(0)
        case .container:
            off()
        case .host:
            _ = guest_kill(-1, kill)
            var status: Int32 = 0
            while guest_reap_blocking(&status) > 0 {}
            agent.host.leave()
            restart()
        }
    }

    private static func endSessions(of agent: Agent) {
        var processes = agent.sessions.compactMap { $0.process == 0 ? nil : $0.process }
        for process in processes where guest_kill(-process, kill) < 0 { _ = guest_kill(process, kill) }
        var status: Int32 = 0
        while !processes.isEmpty {
            let ended = guest_reap_blocking(&status)
            guard ended > 0 else { break }
            processes.removeAll { $0 == Int32(ended) }
        }
    }

    /// A kernel that cannot power a machine off, which needs ACPI, halts it for ever. A restart ends it too: the monitor
    /// does not start it again.
    static func off() -> Never {
        var mode: UInt32 = 0
        try? System.mount(text("sysfs"), text("/sys"), type: "sysfs")
        if guest_mode(System.path(text("/sys/firmware/acpi/tables")), &mode) == 0 { _ = guest_power_off() }
        restart()
    }

    static func restart() -> Never {
        _ = guest_reboot()
        guest_exit(1)
    }
}
