// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
package import Platform

/// Where a network device's frames go.
package enum NetPeer: Sendable {
    /// To whoever listens at this path (Docs/NET-SOCKET.md).
    case path(String)
    /// To the other end of this socket, which is one of records, non-blocking or not.
    case socket(SharedDescriptor)
    /// To the host's network stack: by one queue of a TAP device for all pairs of the guest's, or by one for each.
    case tap([TapDevice])

    /// What an inherited descriptor is, which stays open and the caller's.
    package init(descriptor number: Int32) throws(TapError) {
        let copy = clinux_fcntl(number, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw .cannotOpen(SystemError("fcntl", "descriptor \(number)")) }
        let descriptor = Descriptor(owning: copy)
        var type: Int32 = 0
        let isSocket = unsafe clinux_get_option(copy, SOL_SOCKET, SO_TYPE, &type) == 0
        if isSocket, type == Int32(SOCK_SEQPACKET.rawValue) {
            self = .socket(SharedDescriptor(descriptor))
        } else {
            do throws(TapError) { self = .tap([try TapDevice(adopting: descriptor)]) } catch {
                guard case .notATap = error else { throw error }
                throw .notATap(number)
            }
        }
    }
}

/// What a network device's frames go through at the moment.
enum NetLink: Sendable {
    case socket(SharedDescriptor)
    case tap(TapDevice)

    var raw: Int32 {
        switch self {
        case .socket(let socket): socket.raw
        case .tap(let tap): tap.raw
        }
    }

    var isTap: Bool { if case .tap = self { true } else { false } }

    /// What an error of a write says.
    enum WriteFailure {
        /// There is no room now; the descriptor tells when there is.
        case full
        /// This frame cannot go; the next may.
        case frame
        /// The link is gone.
        case gone
    }

    func failure(_ code: Int32) -> WriteFailure {
        switch (self, code) {
        case (_, EAGAIN), (_, ENOBUFS): .full
        // Longer than the socket can ever hold.
        case (.socket, EMSGSIZE): .frame
        case (.socket, _): .gone
        // The device was deleted. All else is of one frame: a header that the kernel does not take, an interface that
        // is down.
        case (.tap, EBADFD): .gone
        case (.tap, _): .frame
        }
    }

    /// Whether an error of a read says that the link is gone.
    func isGone(_ code: Int32) -> Bool {
        switch self {
        case .socket: code != EAGAIN && code != ENOBUFS
        case .tap: code == EBADFD || code == EFAULT
        }
    }

    /// Tells whoever is behind it what the guest is and takes.
    func tell(isRunning: Bool, features: UInt64, mtu: UInt16, address: MACAddress) {
        switch self {
        case .socket(let socket):
            let message = NetRecord.guestMessage(
                isRunning: isRunning, features: features, mtu: mtu, address: address)
            let fd = socket.raw
            let flags = Int32(MSG_DONTWAIT | MSG_NOSIGNAL)
            // A network that does not read is told again at the next change, and misses offloads until then.
            _ = unsafe message.withUnsafeBytes { bytes in
                retryingInterrupts { unsafe send(fd, bytes.baseAddress, bytes.count, flags) }
            }
        case .tap(let tap):
            var offloads: TapDevice.Offloads = []
            if isRunning, features & NetFeature.guestCsum != 0 {
                offloads.insert(.checksums)
                if features & NetFeature.guestTSO4 != 0 { offloads.insert(.tcp4) }
                if features & NetFeature.guestTSO6 != 0 { offloads.insert(.tcp6) }
                if features & NetFeature.guestUFO != 0 { offloads.insert(.udp) }
            }
            tap.setOffloads(offloads)
        }
    }
}
