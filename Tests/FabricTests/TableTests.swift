// SPDX-License-Identifier: Apache-2.0

import Fabric
import Packet
import TestSupport
import Testing

@Suite struct Tables {
    @Test func addressesAreChosenAndRest() throws {
        var state = NamespaceState(identity: 1)
        _ = try state.addNetwork(name: "tiny", subnet: IPv4Prefix("192.168.5.0/29"))
        // .1 is the gateway: .2 to .6 are left.
        var machines: [Endpoint] = []
        for index in 0..<5 { machines.append(try state.add(EndpointRequest(name: "m\(index)", network: "tiny"))) }
        #expect(machines.map { $0.v4.description } == (2...6).map { "192.168.5.\($0)" })
        #expect(throws: FabricError.subnetIsFull("tiny")) { try state.add(EndpointRequest(name: "x", network: "tiny")) }
        #expect(state.table.endpoints.count == 5)
        try state.remove(machines[1].id)
        try state.remove(machines[3].id)
        // After the highest comes the lowest that is free, then the next: what was just let go rests.
        #expect(try state.add(EndpointRequest(name: "n1", network: "tiny")).v4 == v4("192.168.5.3"))
        try state.remove(machines[0].id)
        #expect(try state.add(EndpointRequest(name: "n2", network: "tiny")).v4 == v4("192.168.5.5"))
        #expect(machines[0].mac == MACAddress("02:4d:c0:a8:05:02") && machines[0].isAutonomous)
    }

    @Test func whatIsAskedForIsGivenOrRefused() throws {
        var state = NamespaceState(identity: 1)
        _ = try state.addNetwork(name: "blue", subnet: IPv4Prefix("10.1.0.0/16"), prefix: IPv6Prefix("fd00::/64"))
        var request = EndpointRequest(name: "db", network: "blue")
        request.ipv4 = v4("10.1.2.3")
        request.ipv6 = v6("fd00::53")
        request.mac = MACAddress("02:00:00:00:00:53")
        request.aliases = ["postgres"]
        let machine = try state.add(request)
        #expect(machine.ipv4 == request.ipv4 && machine.ipv6 == request.ipv6 && machine.mac == request.mac)
        #expect(!machine.isAutonomous)
        func refused(_ wanted: FabricError, _ change: (inout EndpointRequest) -> Void) {
            var other = EndpointRequest(name: "other", network: "blue")
            change(&other)
            #expect(throws: wanted) { _ = try state.add(other) }
        }
        refused(.nameTaken("DB")) { $0.name = "DB" }
        refused(.nameTaken("postgres")) { $0.name = "postgres" }
        refused(.nameTaken("db")) { $0.aliases = ["db"] }
        refused(.badName("a b")) { $0.name = "a b" }
        refused(.badName("-a")) { $0.aliases = ["-a"] }
        refused(.addressTaken("10.1.2.3")) { $0.ipv4 = v4("10.1.2.3") }
        refused(.addressTaken("fd00::53")) { $0.ipv6 = v6("fd00::53") }
        refused(.macTaken("02:00:00:00:00:53")) { $0.mac = MACAddress("02:00:00:00:00:53") }
        refused(.badMAC("03:00:00:00:00:53")) { $0.mac = MACAddress("03:00:00:00:00:53") }
        refused(.badMAC(gatewayMAC.description)) { $0.mac = gatewayMAC }
        refused(.unknownNetwork("red")) { $0.network = "red" }
        for address in ["10.1.0.1", "10.1.0.0", "10.1.255.255", "10.2.0.5"] {
            refused(.addressOutside(address, network: "blue")) { $0.ipv4 = v4(address) }
        }
        for address in ["fd00::1", "fd00:0:0:1::5"] {
            refused(.addressOutside(address, network: "blue")) { $0.ipv6 = v6(address) }
        }
        #expect(state.table.endpoints == [machine])
    }

