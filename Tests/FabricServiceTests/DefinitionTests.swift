// SPDX-License-Identifier: Apache-2.0

import Fabric
import FabricAPI
import FabricService
import Packet
import TestSupport
import Testing

/// What can be made can be started: the fabric takes every network that a definition allows.
@Suite struct DefinitionTests {
    @Test(arguments: 0..<UInt64(fuzzRounds(2000))) func whatIsDefinedStarts(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let letters = Array("ab1_-.")
        let name = String(
            (0..<Int.random(in: 1...6, using: &generator)).map { _ in letters.randomElement(using: &generator) ?? "a" })
        guard NetworkDefinition.isName(name) else { return }
        var definition = NetworkDefinition(name: name)
        if Bool.random(using: &generator) {
            let length = Int.random(in: 8...30, using: &generator)
            let first = [0, 1, 10, 126, 127, 128, 169, 223, 224, 240, 255].randomElement(using: &generator) ?? 10
            let bits = UInt32(first) << 24 | UInt32.random(in: 0...0xFF_FFFF, using: &generator)
            let subnet = IPv4Prefix(IPv4Address(bits), length: length)
            definition.subnet = subnet
            definition.gateway = IPv4Address(subnet.network.value &+ UInt32.random(in: 0...4, using: &generator))
        }
        if Bool.random(using: &generator) {
            let highs: [UInt64] = [0, 1, 0xFD00 << 48, 0xFE80 << 48, 0xFF02 << 48, 0x2001 << 48]
            let high = highs.randomElement(using: &generator)
            let prefix = IPv6Prefix(IPv6Address(high: high ?? 1, low: 0), length: 64)
            definition.subnet6 = prefix
            definition.gateway6 = IPv6Address(
                high: prefix.network.high, low: UInt64.random(in: 0...2, using: &generator))
        }
        guard definition.problem == nil else { return }
        #expect(throws: Never.self) { try EndpointTable(networks: [Network(definition)], endpoints: []) }
    }
}
