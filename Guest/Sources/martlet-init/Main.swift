// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

@main
enum MartletInit {
    static func main() {
        let bootedAt = guest_monotonic_clock()
        do throws(SystemFailure) {
            if guest_process_id() == 1 {
                try boot(bootedAt)
            } else {
                try serve(bootedAt)
            }
        } catch {
            System.say(error.message)
            if guest_process_id() == 1 { Power.off() }
            guest_exit(1)
        }
    }

    /// PID 1. The connection is begun before anything else is done, and made while the rest is.
    private static func boot(_ bootedAt: UInt64) throws(SystemFailure) {
        try System.openConsole()
        try System.mount(text("proc"), text("/proc"), type: "proc")
        let parameters = BootParameters(commandLine: try System.contents(text("/proc/cmdline"), limit: 65_536))
        let connection: Connection
        switch parameters.mode {
        case .container:
            connection = try Transport.vsock(port: parameters.port)
            try System.mount(text("devtmpfs"), text("/dev"), type: "devtmpfs")
            try Container.prepareGround()
            try NetworkInterface.prepare()
        case .host:
            try System.mount(text("sysfs"), text("/sys"), type: "sysfs")
            try System.mount(text("devtmpfs"), text("/dev"), type: "devtmpfs")
            connection = try Transport.port()
        }
        try run(
            parameters.mode == .container ? .container : .host, bootedAt, connection, port: parameters.port)
    }

    /// `--serve-fd N`: the protocol over an inherited stream socket, without a machine around it.
    private static func serve(_ bootedAt: UInt64) throws(SystemFailure) {
        let arguments = try System.contents(text("/proc/self/cmdline"), limit: 65_536).parts(separatedBy: 0)
        guard arguments.count == 4, arguments[1] == text("--serve-fd"),
            let number = arguments[2].decimal(atMost: UInt64(Int32.max)), guest_is_open(Int32(number)) >= 0
        else {
            System.say(text("not PID 1; usage: martlet-init --serve-fd N"))
            guest_exit(2)
        }
        let socket = Descriptor(Int32(number))
        try socket.setNonblocking()
        try System.check(guest_adopt_orphans(), "prctl")
        try run(.server, bootedAt, Connection(socket, isPort: false, isEstablished: true))
    }

    private static func run(
        _ role: Agent.Role, _ bootedAt: UInt64, _ connection: Connection, port: UInt32 = 0
    ) throws(SystemFailure) {
        let epoll = Descriptor(Int32(try System.check(guest_epoll(), "epoll_create")))
        let childEvents = Descriptor(Int32(try System.check(guest_child_events(), "signalfd")))
        let agent = try Agent(
            role: role, bootedAt: bootedAt, connection: connection, port: port, epoll: epoll,
            childEvents: childEvents)
        agent.run()
    }
}