    @Test func networks() throws {
        var state = NamespaceState(identity: 0xAB_CDEF_0123)
        let first = try state.addNetwork(name: "one")
        let second = try state.addNetwork(name: "two")
        #expect(first.subnet?.description == "10.77.0.0/24" && second.subnet?.description == "10.77.1.0/24")
        #expect(
            first.prefix?.description == "fdab:cdef:123::/64" && second.prefix?.description == "fdab:cdef:123:1::/64")
        #expect(throws: FabricError.nameTaken("one")) { try state.addNetwork(name: "one") }
        #expect(throws: FabricError.badSubnet("127.0.0.0/8")) {
            try state.addNetwork(name: "x", subnet: IPv4Prefix("127.0.0.0/8"))
        }
        #expect(throws: FabricError.badGateway("10.9.0.1")) {
            try state.addNetwork(name: "x", subnet: IPv4Prefix("10.0.0.0/24"), gateway: v4("10.9.0.1"))
        }
        #expect(throws: FabricError.badMTU(100)) { try state.addNetwork(name: "x", mtu: 100) }
        let machine = try state.add(EndpointRequest(name: "m", network: "two"))
        #expect(throws: FabricError.networkIsUsed("two")) { try state.removeNetwork("two") }
        try state.removeNetwork("one")
        #expect(state.table.endpoints.first?.network == 0 && state.table.endpoint(named: "m")?.id == machine.id)
        try state.remove(machine.id)
        try state.removeNetwork("two")
        #expect(state.table.networks.isEmpty)
    }

    @Test func clones() throws {
        var state = NamespaceState(identity: 1)
        _ = try state.addNetwork(name: "blue", subnet: IPv4Prefix("10.0.0.0/24"))
        let original = try state.add(EndpointRequest(name: "web", network: "blue"))
        let same = try state.cloneKeepingAddress(of: original.id, name: "web", network: "blue-1")
        #expect(same.v4 == original.v4 && same.v6 == original.v6 && same.mac == original.mac && same.id != original.id)
        let networks = state.table.networks
        #expect(networks[same.network].subnet == networks[original.network].subnet && same.network != original.network)
        let other = try state.cloneRenumbered(of: original.id, name: "web-2")
        #expect(other.network == original.network && other.v4 != original.v4 && other.mac != original.mac)
        // In the same network it cannot be, and nothing is left behind of the try.
        #expect(throws: FabricError.self) {
            try state.cloneKeepingAddress(of: original.id, name: "web-3", network: "blue")
        }
        #expect(throws: FabricError.self) {
            try state.cloneKeepingAddress(of: original.id, name: "no name", network: "blue-9")
        }
        #expect(state.table.networks.count == 2 && state.table.endpoints.count == 3)
    }

    @Test func lookupsAgreeWithALinearSearch() throws {
        var random = SeededGenerator(9)
        var state = NamespaceState(identity: 5)
        for network in 0..<4 {
            _ = try state.addNetwork(
                name: "n\(network)", subnet: IPv4Prefix("10.0.0.0/22"), prefix: IPv6Prefix("fd00::/64"))
        }
        var router = Router()
        for index in 0..<400 {
            let endpoint = try state.add(EndpointRequest(name: "m\(index)", network: "n\(random.next() % 4)"))
            try state.attach(endpoint.id, to: PortID(index))
            router.open(PortID(index))
        }
        let table = state.table
        router.replace(table)
        var reply = [UInt8](repeating: 0, count: FrameLayout.longest)
        for _ in 0..<2000 {
            let from = table.endpoints[Int(random.next() % 400)]
            let to = table.endpoints[Int(random.next() % 400)]
            guard from != to, let source = from.port, let target = to.port else { continue }
            var record = from.send6(Record.udp(1, 2), to: to.mac, to.v6)
            var space = record.mutableSpan
            var raw = space.mutableBytes
            var answer = reply.mutableSpan
            var answerRaw = answer.mutableBytes
            let verdict = router.receive(&raw, from: source, now: 0, reply: &answerRaw)
            let peers = table.endpoints.filter { $0.network == from.network && $0.mac == to.mac }
            // Another network may have the same addresses; then the frame goes to that one's owner here.
            if from.network == to.network {
                #expect(verdict == .forward(target))
            } else if let peer = peers.first, let port = peer.port, peer != from {
                #expect(verdict == .forward(port))
            } else {
                #expect(verdict == .drop(peers.isEmpty ? .unknownMAC : .misdirected))
            }
        }
    }
}
