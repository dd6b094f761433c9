// SPDX-License-Identifier: Apache-2.0

import CLinux
import Fabric
import FabricAPI
import FabricService
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

/// A directory of a test's own, gone with its last use.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        var random = SystemRandomNumberGenerator()
        path = "/tmp/martlet-fabric-\(String(random.next(), radix: 36))"
        try Files.makeDirectories("\(path)/ports", permissions: 0o700)
    }

    deinit { try? Files.removeTree(path) }
}

func definition(isInternal: Bool = false) -> NetworkDefinition {
    var definition = NetworkDefinition(name: "blue")
    definition.subnet = IPv4Prefix("10.99.0.0/24")
    definition.gateway = IPv4Address(10, 99, 0, 1)
    definition.subnet6 = IPv6Prefix("fd00:99::/64")
    definition.gateway6 = IPv6Address("fd00:99::1")
    definition.mtu = 1500
    definition.isInternal = isInternal
    return definition
}

/// A fabric in a thread of the test's process.
final class Served {
    let directory: TemporaryDirectory

    /// - Parameters:
    ///   - resolvers: the text of resolv.conf.
    ///   - definitions: the directory of the user's networks.
    init(
        resolvers: String = "", resolverPort: UInt16 = 53, isInternal: Bool = false,
        definitions: String? = nil, queryLimit: TokenBucket = Router.queryLimit,
        streamIdleTimeInNanoseconds: UInt64 = 10_000_000_000
    ) throws {
        let directory = try TemporaryDirectory()
        self.directory = directory
        try Files.writeAtomically(Array(resolvers.utf8), to: "\(directory.path)/resolv.conf")
        var configuration = FabricService.Configuration(
            definition: definition(isInternal: isInternal), directory: directory.path)
        configuration.resolverPath = "\(directory.path)/resolv.conf"
        configuration.resolverPort = resolverPort
        configuration.definitions = definitions
        configuration.queryLimit = queryLimit
        configuration.streamIdleTimeInNanoseconds = streamIdleTimeInNanoseconds
        configuration.idleTimeInSeconds = 1
        let control = try UnixSocket.listen(at: "\(directory.path)/control").release()
        let settings = configuration
        _ = try Thread(name: "fabric", stackSizeInBytes: 1 << 20) {
            do {
                try FabricService(settings, control: Descriptor(owning: control)).run()
            } catch {
                fatalError("\(error)")
            }
        }
    }

    func client() throws -> Client { try Client("\(directory.path)/control") }
}

/// A client of the control socket.
final class Client {
    let socket: Descriptor
    private var unread: [UInt8] = []

    init(_ path: String) throws { socket = try UnixSocket.connect(to: path) }

    func ask(_ request: FabricRequest) throws -> FabricReply { try send(request.json.encoded()) }

    /// Sends a line, with a descriptor if one is given, and gives the reply.
    func send(_ line: [UInt8], descriptor: Int32? = nil) throws -> FabricReply {
        let bytes = line + [10]
        if let descriptor {
            let sent = withUnsafePointer(to: descriptor) {
                clinux_send_descriptors(socket.raw, bytes, bytes.count, $0, 1)
            }
            try #require(sent == bytes.count)
        } else {
            try socket.writeAll(bytes)
        }
        var space = [UInt8](repeating: 0, count: 65_536)
        while true {
            if let end = unread.firstIndex(of: 10) {
                let line = Array(unread[..<end])
                unread.removeFirst(end + 1)
                return try FabricReply(JSON(parsing: line))
            }
            let count = read(socket.raw, &space, space.count)
            try #require(count > 0)
            unread += space[..<count]
        }
    }

    func attach(
        _ id: String, _ change: (inout FabricRequest.Attachment) -> Void = { _ in }
    ) throws -> FabricReply.Endpoint {
        var attachment = FabricRequest.Attachment(id: id, name: id)
        change(&attachment)
        let reply = try ask(.attach(attachment))
        guard case .attached(let endpoint) = reply else { throw Refused(reply: reply) }
        return endpoint
    }

    struct Refused: Error { let reply: FabricReply }
}

/// A machine's monitor, as far as its network socket shows.
final class Machine {
    let socket: Descriptor
    let endpoint: FabricReply.Endpoint

