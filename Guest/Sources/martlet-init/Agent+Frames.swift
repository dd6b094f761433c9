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
        case .identify: identify(frame)
        case .configure: configure(frame)
        case .freeze: freeze(frame)
        case .thaw: thaw(frame)
        case .arrange: arrange(frame)
        case .request: open(frame)
        case .go, .data, .end, .credit, .signal, .hangUp: pass(frame, kind)
        case .shutDown: Power.off(self)
        case .failure:
            if let refusal = Refusal(frame.payload) { System.say(text("the host: ") + refusal.message) }
            Power.off(self)
        case .configured, .accepted, .refused, .started, .exited, .activity, .stop, .identified, .frozen, .thawed,
            .running, .save, .saved, .fork, .forked, .connect, .disconnect, .networksChanged, .arranged:
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
        // Nothing of a container comes into a machine that may still be like another.
        guard role != .container || isIdentified else { fail(text("a configuration before an identity")) }
        var report = StepReport()
        do throws(SystemFailure) {
            try become(configuration, &report)
        } catch {
            fail(error.message)
        }
        isConfigured = true
        configuredAt = guest_monotonic_clock()
        connection.send(.configured, report.payload)
    }

    private func become(_ configuration: Configuration, _ report: inout StepReport) throws(SystemFailure) {
        if configuration.clock != 0 { try System.check(guest_set_clock(configuration.clock), "clock_settime") }
        if !configuration.entropy.isEmpty {
            try System.check(guest_add_entropy(configuration.entropy, configuration.entropy.count), "add entropy")
        }
        switch configuration.root {
        case .image:
            if let slot = configuration.rootSlot {
                try step("disk", &report) { () throws(SystemFailure) in try DeviceSlot.find(slot) }
            }
            try step("root", &report) { () throws(SystemFailure) in
                try Container.prepare(device: configuration.rootDevice)
            }
            container = Container(configuration, machineID: machineID)
        case .share:
            try host.enter(configuration)
        }
        if !configuration.hostname.isEmpty { try System.setHostname(configuration.hostname) }
        if role != .container { try System.check(guest_loopback_up(), "bring up lo") }
        if !configuration.interfaces.isEmpty {
            try step("network", &report) { () throws(SystemFailure) in try setUp(configuration.interfaces) }
        }
    }

    private func setUp(_ interfaces: [InterfaceSettings]) throws(SystemFailure) {
        for interface in interfaces {
            if let slot = interface.slot { try DeviceSlot.find(slot) }
            // Of several, one is the way to other networks; a single one may be by what a router there says.
            if interfaces.count > 1 {
                try NetworkInterface.add(interface)
            } else {
                try NetworkInterface.configure(interface)
            }
        }
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
