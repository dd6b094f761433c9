// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import MachineAPI
internal import Networks
internal import Platform
internal import Wire

/// A network that a running machine gets, or leaves, for a client.
struct Rearranging {
    var client: UInt64?
    var change: NetworkChange
    /// Its place in that network; in a list of those that it has, or, so far, of its own.
    let lease: NetworkLease
    /// The interface.
    let place: NetworkPlace
    /// The places that the machine has now, and is to have.
    let before: MachineNetworks
    let after: MachineNetworks
    var steps: [StepReport.Step] = []

    /// Whether the machine has this place afterwards.
    func isKept(_ lease: NetworkLease) -> Bool { change.kind == .connect || lease !== self.lease }
}

/// Connecting and disconnecting: the network's fabric, the monitor and the guest are asked in turn, and whatever one of
/// them does not do, what the others did is taken back. `NetworkChange` says what is done when.
extension Supervisor {
    /// How long a guest may take to set an interface up or let go of it, in milliseconds; and one that is not waited for.
    private static let arrangeLimit: UInt64 = 10_000
    private static let forcedLimit: UInt64 = 2000

    func connect(_ frame: Frame, _ client: UInt64) {
        do throws(WorkerError) {
            let (lease, place) = try join(try wish(in: frame))
            let before = machineNetworks
            var after = before
            after.places.append(place)
            let change = NetworkChange(.connect, isGuestBehind: isGuestBehind)
            rearranging = Rearranging(
                client: client, change: change, lease: lease, place: place, before: before, after: after)
            perform(change.start())
        } catch {
            refuse(client, "\(error)")
        }
    }

    func disconnect(_ frame: Frame, _ client: UInt64) {
        do throws(WorkerError) {
            guard let order = DisconnectOrder(frame.payload) else { throw .invalid("the order cannot be read") }
            let network = String(decoding: order.network, as: UTF8.self)
            if let problem = obstacle(isForced: order.isForced) { throw .invalid(problem) }
            let before = machineNetworks
            guard let index = before.places.firstIndex(where: { $0.wish.network == network }) else {
                throw .invalid("it is not in network \(network)")
            }
            var after = before
            let place = after.places.remove(at: index)
            guard place.wish.host == nil else { throw .invalid("it is in the host's own network, for all its life") }
            let change = NetworkChange(.disconnect(isForced: order.isForced), isGuestBehind: isGuestBehind)
            rearranging = Rearranging(
                client: client, change: change, lease: networks[index], place: place, before: before, after: after)
            perform(change.start())
        } catch {
            refuse(client, "\(error)")
        }
    }

    private func refuse(_ client: UInt64, _ reason: String) {
        var report = StepReport()
        report.failure = Array(reason.utf8)
        controls[client]?.queue(Frame(.networksChanged, payload: report.payload))
    }

    /// Why nothing can be changed now; nil where it can.
    private func obstacle(isForced: Bool) -> String? {
        guard machine.phase == .running else { return "the container is not running" }
        if rearranging != nil { return "its networks are just being changed for another" }
        if saving != nil { return "it is just being saved or forked" }
        return isGuestBehind && !isForced ? "its guest has not answered yet to an earlier change" : nil
    }

    // MARK: - A place in one more network

    private func wish(in frame: Frame) throws(WorkerError) -> NetworkWish {
        if let problem = obstacle(isForced: false) { throw .invalid(problem) }
        guard let order = ConnectOrder(frame.payload) else { throw .invalid("the order cannot be read") }
        var wish: NetworkWish
        do { wish = try NetworkWish(JSONView(try JSON(parsing: order.wish))) } catch {
            throw .invalid("the order cannot be read: \(error)")
        }
        let present = machineNetworks.places
        guard wish.host == nil, !present.contains(where: { $0.wish.host != nil }) else {
            throw .invalid("the host's own network goes with no other")
        }
        guard !present.contains(where: { $0.wish.network == wish.network }) else {
            throw .invalid("it is in network \(wish.network) already")
        }
        guard !present.contains(where: { $0.hardwareAddress == wish.hardwareAddress }) else {
            throw .invalid("it has an interface with the Ethernet address \(wish.hardwareAddress) already")
        }
        let names = present.map(\.wish.interfaceName)
        guard present.count < ContainerConfiguration.networkLimit,
            let name = NetworkWish.interfaceNames.first(where: { !names.contains($0) })
        else {
            throw .invalid("it is in \(present.count) networks already, and has no place for another interface")
        }
        wish.interfaceName = name
        wish.formerHardwareAddress = nil
        // What the machine may reach outside does not depend on the way that it takes.
        wish.egress = preferences.egress
        wish.isEgressAudited = preferences.isEgressAudited
        wish.hasHostAccess = preferences.hasHostAccess
        return wish
    }

