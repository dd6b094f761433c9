// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import Glibc
import Networks
import Packet
import Platform
import Testing
import Wire

@testable import FabricService

/// What a network's name server says of the user's other networks.
@Suite struct OtherNetworks {
    private static func make(_ name: String, _ subnet: String, in store: NetworkStore) throws {
        var wish = NetworkDefinition(name: name)
        wish.subnet = IPv4Prefix(subnet)
        _ = try store.create(wish, choosesIPv6: false, random: 0)
    }

    /// Networks come and go while the fabric runs. What is theirs never gets to the host's servers, whether or not there
    /// is such a machine; when they have gone, their names are the Internet's again.
    @Test func theirNamesStayHere() throws {
        let server = try InternetSocket.make(.datagram, ipv4: true)
        try InternetSocket.bind(server, to: SocketAddress(ipv4: 0x7F00_0001, port: 0))
        let port = try InternetSocket.localAddress(server).port
        let directory = try TemporaryDirectory()
        let store = NetworkStore(definitions: "\(directory.path)/networks", running: "\(directory.path)/running")
        _ = try store.create(definition(), choosesIPv6: false, random: 0)
        try Self.make("red", "10.77.0.0/16", in: store)
        let served = try Served(
            resolvers: "nameserver 127.0.0.1\n", resolverPort: port, definitions: store.definitions)
        let client = try served.client()
        let a = try Machine(try client.attach("a"))

        func expectDenied(_ names: [String]) throws {
            for name in names {
                for type in [DNSType.a, DNSType.aaaa, DNSType.ptr, DNSType.txt] {
                    let answer = try a.resolve(name, type: type)
                    #expect(addresses(answer) == (DNSCode.noSuchName, []), "\(name) \(type)")
                    #expect(answer[2] & 0x04 != 0, "with authority: \(name)")
                }
            }
            var waiting = pollfd(fd: server.raw, events: Int16(POLLIN), revents: 0)
            #expect(poll(&waiting, 1, 0) == 0)
        }
        try expectDenied(["db.red", "red", "db.red.blue", "5.0.77.10.in-addr.arpa"])
        try Self.make("sub.example", "10.78.0.0/16", in: store)
        try expectDenied(["db.sub.example", "sub.example", "5.0.78.10.in-addr.arpa", "db.red"])
        let stream = try Stream(a, port: 4000)
        try stream.ask(["db.red", "x.sub.example"])
        for _ in 0..<2 { #expect(addresses(try #require(try stream.answer())) == (DNSCode.noSuchName, [])) }
        try expectDenied([])
        // With a search domain of the machine's behind it, too.
        for name in ["db.red.example.com", "x.sub.example.example.com"] {
            #expect(addresses(try a.resolve(name)) == (DNSCode.noSuchName, []), "\(name)")
        }
        try stream.ask(["db.red.example.com"])
        #expect(addresses(try #require(try stream.answer())) == (DNSCode.noSuchName, []))
        try expectDenied([])
        guard case .inspected(let state) = try client.ask(.inspect) else {
            Issue.record("no inspection")
            return
        }
        #expect(state["names"]?["otherNetworks"]?.unsignedValue == 2 && state["names"]?["asked"]?.unsignedValue == 0)

        // One that is removed, and one that is made anew with other addresses.
        try store.remove("sub.example")
        try store.remove("red")
        try Self.make("red", "10.79.0.0/16", in: store)
        try expectDenied(["db.red", "5.0.79.10.in-addr.arpa"])
        let raw = server.raw
        for name in ["db.sub.example", "5.0.77.10.in-addr.arpa"] {
            let upstream = try Thread(name: "upstream") { answerOne(raw) }
            #expect(addresses(try a.resolve(name)) == (0, [IPv4Address(203, 0, 113, 5)]), "\(name)")
            upstream.join()
        }
    }

    /// What is no network's file is none; what cannot be read is one whose addresses are not known; and there is a limit,
    /// below which those come that were beyond it when others go.
    @Test func theirNumberIsLimited() throws {
        let directory = try TemporaryDirectory()
        func put(_ name: String, _ text: String = "{}") throws {
            try Files.writeAtomically(Array(text.utf8), to: "\(directory.path)/\(name)")
        }
        for name in ["blue.json", "lock", "-x.json", ".json", "x.json.5.7.tmp", "half.jso", "a b.json"] {
            try put(name)
        }
        let watch = try DirectoryWatch()
        let networks = UserNetworks(directory: directory.path, besides: "blue", watch: watch)
        #expect(networks.names.count == 0)
        try put("torn.json", "{\"version\": 1, \"na")
        try put("blue.json", "{ }")
        networks.reload(after: watch.take())
        #expect(networks.names == ForeignNames([.init(domain: try #require(DNSName("torn")))]))
        for index in 0..<UserNetworks.limit { try put("n\(index).json") }
        networks.reload(after: watch.take())
        #expect(networks.names.count == UserNetworks.limit)
        Files.remove("\(directory.path)/n5.json")
        networks.reload(after: watch.take())
        #expect(networks.names.count == UserNetworks.limit)
        Files.remove("\(directory.path)/n6.json")
        networks.reload(after: watch.take())
        #expect(networks.names.count == UserNetworks.limit - 1)
        // As the first look has them.
        #expect(UserNetworks(directory: directory.path, besides: "blue", watch: nil).names == networks.names)
        // One that is not there has none.
        #expect(UserNetworks(directory: "\(directory.path)/nowhere", besides: "blue", watch: nil).names.count == 0)
    }
}
