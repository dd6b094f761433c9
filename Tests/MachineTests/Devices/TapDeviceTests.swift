// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import TestSupport
import Testing

@testable import Machine

/// A network namespace with nothing in it but what a test puts there. Making it takes root.
private final class Namespace {
    let name: String

    init() throws {
        var random = SystemRandomNumberGenerator()
        name = "mt\(String(random.next() % 1_000_000, radix: 36))"
        try Namespace.run("netns add \(name)")
        try run("link set lo up")
    }

    deinit { try? Namespace.run("netns del \(name)") }

    /// `ip` within the namespace.
    func run(_ line: String) throws { try Namespace.run("-n \(name) \(line)") }

    private static func run(_ line: String) throws {
        var specification = ProcessSpecification("/usr/sbin/ip", ["ip"] + line.split(separator: " ").map(String.init))
        specification.descriptors = [-1, -1, 2]
        #expect(try ChildProcess(specification).wait() == .exited(0), "ip \(line)")
    }

    func open(_ device: String, severalQueues: Bool = false) throws -> TapDevice {
        try inside(name) { try TapDevice(device, severalQueues: severalQueues) }
    }

    /// A device with the host's addresses, whose neighbour is the guest.
    func openWithAddresses(severalQueues: Bool = false) throws -> TapDevice {
        let tap = try open("tap0", severalQueues: severalQueues)
        try run("addr add 10.9.0.1/24 dev tap0")
        try run("link set tap0 up")
        try run("neigh replace 10.9.0.2 lladdr 02:00:00:00:00:01 dev tap0")
        return tap
    }

    /// Queues of a device that takes several, the host's neighbour.
    func openQueues(_ count: Int) throws -> [TapDevice] {
        let tap = try openWithAddresses(severalQueues: true)
        return try inside(name) { try tap.queues(count) }
    }

    /// A socket of the host's; UDP, or TCP that connects to the guest's port 80 without waiting for that.
    func socket(connecting: Bool) throws -> SharedDescriptor {
        try inside(name) {
            let type = connecting ? SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue : SOCK_DGRAM.rawValue
            let descriptor = Descriptor(owning: Glibc.socket(AF_INET, Int32(type), 0))
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = in_port_t(connecting ? 80 : 7).bigEndian
            address.sin_addr.s_addr = inet_addr(connecting ? "10.9.0.2" : "10.9.0.1")
            let raw = descriptor.raw
            withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                    let length = socklen_t(MemoryLayout<sockaddr_in>.size)
                    _ = connecting ? connect(raw, generic, length) : bind(raw, generic, length)
                }
            }
            return SharedDescriptor(descriptor)
        }
    }
}

/// The Internet checksum (RFC 1071).
private func checksum(_ bytes: [UInt8], from start: UInt32 = 0) -> UInt16 {
    var sum = start
    for index in stride(from: 0, to: bytes.count, by: 2) {
        sum += UInt32(bytes[index]) << 8 | UInt32(index + 1 < bytes.count ? bytes[index + 1] : 0)
    }
    while sum > 0xffff { sum = sum & 0xffff + sum >> 16 }
    return UInt16(sum)
}

private func big(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xff)] }

/// A frame of the guest's to the host's address: IPv4 with this protocol and payload, whose checksum at `offset` is
/// complete, or left to the host.
private func packet(
    to station: [UInt8], _ number: UInt8, _ payload: [UInt8], checksumAt offset: Int, partial: Bool,
    pseudo hasPseudo: Bool = true
) -> [UInt8] {
    let addresses: [UInt8] = [10, 9, 0, 2, 10, 9, 0, 1]
    var ip: [UInt8] = [0x45, 0] + big(UInt16(20 + payload.count)) + [0, 1, 0, 0, 64, number, 0, 0] + addresses
    ip.replaceSubrange(10..<12, with: big(~checksum(ip)))
    let pseudo = hasPseudo ? UInt32(checksum(addresses + [0, number] + big(UInt16(payload.count)))) : 0
    var payload = payload
    payload.replaceSubrange(
        offset..<offset + 2, with: partial ? big(UInt16(pseudo)) : big(~checksum(payload, from: pseudo)))
    let header: [UInt8] = partial ? [1, 0, 0, 0, 0, 0, 34, 0, UInt8(offset), 0] : [UInt8](repeating: 0, count: 10)
    return frame(station + [2, 0, 0, 0, 0, 1, 8, 0] + ip + payload, header: header)
}

