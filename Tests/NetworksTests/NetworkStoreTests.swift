// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import Glibc
import Packet
import Platform
import TestSupport
import Testing
import Wire

@testable import Networks

@Suite struct NetworkStoreTests {
    private func withStore(_ body: (NetworkStore) throws -> Void) throws {
        let root = "/tmp/networks-\(getpid())-\(monotonicNanoseconds())"
        defer { try? Files.removeTree(root) }
        try body(NetworkStore(definitions: "\(root)/definitions", running: "\(root)/running"))
    }

    @Test func networksGetSubnetsOfTheirOwn() throws {
        try withStore { store in
            var subnets: [IPv4Prefix] = []
            for index in 0..<40 {
                let network = try store.create(NetworkDefinition(name: "n\(index)"), choosesIPv6: true, random: 7)
                let subnet = try #require(network.subnet)
                #expect(!subnets.contains { $0.overlaps(subnet) })
                #expect(network.gateway == IPv4Address(subnet.network.value + 1))
                subnets.append(subnet)
                let loaded = try store.load("n\(index)")
                #expect(loaded == network)
            }
            #expect(store.names().count == 40)
            try store.remove("n7")
            #expect(throws: NetworkError.self) { try store.load("n7") }
            // What was given back is given out again.
            let again = try store.create(NetworkDefinition(name: "again"), choosesIPv6: false, random: 0)
            #expect(again.subnet == subnets[7])
            #expect(again.subnet6 == nil)
        }
    }

    @Test func aNetworkIsChangedInPlace() throws {
        try withStore { store in
            let made = try store.create(NetworkDefinition(name: "mine"), choosesIPv6: true, random: 7)
            let changed = try store.change("mine") { $0.egress = [EgressRule(allows: false, target: .everything)] }
            #expect(changed.egress.count == 1 && changed.subnet == made.subnet)
            let loaded = try store.load("mine")
            #expect(loaded == changed)
            #expect(throws: NetworkError.self) { try store.change("other") { $0.egress = [] } }
        }
    }

    @Test func theHostOutsideIsReadAndItsPortsAreLedTo() throws {
        try withStore { store in
            #expect(store.outerHost == nil)
            let outer = OuterHost(
                address: IPv4Address(10, 0, 2, 15), gateway: IPv4Address(10, 0, 2, 2),
                token: String(repeating: "f", count: 32), loopback: IPv4Address(198, 19, 255, 254))
            let directory = splitPath(store.running).directory
            try Files.makeDirectories(directory)
            let path = "\(directory)/\(OuterHost.fileName)"
            try Files.writeAtomically(outer.json.encoded(), to: path)
            #expect(store.outerHost == outer)
            try Files.writeAtomically(Array("{}".utf8), to: path)
            #expect(store.outerHost == nil)
            var generator = SeededGenerator(3)
            for text in [
                "8080:80", "53:53/udp", "127.0.0.2::80", "[::1]:1-65000:1-65000", "30000-39999:1-10000/tcp/proxy",
            ] {
                let wanted = try PublishedPorts(parsing: text)
                for attempt in 0..<200 {
                    let inside = outer.inside(wanted, attempt: attempt, random: generator.next())
                    #expect(inside.hostAddress == .v4(outer.address) && !inside.tellsClientAddress)
                    #expect(inside.hostPort > 0 && Int(inside.hostPort) + Int(inside.count) <= 65_536)
                    #expect(inside.machinePort == wanted.machinePort && inside.transport == wanted.transport)
                    if attempt == 0, wanted.hostPort >= 1024 { #expect(inside.hostPort == wanted.hostPort) }
                }
            }
        }
    }

    @Test func wishesAreKeptOrRefused() throws {
        try withStore { store in
            var wish = NetworkDefinition(name: "mine")
            wish.subnet = IPv4Prefix("192.0.2.0/24")
            wish.gateway = IPv4Address(192, 0, 2, 254)
            wish.isInternal = true
            let made = try store.create(wish, choosesIPv6: false, random: 0)
            #expect(made == wish)
            #expect(throws: NetworkError.self) { try store.create(wish, choosesIPv6: false, random: 0) }
            // Two networks may use the same addresses: they never meet.
            wish.name = "twin"
            let twin = try store.create(wish, choosesIPv6: false, random: 0)
            #expect(twin.subnet == wish.subnet)
            wish.name = "wrong"
            wish.gateway = IPv4Address(198, 51, 100, 1)
            #expect(throws: NetworkError.self) { try store.create(wish, choosesIPv6: false, random: 0) }
            wish.name = "../wrong"
            #expect(throws: NetworkError.self) { try store.create(wish, choosesIPv6: false, random: 0) }
            #expect(store.names() == ["mine", "twin"])
        }
    }

    @Test func theDefaultNetworkIsMadeOnce() throws {
        try withStore { store in
            let first = try store.loadOrCreateDefault(now: 1, random: 1)
            let second = try store.loadOrCreateDefault(now: 2, random: 2)
            #expect(first == second)
            #expect(first.subnet6 != nil)
        }
    }

    @Test func anotherProgramThatIsNoneIsAnErrorWithWords() throws {
        try withStore { store in
            _ = try store.create(NetworkDefinition(name: "a"), choosesIPv6: false, random: 0)
            switch try FabricConnection(toRunning: "a", of: store) {
            case .some: Issue.record("nothing runs, yet something answers")
            case .none: break
            }
            do throws(NetworkError) {
                _ = try FabricConnection(to: "a", of: store, program: "/nonexistent/martlet-fabric")
                Issue.record("nothing was started, yet something answers")
            } catch {
                #expect("\(error)".contains("does not start"))
            }
        }
    }
}

@Suite struct SubnetChoiceTests {
    @Test func stepsOverWhatIsTaken() throws {
        let pool = try #require(IPv4Prefix("10.0.0.0/16"))
        let taken = try ["10.0.0.0/24", "10.0.2.0/23", "10.0.1.128/25"].map { try #require(IPv4Prefix($0)) }
        #expect(SubnetChoice.next(in: pool, length: 24, taken: taken) == IPv4Prefix("10.0.4.0/24"))
        #expect(SubnetChoice.next(in: pool, length: 25, taken: taken) == IPv4Prefix("10.0.1.0/25"))
        #expect(SubnetChoice.next(in: pool, length: 16, taken: taken) == nil)
        #expect(SubnetChoice.next(in: pool, length: 15, taken: []) == nil)
        #expect(SubnetChoice.next(in: pool, length: 24, taken: [pool]) == nil)
    }
}
