// SPDX-License-Identifier: Apache-2.0

// Zone 1: the keeper's thread and loop.

internal import Fabric
internal import FabricAPI
internal import Glibc
internal import Networks
internal import Packet
internal import Platform

/// The emulated host's own network: it is a machine of a fabric on this side, as others are. What leaves it are sockets
/// of the user's; it may publish ports here, which its machines' ports become (`OuterHost`).
///
/// QEMU hands its frames over as datagrams, the fabric wants records that begin with virtio's header. Each side holds
/// the other back: what one does not take yet waits, a single frame, and nothing more is read meanwhile.
final class HostNetwork {
    /// The host's, in its network.
    private static let machine = "host"
    private static let headerLength = VirtioNetHeader.length
    /// Longer than any frame; as many are carried in one turn.
    private static let spaceLength = 70_000
    private static let turn = 64

    private let store: NetworkStore
    /// Of this keeper's own: the fabric of one that was killed goes on for a moment.
    private let name: String
    private let program: String
    /// What the host inside needs, to publish.
    let outerHost: OuterHost
    private let emulator: Descriptor
    private var lease: FabricConnection?
    private var port: Descriptor?
    private var timer: Timer
    private var delay: UInt64 = 0
    private var outward = Passage()
    private var inward = Passage()

    /// One direction: a frame that waits, and the space that it lies in.
    private struct Passage {
        /// A record without any offload: the header is zero.
        var space = [UInt8](repeating: 0, count: HostNetwork.spaceLength)
        var held = 0..<0
    }

    /// - Parameters:
    ///   - program: `martlet-fabric`.
    ///   - directory: of this network's own; made here.
    ///   - emulator: the end of the socket whose other end QEMU has; takes and gives a frame a datagram.
    init(program: String, directory: String, emulator: consuming Descriptor) throws(EmulatedHostError) {
        self.program = program
        self.emulator = emulator
        store = NetworkStore(definitions: directory, running: directory)
        var generator = SystemRandomNumberGenerator()
        func digits() -> String {
            let text = String(generator.next() as UInt64, radix: 16)
            return String(repeating: "0", count: 16 - text.utf8.count) + text
        }
        let token = digits() + digits()
        name = "host-\(digits())"
        outerHost = OuterHost(
            address: QEMUCommand.guestAddress, gateway: QEMUCommand.gateway, token: token,
            loopback: QEMUCommand.loopbackAddress)
        timer = try platform { () throws(SystemError) in try Timer() }
        for other in store.names() { try? store.remove(other) }
        var definition = NetworkDefinition(name: name)
        definition.subnet = IPv4Prefix(QEMUCommand.gateway, length: 24)
        definition.gateway = QEMUCommand.gateway
        do throws(NetworkError) {
            _ = try store.create(definition, choosesIPv6: false, random: 0)
            try attach()
        } catch {
            throw .notStarted("it has no network: \(error)")
        }
    }

    private func attach() throws(NetworkError) {
        var connection = try FabricConnection(to: name, of: store, program: program)
        var attachment = FabricRequest.Attachment(id: HostNetwork.machine, name: HostNetwork.machine)
        attachment.hardwareAddress = QEMUCommand.hardwareAddress
        attachment.address = QEMUCommand.guestAddress
        attachment.hasHostAccess = true
        attachment.token = outerHost.token
        guard case .attached(let endpoint) = try connection.ask(.attach(attachment)) else {
            throw .malformed("the answer of the host's network", "it does not say what it attached")
        }
        do throws(SystemError) {
            port = try UnixSocket.connect(to: endpoint.socketPath, kind: .records, nonBlocking: true)
        } catch {
            throw .system(error)
        }
        lease = consume connection
    }

    /// Ends it, in order.
    func end() {
        if var lease = lease.take() { _ = try? lease.ask(.detach(id: HostNetwork.machine)) }
        port = nil
        try? store.remove(name)
    }

    // MARK: - Watching

    /// Watches all that there is.
    func watch(_ epoll: borrowing Epoll) throws(SystemError) {
        try epoll.add(emulator.raw, .readable, token: HostKeeper.Token.emulatorFrames)
        try epoll.add(timer.descriptor.raw, .readable, token: HostKeeper.Token.networkTimer)
        try watchFabric(epoll)
    }

    private func watchFabric(_ epoll: borrowing Epoll) throws(SystemError) {
        if let raw = rawPort { try epoll.add(raw, .readable, token: HostKeeper.Token.fabricFrames) }
        switch lease {
        case .some(let lease):
            try epoll.add(lease.descriptor, [.readable, .peerClosed], token: HostKeeper.Token.fabricLease)
        case .none: break
        }
    }

