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
    func handle(_ frame: Frame) {
        guard let kind = frame.kind else { return }
        guard hasHello || kind == .hello || kind == .failure else { fail(text("a frame before hello")) }
        switch kind {
        case .hello: greet(frame)
        case .configure: configure(frame)
        case .request: open(frame)
        case .go, .data, .end, .credit, .signal, .hangUp: pass(frame, kind)
        case .shutDown: Power.off(self)
        case .failure:
            if let refusal = Refusal(frame.payload) { System.say(text("the host: ") + refusal.message) }
            Power.off(self)
        case .configured, .accepted, .refused, .started, .exited, .activity, .stop:
            fail(text("a frame that only the guest sends"))
        }
    }

    private func greet(_ frame: Frame) {
        guard !hasHello, let hello = Hello(frame.payload) else { fail(text("not a hello")) }
        guard hello.major == ProtocolVersion.major else {
            fail(text("protocol version ") + text(hello.major) + text(" is not ") + text(ProtocolVersion.major))
        }
        hasHello = true
    }

    private func configure(_ frame: Frame) {
        guard !isConfigured, let configuration = Configuration(frame.payload) else { fail(text("not a configuration")) }
        do throws(SystemFailure) {
            try become(configuration)
        } catch {
            fail(error.message)
        }
        isConfigured = true
        configuredAt = guest_monotonic_clock()
        connection.send(.configured)
    }

    private func become(_ configuration: Configuration) throws(SystemFailure) {
        if configuration.clock != 0 { try System.check(guest_set_clock(configuration.clock), "clock_settime") }
        if !configuration.entropy.isEmpty {
            try System.check(guest_add_entropy(configuration.entropy, configuration.entropy.count), "add entropy")
        }
        switch configuration.root {
        case .image:
            try Container.prepare(device: configuration.rootDevice)
            container = Container(configuration)
        case .share:
            try host.enter(configuration)
        }
        if !configuration.hostname.isEmpty {
            try System.check(
                guest_set_hostname(configuration.hostname, configuration.hostname.count), "sethostname",
                configuration.hostname)
        }
        try System.check(guest_loopback_up(), "bring up lo")
    }

    private func open(_ frame: Frame) {
        let id = frame.header.session
        guard isConfigured else { fail(text("a request before configure")) }
        guard sessions.allSatisfy({ $0.id != id }) else { fail(text("a session's number is used twice")) }
        guard let request = ProcessRequest(frame.payload) else { fail(text("not a request")) }
        if let reason = refusal(of: request) {
            connection.send(.refused, session: id, Refusal(exitCode: 125, message: reason).payload)
            return
        }
        do throws(SystemFailure) {
            try launch(request, session: id)
        } catch {
            connection.send(.refused, session: id, Refusal(exitCode: 125, message: error.message).payload)
        }
    }

    /// Why a request cannot even be tried.
    private func refusal(of request: ProcessRequest) -> [UInt8]? {
        guard sessions.count < Agent.sessionLimit else {
            return text("more than ") + text(Agent.sessionLimit) + text(" processes at a time")
        }
        for word in request.arguments + request.environment + [request.directory, request.user] where word.contains(0) {
            return text("an argument or a variable contains a NUL byte")
        }
        guard role == .container else { return nil }
        if request.isMain {
            return hasHadMain ? text("the container has its main process already") : nil
        }
        return mainProcess == 0 ? text("the container is not running") : nil
    }

    private func pass(_ frame: Frame, _ kind: FrameKind) {
        // Without a session of that number: the frame has crossed the one that ended it.
        guard let session = sessions.first(where: { $0.id == frame.header.session }) else { return }
        switch session.machine.receive(frame.header) {
        case .late: return
        case .illegal: fail(text("a frame of kind ") + text(frame.header.kind) + text(" out of its place"))
        case .taken: break
        }
        switch kind {
        case .go:
            if let go = session.go { _ = guest_write(go.raw, [1], 1) }
            session.go = nil
        case .data: session.input.append(frame.payload)
        case .end: session.input.isEnded = true
        case .signal:
            guard let message = NumberMessage(payload: frame.payload), message.number >= 1,
                message.number <= UInt64(SignalSets.highest)
            else { fail(text("not a signal")) }
            signal(session, Int32(message.number))
        case .hangUp: hangUp(session)
        default: break
        }
    }
}
