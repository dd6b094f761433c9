// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// Why a TAP device cannot be used. The words are those that Firecracker's clients know.
package enum TapError: Error, Equatable, Sendable, CustomStringConvertible {
    case cannotOpen(SystemError)
    case badName
    /// The device cannot be made or joined: it is in use (EBUSY), another's (EPERM), or no TAP (EINVAL).
    case cannotAttach(String, SystemError)
    case cannotSetHeader(SystemError)
    /// A descriptor that was handed over and is no queue of a TAP with virtio headers.
    case notATap(Int32)

    package var description: String {
        switch self {
        case .cannotOpen(let error): "Open tap device failed: Couldn't open /dev/net/tun: \(Self.text(error))"
        case .badName: "Open tap device failed: Invalid interface name"
        case .cannotAttach(let name, let error):
            "Open tap device failed: Error while creating ifreq structure: \(Self.text(error)). Invalid TUN/TAP "
                + "Backend provided by \(name). Check our documentation on setting up the network devices."
        case .cannotSetHeader(let error):
            "Setting vnet header size failed: Error while setting size of the vnet header: \(Self.text(error))"
        case .notATap(let number):
            "Open tap device failed: the descriptor \(number) is no TAP device with Ethernet frames and virtio "
                + "headers (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR), and no socket of records"
        }
    }

    private static func text(_ error: SystemError) -> String { "\(error.reason) (os error \(error.code))" }
}

/// A queue of a TAP device: Ethernet frames with a virtio header of 12 bytes in front of each (virtio 1.2 §5.1.6), one
/// a read or write, non-blocking. A device that was made by opening it goes with its last descriptor.
package final class TapDevice: Sendable {
    package let descriptor: Descriptor
    package let name: String
    /// The device was found by its name and takes more queues.
    private let takesMore: Bool

    /// In bytes.
    package static let headerSize = 12
    /// The longest name, in bytes.
    package static let nameLimit = 15

    private static let kind = clinux_tap_ethernet | clinux_tap_no_information | clinux_tap_virtio_header

    /// Opens a device by its name, or makes one of that name, which takes CAP_NET_ADMIN.
    /// - Parameter severalQueues: one that is made takes more queues than this.
    package init(_ name: String, severalQueues: Bool = false) throws(TapError) {
        guard Self.isName(name) else { throw .badName }
        let file: Descriptor
        do throws(SystemError) {
            file = try Descriptor.open("/dev/net/tun", .readWrite.nonBlocking)
        } catch {
            throw .cannotOpen(error)
        }
        let raw = file.raw
        func attach(several: Bool) -> Bool {
            unsafe clinux_tap_attach(raw, name, Int32(Self.kind | (several ? clinux_tap_several_queues : 0))) == 0
        }
        var isSeveral = severalQueues
        // A device that was made for several queues takes no other kind, and the reverse.
        if !attach(several: isSeveral) {
            let code = clinux_errno()
            isSeveral.toggle()
            guard code == EINVAL, attach(several: isSeveral) else {
                throw .cannotAttach(name, SystemError("ioctl", "TUNSETIFF", code: code))
            }
        }
        self.name = name
        takesMore = isSeveral
        descriptor = file
        try setHeader()
    }

    /// Takes over a descriptor that was opened elsewhere.
    package init(adopting file: consuming Descriptor) throws(TapError) {
        var bytes = InlineArray<16, CChar>(repeating: 0)
        let raw = file.raw
        let flags = unsafe withUnsafeMutableBytes(of: &bytes) { space in
            unsafe clinux_tap_flags(raw, space.baseAddress?.assumingMemoryBound(to: CChar.self))
        }
        let wanted = Int32(Self.kind)
        guard flags >= 0, flags & wanted == wanted else { throw .notATap(raw) }
        var name: [UInt8] = []
        for index in 0..<16 where bytes[index] != 0 { name.append(UInt8(bitPattern: bytes[index])) }
        self.name = String(decoding: name, as: UTF8.self)
        // Its name may be another device's here: it can come from another network namespace.
        takesMore = false
        descriptor = file
        do throws(SystemError) { try descriptor.setNonBlocking() } catch { throw .cannotOpen(error) }
        try setHeader()
    }

    private func setHeader() throws(TapError) {
        guard clinux_tap_set_header_size(descriptor.raw, Int32(Self.headerSize)) == 0 else {
            throw .cannotSetHeader(SystemError("ioctl", "TUNSETVNETHDRSZ"))
        }
        // Until a reader says more: whole frames, with their checksums.
        setOffloads([])
    }

    /// This queue and others of the same device, `count` in all; this one alone where the device takes no others. The
    /// kernel uses no other than this one until `setUse` says so.
    package func queues(_ count: Int) throws(TapError) -> [TapDevice] {
        var queues = [self]
        while takesMore, queues.count < count {
            let queue = try TapDevice(name, severalQueues: true)
            guard queue.setUse(false) else { throw .cannotAttach(name, SystemError("ioctl", "TUNSETQUEUE")) }
            queues.append(queue)
        }
        return queues
    }

    /// Has the kernel steer frames to this queue, one of several, or not. One that is not used can neither be read nor
    /// written.
    /// - Returns: whether it does.
    package func setUse(_ isUsed: Bool) -> Bool { clinux_tap_set_use(descriptor.raw, isUsed ? 1 : 0) == 0 }

    package var raw: Int32 { descriptor.raw }

    /// What its reader takes; all else the kernel completes and cuts before.
    package struct Offloads: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static let checksums = Offloads(rawValue: UInt32(clinux_tap_checksums))
        package static let tcp4 = Offloads(rawValue: UInt32(clinux_tap_tcp4))
        package static let tcp6 = Offloads(rawValue: UInt32(clinux_tap_tcp6))
        package static let udp = Offloads(rawValue: UInt32(clinux_tap_udp))
    }

    /// A set that the kernel does not know changes nothing.
    package func setOffloads(_ offloads: Offloads) {
        _ = clinux_ioctl(descriptor.raw, CLINUX_TUNSETOFFLOAD, UInt(offloads.rawValue))
    }

    /// Whether a device of the host could have this name: 1 to 15 bytes without a slash or a space.
    package static func isName(_ text: String) -> Bool {
        (1...nameLimit).contains(text.utf8.count) && text != "." && text != ".."
            && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: ":") }
    }
}

/// Network devices of the calling thread's network namespace.
package enum NetworkDevice {
    /// The longest packet of a device, in bytes; nil where there is none of this name.
    package static func mtu(of name: String) -> UInt32? {
        let mtu = unsafe clinux_device_mtu(name)
        return mtu > 0 ? UInt32(mtu) : nil
    }
}