@Suite(.enabled(if: geteuid() == 0, "network namespaces are made by root")) struct TapDeviceTests {
    /// The next frame for the guest that is IPv4 of this protocol, without its virtio header, and that header.
    private func next(
        _ driver: NetDriver, _ number: UInt8, pair: Int = 0
    ) throws -> (header: [UInt8], frame: [UInt8]) {
        while true {
            let record = try driver.receive(pair: pair)
            let frame = Array(record[12...])
            // The host says other things as well: multicast reports, router solicitations.
            if frame.count > 34, frame[12..<14] == [8, 0], frame[23] == number { return (Array(record[..<12]), frame) }
        }
    }

    /// The host's Ethernet address: an ARP answer tells it.
    private func station(_ driver: NetDriver) throws -> [UInt8] {
        let request: [UInt8] =
            [UInt8](repeating: 0xff, count: 6) + [2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]
            + [10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 1]
        try driver.send([frame(request)])
        var answer: [UInt8] = []
        repeat { answer = Array(try driver.receive()[12...]) } while answer[12..<14] != [8, 6]
        return Array(answer[6..<12])
    }

    @Test(arguments: [false, true]) func datagramsReachTheHost(partial: Bool) throws {
        let namespace = try Namespace()
        let driver = try NetDriver(.tap([try namespace.openWithAddresses()]))
        try driver.supply(60, of: 1600)
        let socket = try namespace.socket(connecting: false)
        let station = try station(driver)
        var random = SeededGenerator(1)
        for count in [1, 100, 1300] {
            let data = random.bytes(count)
            let udp = big(4000) + big(7) + big(UInt16(8 + count)) + [0, 0] + data
            try driver.send([packet(to: station, 17, udp, checksumAt: 6, partial: partial)])
            var space = [UInt8](repeating: 0, count: 2000)
            try waitUntilReadable(socket.raw)
            #expect(recv(socket.raw, &space, space.count, 0) == count)
            #expect(space[..<count] == data[...])
        }
        #expect(try driver.counters().writeFailures == 0)
        // A header that says what cannot be is this frame's end, not the link's.
        var wrong = packet(to: station, 17, big(4000) + big(7) + big(8) + [0, 0], checksumAt: 6, partial: true)
        wrong[6] = 0xff
        try driver.send([wrong])
        #expect(try driver.counters().writeFailures == 1)
        #expect(driver.status == 1)
    }

    /// A guest that takes segments gets them whole, with the checksum left open; another gets frames as on a wire.
    @Test(arguments: [UInt64.max, ~NetFeature.guestTSO4, ~(NetFeature.guestTSO4 | NetFeature.guestCsum)])
    func segmentsAreForThoseWhoTakeThem(features: UInt64) throws {
        let namespace = try Namespace()
        let driver = try NetDriver(.tap([try namespace.openWithAddresses()]), features: features)
        try driver.supply(60, of: 1600)
        let socket = try namespace.socket(connecting: true)
        let greeting = try next(driver, 6).frame
        #expect(greeting.count < 100 && greeting[47] == 2, "a SYN")
        let sequence = greeting[38..<42].reduce(0 as UInt32) { $0 << 8 | UInt32($1) } &+ 1
        let acknowledged = big(UInt16(sequence >> 16)) + big(UInt16(sequence & 0xffff))
        let options: [UInt8] = [2, 4, 5, 0x50]
        let answer = [0, 80] + greeting[34..<36] + [0, 0, 0, 9] + acknowledged + [0x60, 0x12, 0xff, 0xff, 0, 0, 0, 0]
        try driver.send([
            packet(to: Array(greeting[6..<12]), 6, answer + options, checksumAt: 16, partial: false)
        ])
        var watched = pollfd(fd: socket.raw, events: Int16(POLLOUT), revents: 0)
        #expect(poll(&watched, 1, 20_000) == 1 && watched.revents & Int16(POLLOUT) != 0)
        let data = [UInt8](repeating: 0x5a, count: 12_000)
        #expect(send(socket.raw, data, data.count, 0) == data.count)
        var received = 0
        var longest = 0
        while received < data.count {
            let (header, segment) = try next(driver, 6)
            let offset = 34 + Int(segment[46] >> 4) * 4
            let end = 14 + Int(segment[16]) << 8 + Int(segment[17])
            received += max(0, end - offset)
            longest = max(longest, segment.count)
            let isWhole = segment.count > 1414
            #expect(header[1] == (isWhole ? 1 : 0) && !isWhole || header[0] & 1 == 1)
            if features & NetFeature.guestCsum == 0 { #expect(header[..<10].allSatisfy { $0 == 0 }) }
        }
        #expect((longest > 1414) == (features & NetFeature.guestTSO4 != 0))
    }

    @Test func aDeviceHasOneUser() throws {
        let namespace = try Namespace()
        let first = try namespace.open("tap0")
        #expect(first.name == "tap0")
        let busy =
            "Open tap device failed: Error while creating ifreq structure: Device or resource busy (os error 16). "
        do {
            _ = try namespace.open("tap0")
            Issue.record("opened twice")
        } catch let error as TapError {
            #expect("\(error)".hasPrefix("\(busy)Invalid TUN/TAP Backend provided by tap0. "))
        }
        for name in ["", "sixteen-letters.", "a/b", "a b"] {
            #expect(throws: TapError.badName) { try namespace.open(name) }
        }
        // One that is for several queues can be used with one.
        try namespace.run("tuntap add mode tap name tap1 multi_queue")
        _ = try namespace.open("tap1")
        // What is there and is no TAP.
        #expect(throws: TapError.self) { try namespace.open("lo") }
    }

    @Test func aDeviceThatGoesTakesTheCarrier() throws {
        let namespace = try Namespace()
        try namespace.run("tuntap add mode tap name tap0")
        let driver = try NetDriver(.tap([try namespace.openWithAddresses()]))
        try driver.supply(20, of: 1600)
        #expect(driver.status == 1)
        try namespace.run("link del tap0")
        while driver.status == 1 { try driver.harness.waitForInterrupt() }
        try driver.send([frame([UInt8](repeating: 1, count: 60))])
        #expect(try driver.counters().droppedFromGuest == 1)
    }

    /// Each pair has a queue of the device, and an answer comes by the one that the question came by; a queue that is
    /// not used gets nothing.
    @Test func pairsHaveQueuesOfTheDevice() throws {
        let namespace = try Namespace()
        let queues = try namespace.openQueues(2)
        #expect(queues.count == 2)
        let driver = try NetDriver(.tap(queues), pairs: 2)
        for pair in 0..<2 { try driver.supply(60, of: 1600, pair: pair) }
        let station = try station(driver)
        /// An echo, whose answer comes by a pair. The kernel notes by which queue a flow sent when it has dealt with the
        /// frame, the answer to which is on its way by then: so another one, which nobody answers, goes before.
        func ask(_ identifier: UInt8, by pair: Int, back: Int) throws {
            let rest = [0, 0, 0, 0, identifier, 0, 1] + [UInt8](repeating: identifier, count: 40)
            let records = ([0, 8] as [UInt8]).map { type in
                packet(to: station, 1, [type] + rest, checksumAt: 2, partial: false, pseudo: false)
            }
            try driver.send(records, pair: pair)
            let answer = try next(driver, 1, pair: back).frame
            #expect(answer[34] == 0 && Array(answer[42...]) == Array(rest[7...]))
        }
        try ask(1, by: 0, back: 0)
        try ask(2, by: 1, back: 0)
        #expect(try driver.command([4, 0, 2, 0]) == [0])
        for round in 0..<6 as Range<UInt8> { try ask(round, by: Int(round) % 2, back: Int(round) % 2) }
        #expect(try driver.command([4, 0, 1, 0]) == [0])
        for pair in 0..<2 { try ask(9, by: pair, back: 0) }
        #expect(try driver.counters().writeFailures == 0 && driver.counters().readFailures == 0)
        // A device that takes one queue, or came as a descriptor, serves all pairs with it.
        guard case .tap(let adopted) = try NetPeer(descriptor: queues[0].raw) else { return }
        let alone = try adopted[0].queues(3)
        #expect(adopted.count == 1 && alone.count == 1)
        #expect(try namespace.open("tap7").queues(3).count == 1)
        try namespace.run("link del tap0")
        while driver.status == 1 { try driver.harness.waitForInterrupt() }
    }

    @Test func descriptorsAreHandedOver() throws {
        let namespace = try Namespace()
        let tap = try namespace.openWithAddresses()
        guard case .tap(let queues) = try NetPeer(descriptor: tap.raw), let same = queues.first else {
            Issue.record("a TAP is taken for something else")
            return
        }
        #expect(same.name == "tap0" && same.raw != tap.raw && queues.count == 1)
        let pair = try UnixSocket.pair(kind: .records)
        guard case .socket = try NetPeer(descriptor: pair.first.raw) else {
            Issue.record("a socket of records is taken for something else")
            return
        }
        let stream = try UnixSocket.pair(kind: .stream)
        let file = try Descriptor.memoryFile("none")
        for raw in [stream.first.raw, file.raw] {
            #expect(throws: TapError.notATap(raw)) { _ = try NetPeer(descriptor: raw) }
        }
        #expect(throws: TapError.self) { _ = try NetPeer(descriptor: 1_000_000) }
    }

    @Test(arguments: 0..<2 as Range<UInt64>) func hostileDriver(seed: UInt64) throws {
        let namespace = try Namespace()
        let tap = try namespace.openWithAddresses()
        let device = try NetDevice(peer: .tap([tap]), address: guestAddress, memory: try DeviceHarness.makeMemory())
        try fuzzQueues(device, seed: seed, rounds: 150) { random in
            random.bytes([10, 26, 60, 1000].randomElement(using: &random) ?? 26)
        }
    }
}
