// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import GuestProtocol
internal import Networks
internal import Packet
internal import Platform
internal import Sessions

/// From the guest's first word to serving.
extension HostKeeper {
    /// The session that prepares the host; the relay's numbers come after it.
    static let setupSession: UInt32 = 1

    func receiveFromGuest(_ frame: Frame) throws(SessionError) {
        if frame.kind == .activity || frame.kind == .failure {
            do throws(SystemError) {
                try perform(relay.receiveFromGuest(frame))
                try watchIdleness()
            } catch {
                throw .system(error)
            }
            return
        }
        switch phase {
        case .booting:
            guard frame.kind == .hello, let hello = Hello(frame.payload) else {
                throw .violation("something other than hello first")
            }
            guard hello.major == ProtocolVersion.major else { throw .versionMismatch(theirs: hello.major) }
            guest.queue(Frame(.hello, payload: Hello().payload))
            guest.queue(Frame(.configure, payload: HostKeeper.guestConfiguration(hasFabric: network != nil).payload))
            phase = .configuring
        case .configuring:
            guard frame.kind == .configured else { throw .violation("something other than configured") }
            guest.queue(
                Frame(
                    .request, session: HostKeeper.setupSession,
                    payload: HostKeeper.setupRequest(user: getuid(), group: getgid(), outerHost: network?.outerHost)
                        .payload))
            phase = .preparing(ClientSession(identifier: HostKeeper.setupSession))
        case .preparing(var session):
            try receiveFromSetup(try session.receive(frame), &session)
            if case .preparing = phase { phase = .preparing(session) }
        case .serving, .stopping:
            do throws(SystemError) {
                try perform(relay.receiveFromGuest(frame))
                if frame.kind == .exited || frame.kind == .refused { try watchIdleness() }
            } catch {
                throw .system(error)
            }
        }
    }

    private func receiveFromSetup(
        _ event: ClientSession.Event, _ session: inout ClientSession
    ) throws(SessionError) {
        switch event {
        case .accepted: guest.queue(Frame(.go, session: HostKeeper.setupSession))
        case .output(let stream, let bytes):
            setupOutput.append(bytes[...])
            if let credit = session.consumed(bytes.count, of: stream) { guest.queue(credit) }
        case .refused(let refusal):
            ending = .failed("it cannot be set up: \(String(decoding: refusal.message, as: UTF8.self))")
        case .exited(let report) where report.shellStatus == 0:
            do throws(SystemError) { try serve() } catch { throw .system(error) }
        case .exited: ending = .failed("it cannot be set up: \(setupOutput.line)")
        case .nothing, .started, .outputEnded, .inputExtended, .inputClosed: break
        }
    }

    /// Opens the door, and tells the starter.
    private func serve() throws(SystemError) {
        let paths = configuration.paths
        let socket = try UnixSocket.listen(at: paths.socket)
        try epoll.add(socket.raw, [.readable], token: Token.listener)
        listener = consume socket
        let record = HostRecord(
            keeper: getpid(), emulator: emulator.pid, socket: paths.socket, startedAt: wallClockNanoseconds(),
            memoryInMiB: configuration.memoryInMiB)
        try Files.writeAtomically(Array(record.text.utf8), to: paths.record, permissions: 0o600)
        phase = .serving
        HostKeeper.say("serving at \(paths.socket)")
        try watchIdleness()
        HostKeeper.tell(.ready, report)
        report = nil
        startLock = nil
    }

    /// What the guest is to become.
    /// - Parameter hasFabric: a fabric is its network, and not QEMU.
    static func guestConfiguration(hasFabric: Bool) -> Configuration {
        var configuration = Configuration()
        configuration.root = .share
        configuration.shareTag = Array(QEMUCommand.shareTag.utf8)
        configuration.stateDevice = Array(QEMUCommand.stateDevice.utf8)
        configuration.stateMountPoint = Array(QEMUCommand.stateMountPoint.utf8)
        configuration.clock = wallClockNanoseconds()
        var interface = InterfaceSettings(hardwareAddress: QEMUCommand.hardwareAddress.bytes)
        if let address = InterfaceSettings.Address(bytes: QEMUCommand.guestAddress.bytes, prefixLength: 24) {
            interface.addresses = [address]
        }
        interface.gateways = [QEMUCommand.gateway.bytes]
        if hasFabric { interface.mtu = QEMUCommand.fabricMTU }
        configuration.interfaces = [interface]
        let nameServer = hasFabric ? QEMUCommand.gateway : QEMUCommand.emulatorsNameServer
        configuration.resolvConf = Array("nameserver \(nameServer)\n".utf8)
        if let random = try? Descriptor.open("/dev/urandom", .readOnly) {
            var seed = [UInt8](repeating: 0, count: 64)
            let count = try? unsafe seed.withUnsafeMutableBytes { try unsafe random.readFully(into: $0, at: 0) }
            if count == seed.count { configuration.entropy = seed }
        }
        return configuration
    }

    /// A shell inside makes the user's own directories, and lets the user use KVM, and publish ports out here.
    static func setupRequest(user: UInt32, group: UInt32, outerHost: OuterHost?) -> ProcessRequest {
        let script = """
            set -e
            if [ ! -c /dev/kvm ]; then
                echo 'no /dev/kvm in it: the kernel lacks KVM_AMD, or this QEMU emulates no SVM' >&2
                exit 1
            fi
            chmod 0666 /dev/kvm
            umask 077
            mkdir -p "$1" "$2/martlet"
            if [ -n "$4" ]; then printf %s "$4" > "$2/martlet/\(OuterHost.fileName)"; fi
            chown -R "$3" "$2"
            chown "$3" "$1"
            chmod 0755 \(QEMUCommand.stateMountPoint)
            """
        let words = [
            "/bin/sh", "-c", script, "setup", InsideEnvironment.home(user: user),
            InsideEnvironment.runtime(user: user), "\(user):\(group)",
            outerHost.map { "\($0.json)" } ?? "",
        ]
        var request = ProcessRequest()
        request.arguments = words.map { Array($0.utf8) }
        request.environment = [Array("PATH=/usr/sbin:/usr/bin:/sbin:/bin".utf8)]
        request.directory = Array("/".utf8)
        return request
    }
}