    private func join(_ wish: NetworkWish) throws(WorkerError) -> (NetworkLease, NetworkPlace) {
        let lease: NetworkLease
        let place: NetworkPlace
        do {
            lease = try NetworkLease(configuration, wish)
            place = try lease.settle()
        } catch {
            throw .invalid("\(error)")
        }
        if let conflict = machineNetworks.conflict(with: place) { throw .invalid(conflict) }
        return (lease, place)
    }

    // MARK: - Step by step

    private func feed(_ event: NetworkChange.Event) {
        guard var change = rearranging?.change else { return }
        let actions = change.handle(event)
        rearranging?.change = change
        perform(actions)
    }

    private func perform(_ actions: [NetworkChange.Action]) {
        for action in actions {
            guard let current = rearranging else { return }
            let interface = current.place.wish.interface(of: configuration.id)
            switch action {
            case .attachDevice:
                ask("PUT", "/network-interfaces/\(interface.identifier)", interface.json) { [unowned self] answer in
                    feed(.attached(answer.refusal))
                }
            case .removeDevice:
                ask("DELETE", "/network-interfaces/\(interface.identifier)", nil) { [unowned self] answer in
                    feed(.removed(answer.refusal))
                }
            case .locateDevice:
                ask("GET", "/introspection", nil) { [unowned self] answer in
                    feed(.located(answer.slot(of: interface.identifier)))
                }
            case .arrange(let slot): arrange(current, slot: slot)
            case .stopWaiting: arm(.rearranging, milliseconds: nil)
            case .finish(let failure): finish(current, failure)
            case .giveUp(let reason): tell(current, reason)
            }
        }
    }

    private func ask(
        _ method: String, _ target: String, _ body: JSON?, then: @escaping (MonitorClient.Answer) -> Void
    ) {
        api.ask(method, target, body, epoll: epoll, then: then)
    }

    private func arrange(_ current: Rearranging, slot: Int) {
        var order = current.before.arrangement(to: current.after, slot: slot)
        order.hosts = configuration.hostsFile(current.after)
        order.resolvConf = current.after.resolvConf
        // Before the container looks for names in another way, the networks know what they are to answer.
        let leases = current.change.kind == .connect ? networks + [current.lease] : networks
        for (index, lease) in leases.filter({ current.isKept($0) }).enumerated() {
            lease.set(current.after.others(of: index))
        }
        guest?.queue(Frame(.arrange, payload: order.payload))
        let isForced = current.change.kind == .disconnect(isForced: true)
        arm(.rearranging, milliseconds: isForced ? Self.forcedLimit : Self.arrangeLimit)
    }

    func takeArranged(_ frame: Frame) {
        guard let report = StepReport(frame.payload) else { return feed(.guestFailed("a report that cannot be read")) }
        if isGuestBehind {
            isGuestBehind = false
            return
        }
        rearranging?.steps += report.steps
        feed(.arranged(report))
    }

    /// Nobody waits for ever for a guest.
    func guestDidNotRearrange() {
        isGuestBehind = true
        feed(.silence)
    }

    private func finish(_ current: Rearranging, _ failure: [UInt8]) {
        if current.change.kind == .connect {
            networks.append(current.lease)
            watch(current.lease)
        } else {
            watchNoLonger(current.lease)
            networks.removeAll { $0 === current.lease }
        }
        configuration.networks = current.after.wishes
        state.networks = current.after.places.map(\.json)
        writeConfiguration()
        writeState()
        tell(current, failure)
    }

    /// Ends the change. Where it came to nothing, the lease of a place that is not needed goes with it.
    private func tell(_ current: Rearranging, _ failure: [UInt8]) {
        rearranging = nil
        // What the fabrics were told of it does not hold any more.
        networksChanged()
        var report = StepReport()
        report.steps = Array(current.steps.prefix(StepReport.limit))
        report.failure = failure
        if let client = current.client { controls[client]?.queue(Frame(.networksChanged, payload: report.payload)) }
    }

    private func writeConfiguration() {
        do throws(SystemError) {
            try Files.writeAtomically(
                configuration.json.encoded(indented: true), to: MachineFile.configuration, permissions: 0o600,
                durable: true)
        } catch {
            say("the machine's configuration cannot be written: \(error)")
        }
    }
}

extension MonitorClient.Answer {
    /// Where an introspection finds an interface.
    fileprivate func slot(of interface: String) -> Int? {
        guard case .done(let body) = self, let slots = try? JSON(parsing: body)["slots"]?.arrayValue else { return nil }
        return slots.firstIndex { $0.stringValue == "network interface \(interface)" }
    }
}
