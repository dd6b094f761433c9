// SPDX-License-Identifier: Apache-2.0

internal import FabricAPI
internal import Glibc
internal import Networks
internal import Packet

/// A machine's lease of its place in a network of ours: held by the connection to the fabric, and given up by letting go
/// of it.
/// Where this host is itself a machine of another, whose ports are published then, there is a second connection, to
/// that one's fabric, by which they are held.
///
///     asked ──settle──▶ held ──a fabric was killed──▶ lost ──restore──▶ held
///
/// Asking is apart from the answer, so that a machine's monitor starts while the fabric does.
final class FabricLease {
    private let wish: NetworkWish
    private let store: NetworkStore
    private let outerHost: OuterHost?
    private var attachment: FabricRequest.Attachment
    private var starting: StartedFabric?
    private var fabric: FabricConnection?
    private var outer: FabricConnection?
    /// What it has, once it is settled.
    private(set) var place: NetworkPlace?

    /// Asks for the place that a machine was to have.
    init(_ configuration: ContainerConfiguration, _ wish: NetworkWish) throws(NetworkError) {
        self.wish = wish
        store = NetworkStore(definitions: wish.definitions, running: wish.running)
        outerHost = wish.published.isEmpty ? nil : store.outerHost
        attachment = FabricRequest.Attachment(id: configuration.id, name: configuration.name)
        attachment.hardwareAddress = wish.hardwareAddress
        attachment.address = wish.address
        attachment.address6 = wish.address6
        attachment.aliases = wish.aliases
        // A host name that was given to the container that was saved is that one's in the network.
        let isOwn = wish.isAdded || configuration.id.hasPrefix(configuration.process.hostname)
        if isOwn, configuration.process.hostname != configuration.name {
            attachment.aliases.append(configuration.process.hostname)
        }
        attachment.published = outerHost == nil ? wish.published : []
        attachment.egress = wish.egress
        attachment.isEgressAudited = wish.isEgressAudited
        attachment.hasHostAccess = wish.hasHostAccess
        if let found = try FabricConnection(toRunning: wish.network, of: store) {
            // One that is just ending is found out when its answer does not come.
            try? found.send(.attach(attachment))
            fabric = consume found
        } else {
            starting = try StartedFabric(wish.network, of: store, program: wish.program)
        }
    }

    /// Waits until the machine has its place, with all that was asked for.
    func settle() throws(NetworkError) -> NetworkPlace {
        if let place { return place }
        var endpoint: FabricReply.Endpoint
        if let answer = try firstAnswer() { endpoint = answer } else { endpoint = try attach() }
        if let outerHost {
            attachment.published = try publishInside(outerHost)
            endpoint.published = try publishOutside(outerHost, wish.published)
        } else {
            attachment.published = endpoint.published
        }
        // What it got it keeps, whatever becomes of the fabric.
        attachment.hardwareAddress = endpoint.hardwareAddress
        attachment.address = endpoint.address
        attachment.address6 = endpoint.address6
        let place = NetworkPlace(wish: wish, endpoint: endpoint)
        self.place = place
        return place
    }

    /// The answer of the fabric that ran already; nil where there was none, or it has ended meanwhile.
    private func firstAnswer() throws(NetworkError) -> FabricReply.Endpoint? {
        guard var found = fabric.take() else { return nil }
        do throws(NetworkError) {
            let reply = try found.receive()
            fabric = consume found
            return try endpoint(reply)
        } catch {
            guard case .system = error else { throw error }
            return nil
        }
    }

    private func attach() throws(NetworkError) -> FabricReply.Endpoint {
        if let starting = starting.take() { try starting.wait() }
        var connection = try FabricConnection(to: wish.network, of: store, program: wish.program)
        let reply = try connection.ask(.attach(attachment))
        fabric = consume connection
        return try endpoint(reply)
    }

    private func endpoint(_ reply: FabricReply) throws(NetworkError) -> FabricReply.Endpoint {
        guard case .attached(let endpoint) = reply else {
            throw .malformed("the answer of network \(wish.network)", "it does not say what it attached")
        }
        return endpoint
    }

    /// Tells the fabric in which other networks the machine is. One that has ended just now is told when the place is
    /// taken again.
    func set(_ others: OtherNetworks?) {
        guard attachment.others != others else { return }
        attachment.others = others
        guard var connection = fabric.take() else { return }
        _ = try? connection.ask(.setOthers(id: attachment.id, others))
        fabric = consume connection
    }

    // MARK: - Ports of the outer host

    /// Publishes at ports of this host's, to which the outer host's lead.
    private func publishInside(_ outerHost: OuterHost) throws(NetworkError) -> [PublishedPorts] {
        guard var connection = fabric.take() else { return [] }
        var generator = SystemRandomNumberGenerator()
        var result: [PublishedPorts] = []
        for ports in wish.published {
            var attempt = 0
            while true {
                let inside = outerHost.inside(ports, attempt: attempt, random: generator.next())
                do throws(NetworkError) {
                    _ = try connection.ask(.publish(id: attachment.id, [inside]))
                    result.append(inside)
                    break
                } catch {
                    guard case .refused(let refusal, _) = error, refusal == .taken || refusal == .forbidden,
                        attempt < 64
                    else { throw error }
                    attempt += 1
                }
            }
        }
        fabric = consume connection
        return result
    }

    /// Has the outer host publish what leads to the ports inside.
    /// - Returns: the ports as their users see them.
    private func publishOutside(
        _ outerHost: OuterHost, _ wanted: [PublishedPorts]
    ) throws(NetworkError) -> [PublishedPorts] {
        var connection = try FabricConnection.asMachine(of: outerHost)
        let asked = zip(wanted, attachment.published).map { wanted, inside in
            var ports = wanted
            ports.machinePort = inside.hostPort
            return ports
        }
        guard case .published(let chosen) = try connection.ask(.publish(id: attachment.id, asked)),
            chosen.count == wanted.count
        else { throw .malformed("the answer of the host outside", "it does not say what it published") }
        outer = consume connection
        return zip(wanted, chosen).map { wanted, chosen in
            var ports = wanted
            ports.hostPort = chosen.hostPort
            return ports
        }
    }

    // MARK: - Fabrics that are lost

    /// Readable when the fabric has ended, or what holds the outer host's ports.
    var descriptors: [Int32] {
        var result: [Int32] = []
        switch fabric {
        case .some(let connection): result.append(connection.descriptor)
        case .none: break
        }
        switch outer {
        case .some(let connection): result.append(connection.descriptor)
        case .none: break
        }
        return result
    }

    /// Takes again what was lost with a fabric that has ended: the same place, and the same ports. Where that fails it
    /// may be tried again.
    /// - Returns: whether anything was lost.
    func restore() throws(NetworkError) -> Bool {
        guard let place else { return false }
        var wasLost = false
        if isLost(fabric) {
            fabric = nil
            wasLost = true
            _ = try attach()
        }
        if let outerHost, isLost(outer) {
            outer = nil
            wasLost = true
            _ = try publishOutside(outerHost, place.endpoint.published)
        }
        return wasLost
    }

    private func isLost(_ connection: borrowing FabricConnection?) -> Bool {
        switch connection {
        case .some(let connection): connection.isLost
        case .none: true
        }
    }
}
