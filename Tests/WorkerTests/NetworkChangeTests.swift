// SPDX-License-Identifier: Apache-2.0

import FabricAPI
import GuestProtocol
import Packet
import TestSupport
import Testing
import Wire

@testable import Worker

/// What the guest says it did.
private func report(_ steps: [StaticString], failure: String = "") -> StepReport {
    var report = StepReport()
    report.steps = steps.map { StepReport.Step(Array("\($0)".utf8), nanoseconds: 1) }
    report.failure = Array(failure.utf8)
    return report
}

private func words(_ text: String) -> [UInt8] { Array(text.utf8) }

@Suite struct NetworkChangeTests {
    private typealias Step = Arrangement.Step

    /// Plays events; each is followed by what is to be done.
    private func play(
        _ kind: NetworkChange.Kind, isGuestBehind: Bool = false,
        _ steps: [(NetworkChange.Event, [NetworkChange.Action])]
    ) {
        var change = NetworkChange(kind, isGuestBehind: isGuestBehind)
        #expect(change.start() == (kind == .connect ? [.attachDevice] : [.locateDevice]))
        for (event, actions) in steps { #expect(change.handle(event) == actions, "\(kind) \(event)") }
        #expect(change.phase == .over, "\(kind) \(steps)")
        // Whatever comes late changes nothing.
        for event: NetworkChange.Event in [.attached(nil), .located(5), .arranged(report([])), .silence, .removed(nil)]
        {
            #expect(change.handle(event).isEmpty)
        }
    }

    @Test func aNetworkComes() {
        play(
            .connect,
            [
                (.attached(nil), [.locateDevice]), (.located(4), [.arrange(slot: 4)]),
                (.arranged(report([Step.addition, Step.files])), [.stopWaiting, .finish(failure: [])]),
            ])
        play(.connect, [(.attached("no slot"), [.giveUp(words("no slot"))])])
        // What the monitor gave is taken back when the guest cannot use it, or says nothing.
        play(
            .connect,
            [
                (.attached(nil), [.locateDevice]), (.located(4), [.arrange(slot: 4)]),
                (.arranged(report([Step.addition], failure: "no room")), [.stopWaiting, .removeDevice]),
                (.removed(nil), [.giveUp(words("no room"))]),
            ])
        play(
            .connect,
            [
                (.attached(nil), [.locateDevice]), (.located(4), [.arrange(slot: 4)]), (.silence, [.removeDevice]),
                (.arranged(report([Step.addition])), []),
                (.removed("the monitor is gone"), [.giveUp(words("the guest did not answer"))]),
            ])
        play(
            .connect,
            [
                (.attached(nil), [.locateDevice]), (.located(nil), [.removeDevice]),
                (.removed(nil), [.giveUp(words("the monitor does not say where the interface is"))]),
            ])
    }

    @Test func aNetworkGoes() {
        for isForced in [false, true] {
            let kind = NetworkChange.Kind.disconnect(isForced: isForced)
            play(
                kind,
                [
                    (.located(3), [.arrange(slot: 3)]),
                    (.arranged(report([Step.removal, Step.files])), [.stopWaiting, .removeDevice]),
                    (.removed(nil), [.finish(failure: [])]),
                ])
            // The interface is gone, and what went wrong besides is told.
            play(
                kind,
                [
                    (.located(3), [.arrange(slot: 3)]),
                    (.arranged(report([Step.removal], failure: "disk full")), [.stopWaiting, .removeDevice]),
                    (.removed(nil), [.finish(failure: words("disk full"))]),
                ])
            play(
                kind,
                [
                    (.located(3), [.arrange(slot: 3)]),
                    (.arranged(report([Step.removal])), [.stopWaiting, .removeDevice]),
                    (.removed("the monitor is gone"), [.giveUp(words("the monitor is gone"))]),
                ])
        }
    }

    /// A guest that keeps its interface loses it by force only.
    @Test func aGuestThatDoesNotLetGo() {
        let silent = words("the guest did not answer")
        play(.disconnect(isForced: false), [(.located(3), [.arrange(slot: 3)]), (.silence, [.giveUp(silent)])])
        play(
            .disconnect(isForced: false),
            [
                (.located(3), [.arrange(slot: 3)]),
                (.arranged(report([], failure: "busy")), [.stopWaiting, .giveUp(words("busy"))]),
            ])
        play(
            .disconnect(isForced: true),
            [
                (.located(3), [.arrange(slot: 3)]), (.silence, [.removeDevice]),
                (.removed(nil), [.finish(failure: [])]),
            ])
        play(
            .disconnect(isForced: true), isGuestBehind: true,
            [(.located(3), [.removeDevice]), (.removed(nil), [.finish(failure: [])])])
    }
}

/// A place in a network of the given number.
private func place(_ number: UInt8, internal isInternal: Bool = false, subnet: UInt8? = nil) -> NetworkPlace {
    let station = MACAddress(0x0200_0000_0000 | UInt64(number))
    var wish = NetworkWish(network: "net\(number)", hardwareAddress: station)
    wish.isInternal = isInternal
    wish.interfaceName = "eth\(number)"
    var endpoint = FabricReply.Endpoint(socketPath: "/s", hardwareAddress: station, mtu: 1500)
    endpoint.address = IPv4Address(10, subnet ?? number, 0, 9)
    endpoint.prefixLength = 16
    endpoint.gateway = IPv4Address(10, subnet ?? number, 0, 1)
    endpoint.nameServers = ["10.\(subnet ?? number).0.1", "fd00:\(number)::1"]
    endpoint.searchDomains = ["net\(number)"]
    return NetworkPlace(wish: wish, endpoint: endpoint)
}

@Suite struct MachineNetworksTests {
    private func networks(_ places: [NetworkPlace]) -> MachineNetworks {
        MachineNetworks(places, NetworkPreferences(places.map(\.wish)))
    }

