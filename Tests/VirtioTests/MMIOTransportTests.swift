// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import VirtioTestSupport

@testable import Virtio

@Suite struct MMIOTransportTests {
    private static func make() -> MMIOTransport {
        MMIOTransport(
            deviceID: 2, features: 1 << 5, queueCount: 2, maximumQueueSize: 256, configuration: [1, 2, 3, 4, 5, 6])
    }

    private func negotiate(_ transport: inout MMIOTransport, _ features: UInt64) {
        _ = transport.write(MMIORegister.status, width: 4, value: 1)
        _ = transport.write(MMIORegister.status, width: 4, value: 3)
        for half in 0..<2 as Range<UInt64> {
            _ = transport.write(MMIORegister.driverFeaturesSel, width: 4, value: half)
            _ = transport.write(MMIORegister.driverFeatures, width: 4, value: features >> (32 * half) & 0xffff_ffff)
        }
        _ = transport.write(MMIORegister.status, width: 4, value: 11)
    }

    @Test func identity() {
        let transport = Self.make()
        #expect(transport.read(0, width: 4, interruptStatus: 0) == 0x7472_6976)
        #expect(transport.read(4, width: 4, interruptStatus: 0) == 2)
        #expect(transport.read(8, width: 4, interruptStatus: 0) == 2)
        #expect(transport.read(0x60, width: 4, interruptStatus: 3) == 3)
        #expect(transport.read(0xb0, width: 4, interruptStatus: 0) == 0xffff_ffff)
        #expect(transport.read(0, width: 2, interruptStatus: 0) == 0)
    }

    @Test(arguments: [(0, 1, 1), (1, 2, 0x302), (2, 4, 0x0605_0403), (4, 4, 0x0605), (6, 4, 0)])
    func configurationInAllWidths(offset: UInt64, width: Int, value: UInt64) {
        #expect(Self.make().read(0x100 + offset, width: width, interruptStatus: 0) == value)
    }

    @Test(arguments: [
        (MMIOTransport.version1, true), (MMIOTransport.version1 | 1 << 5, true), (1 << 5, false),
        (MMIOTransport.version1 | 1 << 6, false),
    ])
    func onlyOfferedFeaturesWithVersion1(features: UInt64, agreed: Bool) {
        var transport = Self.make()
        negotiate(&transport, features)
        #expect(transport.status.contains(.featuresOK) == agreed)
        #expect(transport.write(MMIORegister.status, width: 4, value: 15) == (agreed ? .activate : .none))
        #expect(transport.isActive == agreed)
    }

    @Test func layoutIsFixedOnceReady() {
        var transport = Self.make()
        _ = transport.write(MMIORegister.queueReady, width: 4, value: 1)
        #expect(!transport.queues[0].isReady, "not before the features are agreed on")
        negotiate(&transport, MMIOTransport.version1)
        _ = transport.write(MMIORegister.queueSel, width: 4, value: 1)
        _ = transport.write(MMIORegister.queueNum, width: 4, value: 64)
        _ = transport.write(MMIORegister.queueDescLow, width: 4, value: 0x1000)
        _ = transport.write(MMIORegister.queueDescHigh, width: 4, value: 1)
        _ = transport.write(MMIORegister.queueReady, width: 4, value: 1)
        _ = transport.write(MMIORegister.queueNum, width: 4, value: 32)
        #expect(transport.queues[1].size == 64)
        #expect(transport.queues[1].descriptorTable == 0x1_0000_1000)
        #expect(transport.read(MMIORegister.queueReady, width: 4, interruptStatus: 0) == 1)
        _ = transport.write(MMIORegister.queueSel, width: 4, value: 2)
        #expect(transport.read(MMIORegister.queueNumMax, width: 4, interruptStatus: 0) == 0)
    }

    @Test func resetForgetsAllButTheConfiguration() {
        var transport = Self.make()
        negotiate(&transport, MMIOTransport.version1)
        _ = transport.write(MMIORegister.status, width: 4, value: 15)
        transport.setConfiguration([7])
        transport.failDevice()
        #expect(transport.status.contains(.needsReset))
        #expect(transport.write(MMIORegister.status, width: 4, value: 0) == .reset)
        transport.reset()
        var fresh = Self.make()
        fresh.setConfiguration([7])
        #expect(transport == fresh)
    }

    @Test func bitsAreNotClearedOneByOne() {
        var transport = Self.make()
        negotiate(&transport, MMIOTransport.version1)
        _ = transport.write(MMIORegister.status, width: 4, value: 1)
        #expect(transport.status == [.acknowledge, .driver, .featuresOK])
    }
}

@Suite struct MMIOTransportFuzz {
    @Test(arguments: 0..<4 as Range<UInt64>)
    func randomAccesses(seed: UInt64) {
        var random = SeededGenerator(seed)
        var transport = MMIOTransport(
            deviceID: 1, features: 3, queueCount: 3, maximumQueueSize: 128, configuration: [1, 2, 3])
        var activations = 0
        for _ in 0..<100_000 {
            let offset =
                Bool.random(using: &random) ? random.next() % 0x110 & ~3 : random.next() >> (random.next() % 64)
            let width = [1, 2, 4, 4, 4, 8].randomElement(using: &random) ?? 4
            let value: UInt64 =
                switch Int.random(in: 0..<4, using: &random) {
                case 0: random.next()
                case 1: [1, 3, 11, 15].randomElement(using: &random) ?? 0
                default: random.next() % 4
                }
            _ = transport.read(offset, width: width, interruptStatus: 0)
            switch transport.write(offset, width: width, value: value) {
            case .activate: activations += 1
            case .reset: transport.reset()
            case .notify(let queue): #expect(queue < 3)
            case .none, .acknowledge: break
            }
            if transport.isActive {
                #expect(transport.status.contains(.featuresOK))
                #expect(transport.acceptedFeatures & ~transport.offeredFeatures == 0)
            }
        }
        #expect(activations > 0)
    }
}