    private var rawPort: Int32? {
        switch port {
        case .some(let port): port.raw
        case .none: nil
        }
    }

    /// The fabric has ended, or could not be had again some time ago: another is started, and the host gets its place.
    /// Its connections are reset; what its machines publish they publish again.
    func restore(_ epoll: borrowing Epoll) throws(SystemError) {
        _ = timer.drain()
        switch lease {
        case .some(let lease):
            guard lease.isLost else { return }
            try? epoll.remove(lease.descriptor)
        case .none: break
        }
        lease = nil
        try disconnect(epoll)
        do throws(NetworkError) {
            try attach()
        } catch {
            delay = min(60_000, max(250, delay * 2))
            HostKeeper.say("the host's network has ended: \(error)")
            return try timer.arm(afterMilliseconds: delay)
        }
        delay = 0
        HostKeeper.say("the host's network had ended, and was started again")
        try watchFabric(epoll)
    }

    private func disconnect(_ epoll: borrowing Epoll) throws(SystemError) {
        guard let raw = rawPort else { return }
        try? epoll.remove(raw)
        port = nil
        outward.held = 0..<0
        try epoll.modify(emulator.raw, interest(isHolding: false, owes: inward), token: HostKeeper.Token.emulatorFrames)
    }

    // MARK: - Frames

    /// Carries what there is, both ways.
    func carry(_ epoll: borrowing Epoll) throws(SystemError) {
        carryOutward()
        let isConnected = carryInward()
        guard isConnected else { return try disconnect(epoll) }
        try epoll.modify(
            emulator.raw, interest(isHolding: !outward.held.isEmpty, owes: inward),
            token: HostKeeper.Token.emulatorFrames)
        if let raw = rawPort {
            try epoll.modify(
                raw, interest(isHolding: !inward.held.isEmpty, owes: outward), token: HostKeeper.Token.fabricFrames)
        }
    }

    private func interest(isHolding: Bool, owes: borrowing Passage) -> Readiness {
        var result: Readiness = isHolding ? [] : .readable
        if !owes.held.isEmpty { result.insert(.writable) }
        return result
    }

    private func carryOutward() {
        for _ in 0..<HostNetwork.turn {
            if outward.held.isEmpty {
                guard let count = read(emulator, into: &outward.space, at: HostNetwork.headerLength), count > 0 else {
                    return
                }
                outward.held = 0..<(HostNetwork.headerLength + count)
            }
            switch port {
            case .some(let port): guard write(outward.space, outward.held, to: port) else { return }
            // What is sent while there is no network is lost, as elsewhere.
            case .none: break
            }
            outward.held = 0..<0
        }
    }

    /// Gives false when the fabric has gone.
    private func carryInward() -> Bool {
        for _ in 0..<HostNetwork.turn {
            if inward.held.isEmpty {
                let count: Int?
                switch port {
                case .some(let port): count = read(port, into: &inward.space, at: 0)
                case .none: return true
                }
                guard let count else { return true }
                guard count > 0 else { return false }
                // What is shorter than a frame is a message; QEMU has no use for one.
                guard count >= HostNetwork.headerLength + EthernetHeader.length else { continue }
                inward.held = HostNetwork.headerLength..<count
            }
            guard write(inward.space, inward.held, to: emulator) else { return true }
            inward.held = 0..<0
        }
        return true
    }

    /// The length of the next frame; 0 at the end, nil where none waits.
    private func read(_ socket: borrowing Descriptor, into space: inout [UInt8], at offset: Int) -> Int? {
        let transfer = unsafe space.withUnsafeMutableBytes { bytes in
            Result { () throws(SystemError) in
                try unsafe socket.read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[offset...]))
            }
        }
        switch transfer {
        case .success(.bytes(let count)): return count
        case .success(.wouldBlock): return nil
        case .success(.endOfFile), .failure: return 0
        }
    }

    /// Gives false where it has to wait. A frame that cannot be sent at all is lost.
    private func write(_ space: [UInt8], _ range: Range<Int>, to socket: borrowing Descriptor) -> Bool {
        let transfer = unsafe space.withUnsafeBytes { bytes in
            Result { () throws(SystemError) in
                try unsafe socket.write(UnsafeRawBufferPointer(rebasing: bytes[range]))
            }
        }
        if case .success(.wouldBlock) = transfer { return false }
        return true
    }
}