    private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    @Test func namesOfOneAndOfSeveral() {
        #expect(
            text(networks([place(1)]).resolvConf) == "search net1\nnameserver 10.1.0.1\nnameserver fd00:1::1\n")
        // The one that leads is the last: it has the last word.
        #expect(
            text(networks([place(1), place(2), place(3)]).resolvConf)
                == "search net1 net2 net3\nnameserver 10.2.0.1\nnameserver 10.3.0.1\nnameserver 10.1.0.1\n")
        #expect(networks([]).hosts(hostname: "h") == nil && !networks([]).resolvConf.isEmpty)
        #expect(networks([place(1), place(2)]).hosts(hostname: "h") == "10.1.0.9\th\n10.2.0.9\th\n")
        var own = place(1)
        own.wish.nameServers = ["192.0.2.53"]
        own.wish.searchDomains = ["example.org"]
        own.wish.hosts = ["192.0.2.1\tone"]
        var all = networks([own, place(2)])
        #expect(text(all.resolvConf) == "search net1 net2 example.org\nnameserver 192.0.2.53\n")
        // What was asked for stays when the network goes that it was written down with.
        all.places.removeFirst()
        #expect(text(all.resolvConf) == "search net2 example.org\nnameserver 192.0.2.53\n")
        #expect(all.hosts(hostname: "h") == "10.2.0.9\th\n192.0.2.1\tone\n")
        #expect(all.wishes.first?.nameServers == ["192.0.2.53"] && all.wishes.first?.hosts == own.wish.hosts)
    }

    @Test func whichNetworkLeads() throws {
        #expect(networks([]).leader == nil && networks([place(1), place(2)]).leader == 0)
        let inside = networks([place(1, internal: true), place(2), place(3)])
        #expect(inside.leader == 1)
        #expect(networks([place(1, internal: true), place(2, internal: true)]).leader == 0)
        #expect(inside.settings(firstSlot: 3).map(\.slot) == [3, 4, 5])
        let nobody = try #require(MACAddress("02:00:00:00:00:00"))
        let beside = inside.settings(firstSlot: 3, present: nobody)
        #expect(beside.map(\.slot) == [nil, 3, 4])
        #expect(beside.map(\.formerAddress) == [nobody.bytes, nil, nil])
        #expect(beside.map(\.hardwareAddress) == inside.settings(firstSlot: 3).map(\.hardwareAddress))
        #expect(inside.settings(firstSlot: nil).map { !$0.gateways.isEmpty } == [false, true, false])
        #expect(networks([place(1)]).others(of: 0) == nil)
        for index in 0..<3 {
            let others = try #require(inside.others(of: index))
            #expect(others.hasLastWord == (index == 1))
            let names = [1, 2, 3].filter { $0 != index + 1 }.map { "net\($0)" }
            #expect(others.networks.map(\.name) == names)
            #expect(others.networks.allSatisfy { $0.subnet?.length == 16 })
        }
    }

    @Test func networksWithTheSameAddressesDoNotGoTogether() {
        let all = networks([place(1), place(2)])
        #expect(all.conflict(with: place(3)) == nil)
        #expect(all.conflict(with: place(3, subnet: 2))?.contains("net2 and net3") == true)
    }

    @Test func whatAGuestHasToDo() {
        let (one, two, inside) = (place(1), place(2), place(3, internal: true))
        let more = networks([one]).arrangement(to: networks([one, two]), slot: 4)
        #expect(more.added.map(\.slot) == [4] && more.added.map(\.hardwareAddress) == [two.hardwareAddress.bytes])
        #expect(more.added[0].gateways.isEmpty && more.added[0].addresses.count == 1)
        #expect(more.removed.isEmpty && more.leading.isEmpty && more.yielding.isEmpty)
        // The first one goes: the other leads.
        let less = networks([one, two]).arrangement(to: networks([two]), slot: 3)
        #expect(less.removed.map(\.slot) == [3] && less.added.isEmpty && less.yielding.isEmpty)
        #expect(
            less.leading.map(\.hardwareAddress) == [two.hardwareAddress.bytes] && less.leading[0].gateways.count == 1)
        let none = networks([one]).arrangement(to: networks([]), slot: 3)
        #expect(none.removed.count == 1 && none.leading.isEmpty)
        let first = networks([]).arrangement(to: networks([one]), slot: 3)
        #expect(first.added.count == 1 && first.added[0].gateways.count == 1 && first.leading.isEmpty)
        // One that leads outside takes over from one that does not, and gives it back.
        let opened = networks([inside]).arrangement(to: networks([inside, two]), slot: 4)
        #expect(opened.added[0].gateways.count == 1 && opened.leading.isEmpty)
        #expect(opened.yielding.map(\.hardwareAddress) == [inside.hardwareAddress.bytes])
        let closed = networks([inside, two]).arrangement(to: networks([inside]), slot: 4)
        #expect(closed.leading.map(\.hardwareAddress) == [inside.hardwareAddress.bytes] && closed.yielding.isEmpty)
    }

    /// Whatever networks come and go, the guest ends up with one way outside and the interfaces that are meant.
    @Test func anyNumberOfChanges() {
        var generator = SeededGenerator(11)
        var current = networks([])
        var stations: Set<[UInt8]> = []
        var leader: [UInt8]?
        for _ in 0..<500 {
            var next = current
            if next.places.isEmpty || next.places.count < 3 && Bool.random(using: &generator) {
                let free = (1...9).filter { number in !next.places.contains { $0.wish.network == "net\(number)" } }
                let number = free.randomElement(using: &generator) ?? 1
                next.places.append(place(UInt8(number), internal: number > 5))
            } else {
                next.places.remove(at: Int.random(in: 0..<next.places.count, using: &generator))
            }
            let order = current.arrangement(to: next, slot: 3)
            for interface in order.removed {
                #expect(stations.remove(interface.hardwareAddress) != nil)
                if leader == interface.hardwareAddress { leader = nil }
            }
            for interface in order.yielding {
                #expect(leader == interface.hardwareAddress)
                leader = nil
            }
            for interface in order.added {
                #expect(stations.insert(interface.hardwareAddress).inserted)
            }
            for interface in order.added + order.leading where !interface.gateways.isEmpty {
                #expect(leader == nil && stations.contains(interface.hardwareAddress))
                leader = interface.hardwareAddress
            }
            #expect(stations == Set(next.places.map(\.hardwareAddress.bytes)))
            #expect(leader == next.leader.map { next.places[$0].hardwareAddress.bytes })
            current = next
        }
    }
}

@Suite struct NetworkWishListTests {
    @Test func configurationsOfOneNetworkAndOfSeveralAreRead() throws {
        let wishes = [place(1).wish, place(2, internal: true).wish]
        for wish in wishes { #expect(try NetworkWish(JSONView(wish.json)) == wish) }
        // As it was written when a container had one network at most.
        let object = try #require(wishes[0].json.objectValue)
        var former = JSONObject()
        for (name, value) in zip(object.names, object.values) where name != "interface" && name != "internal" {
            former[name] = value
        }
        let read = try NetworkWish(JSONView(.object(former)))
        #expect(read.interfaceName == "eth0" && !read.isInternal && read.network == "net1")
        var wrong = try #require(wishes[0].json.objectValue)
        wrong["interface"] = "../eth0"
        #expect(throws: JSONMismatch.self) { try NetworkWish(JSONView(.object(wrong))) }
    }
}