    init(_ endpoint: FabricReply.Endpoint, features: UInt32 = 0x182) throws {
        self.endpoint = endpoint
        socket = try UnixSocket.connect(to: endpoint.socketPath, kind: .records)
        let message = GuestMessage(driverRuns: true, features: features, mtu: 1500, mac: endpoint.hardwareAddress)
        try socket.writeAll(message.bytes)
    }

    var mac: MACAddress { endpoint.hardwareAddress }
    var address: IPv4Address { endpoint.address ?? .any }
    var address6: IPv6Address { endpoint.address6 ?? .any }

    func send(_ record: [UInt8]) throws { try socket.writeAll(record) }

    /// The next record, waiting for it for longer than the slowest machine takes.
    func receive() throws -> [UInt8] {
        var waited = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
        try #require(poll(&waited, 1, 300_000) == 1)
        var space = [UInt8](repeating: 0, count: 70_000)
        let count = read(socket.raw, &space, space.count)
        try #require(count > 0)
        return Array(space[..<count])
    }

    /// An IPv4 datagram's record.
    func datagram(
        to destination: IPv4Address, _ mac: MACAddress, _ source: UInt16, _ port: UInt16, _ payload: [UInt8],
        header: VirtioNetHeader = VirtioNetHeader()
    ) -> [UInt8] {
        let length = 8 + payload.count
        return built(12 + 34 + length) {
            header.write(to: &$0, at: 0)
            EthernetHeader(destination: mac, source: self.mac, type: EtherType.ipv4).write(to: &$0, at: 12)
            IPv4Header(
                protocolNumber: IPProtocol.udp, source: address, destination: destination, payloadLength: length
            ).write(to: &$0, at: 26)
            UDPHeader(sourcePort: source, destinationPort: port, payloadLength: payload.count).write(to: &$0, at: 46)
            $0.put(payload, at: 54)
            Transport.fillChecksum(
                &$0, at: 46, length: length, protocolNumber: IPProtocol.udp, source: address, destination: destination)
        }
    }

    /// A question to a name server.
    static func question(_ name: String, type: UInt16 = DNSType.a) -> [UInt8] {
        var length = 0
        let message = built(300) {
            var builder = DNSBuilder(identifier: 77, flags: 0x0100, at: 0, limit: 300)
            builder.add(DNSQuestion(name: DNSName(name) ?? DNSName(), type: type), to: &$0)
            length = builder.finish(&$0) ?? 0
        }
        return Array(message[..<length])
    }

    /// Asks the fabric's name server; gives the message that comes back.
    func resolve(_ name: String, type: UInt16 = DNSType.a) throws -> [UInt8] {
        let question = Machine.question(name, type: type)
        try send(datagram(to: IPv4Address(10, 99, 0, 1), Network.gatewayMAC, 5000, 53, question))
        let record = try receive()
        return Array(record.dropFirst(54))
    }
}

/// The addresses that an answer gives, and its code.
func addresses(_ message: [UInt8]) -> (code: UInt8, [IPv4Address]) {
    let span = message.span
    guard let view = DNSView(span.bytes) else { return (255, []) }
    var records = view.records
    var record = DNSRecord()
    var found: [IPv4Address] = []
    while records.next(&record) {
        if record.type == DNSType.a { found.append(span.bytes.ipv4(record.dataOffset)) }
    }
    return (view.code, found)
}

/// Runs a program; gives its status and what it prints, both kinds together.
func run(_ path: String, _ arguments: [String]) throws -> (end: ProcessEnd, text: String) {
    let directory = try TemporaryDirectory()
    let output = try Descriptor.open("\(directory.path)/out", .createNew)
    var specification = ProcessSpecification(
        path, [path] + arguments, environment: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent", "LC_ALL=C"])
    specification.descriptors = [-1, output.raw, output.raw]
    let end = try ChildProcess(specification).wait()
    return (end, String(decoding: try Files.read("\(directory.path)/out", limit: 1 << 20), as: UTF8.self))
}

/// The program that was built with the tests.
func fixture() throws -> String {
    let directory = splitPath(try Files.resolve("/proc/self/exe")).directory
    let name = "fabric-fixture"
    for candidate in ["\(directory)/\(name)", "\(splitPath(#filePath).directory)/../../.build/debug/\(name)"]
    where Files.exists(candidate) {
        return try Files.resolve(candidate)
    }
    throw SystemError("open", name, code: ENOENT)
}
