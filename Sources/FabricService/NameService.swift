// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Fabric
internal import Glibc
internal import Packet
internal import Platform

/// The forwarder's sockets: one for each attempt, with a port of the system's choice, connected, so that the kernel takes
/// answers only from where the question went. And the host's list of servers, read again whenever it changes.
final class NameService {
    private var forwarder: NameForwarder
    private let resolverPath: String
    private let port: UInt16
    private let watch: DirectoryWatch?
    /// Where the list is, and where it was.
    private var places: Set<DirectoryWatch.Place> = []
    private(set) var exchanges: [Exchange?] = []
    /// Sockets to be watched, and the ones to be no longer; for the owner of epoll.
    private(set) var servers: [IPAddress] = []
    /// The list could not be read the last time, which was said.
    private var isUnreadable = false
    /// That its directory could not be watched was said.
    private var saysUnwatched = false
    /// Counts the questions, for those that share an alias.
    var turn = 0

    struct Exchange {
        let id: ExchangeID
        let socket: Int32
        let overTCP: Bool
        var unsent: [UInt8]
        var stream = DNSStream()
    }

    /// - Parameter watch: nil where the list is read once.
    init(resolverPath: String, port: UInt16, seed: UInt64, watch: DirectoryWatch?) {
        self.resolverPath = resolverPath
        self.port = port
        self.watch = watch
        forwarder = NameForwarder(seed: seed)
        reload()
    }

    var deadline: UInt64? { forwarder.deadline }
    var hits: UInt64 { forwarder.hits }
    var misses: UInt64 { forwarder.misses }

    /// Reads the list of servers again where it may be another one.
    func reload(after changes: DirectoryWatch.Changes) {
        if changes.isPartial || places.contains(where: { !changes.names(in: $0).isEmpty }) { reload() }
    }

    /// Reads the list of servers, and watches the directory in which it is for the next change: the file itself is
    /// usually replaced, and often a link into another directory.
    private func reload() {
        for path in Set([resolverPath, (try? Files.resolve(resolverPath)) ?? resolverPath]) {
            do throws(SystemError) {
                if let place = try watch?.add(splitPath(path).directory) { places.insert(place) }
            } catch {
                // One that is not there, or not to be seen, has no list either: that is said below.
                guard !saysUnwatched, error.code == ENOSPC || error.code == ENOMEM else { continue }
                saysUnwatched = true
                say("changes of the list of name servers are not noticed: \(error)")
            }
        }
        var text: [UInt8] = []
        do throws(SystemError) {
            text = try Files.read(resolverPath, limit: 65_536)
            isUnreadable = false
        } catch {
            // One that is not there for a moment, or may not be read where a link leads now, changes nothing.
            if error.code != ENOENT, !isUnreadable {
                isUnreadable = true
                say("the list of name servers cannot be read, and stays as it was: \(error)")
            }
            guard servers.isEmpty else { return }
        }
        servers = ResolverConfiguration(text).servers
        forwarder.setServers(servers)
    }

    func ask(_ message: [UInt8], from client: NameClient, now: UInt64) -> [NameAction] {
        forwarder.ask(message, from: client, now: now)
    }

    func advance(now: UInt64) -> [NameAction] { forwarder.advance(now: now) }

    func fail(_ id: ExchangeID, now: UInt64) -> [NameAction] { forwarder.fail(id, now: now) }

    /// Opens the socket for an attempt; nil where that fails.
    /// - Returns: the index to watch it under.
    func open(_ id: ExchangeID, _ upstream: IPAddress, _ message: [UInt8], overTCP: Bool) -> Int? {
        let isIPv4: Bool
        let target: SocketAddress
        switch upstream {
        case .v4(let address):
            isIPv4 = true
            target = SocketAddress(ipv4: address.value, port: port)
        case .v6(let address):
            isIPv4 = false
            target = SocketAddress(ipv6High: address.high, low: address.low, port: port)
        }
        guard let socket = try? InternetSocket.make(overTCP ? .stream : .datagram, ipv4: isIPv4),
            (try? InternetSocket.connect(socket, to: target)) != nil
        else { return nil }
        var exchange = Exchange(id: id, socket: socket.release(), overTCP: overTCP, unsent: message)
        if overTCP {
            exchange.unsent = [UInt8(message.count >> 8), UInt8(message.count & 255)] + message
        } else {
            _ = unsafe message.withUnsafeBytes {
                unsafe Glibc.send(exchange.socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            exchange.unsent = []
        }
        let index = exchanges.firstIndex { $0 == nil } ?? exchanges.count
        if index == exchanges.count { exchanges.append(exchange) } else { exchanges[index] = exchange }
        return index
    }

    /// What the socket of an attempt has brought.
    func receive(exchange index: Int, _ readiness: Readiness, now: UInt64) -> [NameAction] {
        guard exchanges.indices.contains(index), var exchange = exchanges[index] else { return [] }
        if exchange.overTCP, readiness.contains(.writable), !exchange.unsent.isEmpty {
            let sent = unsafe exchange.unsent.withUnsafeBytes {
                unsafe Glibc.send(exchange.socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if sent > 0 { exchange.unsent.removeFirst(sent) }
            exchanges[index] = exchange
            if sent < 0, clinux_errno() != EAGAIN { return forwarder.fail(exchange.id, now: now) }
        }
        guard !readiness.isDisjoint(with: [.readable, .failed, .hungUp]) else { return [] }
        var space = [UInt8](repeating: 0, count: 65_535)
        let count = unsafe space.withUnsafeMutableBytes {
            unsafe Glibc.recv(exchange.socket, $0.baseAddress, $0.count, 0)
        }
        if count < 0 { return clinux_errno() == EAGAIN ? [] : forwarder.fail(exchange.id, now: now) }
        guard exchange.overTCP else { return forwarder.receive(Array(space[..<count]), for: exchange.id, now: now) }
        guard count > 0 else { return forwarder.fail(exchange.id, now: now) }
        let bytes = Array(space[..<count])
        let span = bytes.span
        _ = exchange.stream.append(unsafe span.bytes)
        let message = exchange.stream.next()
        exchanges[index] = exchange
        return message.map { forwarder.receive($0, for: exchange.id, now: now) } ?? []
    }

    /// The index under which an attempt's socket is watched.
    func index(of id: ExchangeID) -> Int? { exchanges.firstIndex { $0?.id == id } }

    /// Closes the socket of an attempt, which epoll forgets by that.
    func close(_ index: Int) {
        guard let exchange = exchanges[index] else { return }
        Glibc.close(exchange.socket)
        exchanges[index] = nil
    }

    deinit { for case let exchange? in exchanges { Glibc.close(exchange.socket) } }
}
