// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// How init reaches the host.
enum Transport {
    /// VMADDR_CID_HOST
    private static let hostContext: UInt32 = 2

    /// Begins to connect to the host's `port` by vsock.
    static func vsock(port: UInt32) throws(SystemFailure) -> Connection {
        let stream = try System.check(
            guest_vsock_connect(hostContext, port), "connect to the host, vsock port", text(port))
        return Connection(Descriptor(Int32(stream)), isPort: false, isEstablished: false)
    }

    /// The virtio-serial port named `martlet`. Its name is a message from the device that may come only after init has
    /// begun, thus where it is not there yet, the kernel's announcements are waited for. Needs /sys and /dev.
    static func port() throws(SystemFailure) -> Connection {
        let events = Descriptor(Int32(try System.check(guest_device_events(), "listen for devices")))
        let epoll = Descriptor(Int32(try System.check(guest_epoll(), "epoll_create")))
        try System.check(guest_epoll_add(epoll.raw, events.raw, guest_readable, 0), "epoll_ctl")
        var event = guest_event()
        while true {
            if let name = findPort() {
                let port = try System.open(text("/dev/") + name, guest_read_write | Int32(guest_nonblocking_flag()))
                return Connection(port, isPort: true, isEstablished: false)
            }
            let count = guest_epoll_wait(epoll.raw, &event, 1, 20_000)
            if count == 0 {
                throw SystemFailure(call: "find", subject: text("virtio-serial port martlet"), code: guest_enoent)
            }
            try System.check(count, "epoll_wait")
            // What is announced does not matter: the directory is read again.
            while Scratch.withBytes({ guest_read(events.raw, $0.baseAddress, $0.count) }) > 0 {}
        }
    }

    private static func findPort() -> [UInt8]? {
        let directory = text("/sys/class/virtio-ports")
        for port in System.names(in: directory) {
            let name = try? System.contents(directory + text("/") + port + text("/name"), limit: 64)
            if name == text("martlet\n") { return port }
        }
        return nil
    }
}
