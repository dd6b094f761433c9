// SPDX-License-Identifier: Apache-2.0

import Platform
import Synchronization
import TestSupport
import Testing
import VirtioTestSupport

@testable import Machine

@Suite struct PortDeviceTests {
    private final class Events: Sendable {
        let all = Mutex<[MachineEvent]>([])
        func report(_ event: MachineEvent) { all.withLock { $0.append(event) } }
    }

    private func write(_ device: PortDevice, _ port: UInt16, _ bytes: [UInt8]) {
        bytes.withUnsafeBytes { device.write(port: port, bytes: $0) }
    }

    private func read(_ device: PortDevice, _ port: UInt16, _ count: Int = 1) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { device.read(port: port, into: $0) }
        return bytes
    }

    @Test func resetsPowerOffAndPanicAreToldApart() throws {
        let events = Events()
        let keyboard = try I8042(report: events.report)
        let panic = PVPanic(report: events.report)
        let power = PowerControl(report: events.report)
        write(keyboard, 0x64, [0xd4])
        write(keyboard, 0x64, [0xfe])
        #expect(read(panic, 0x505, 4) == [1, 0xff, 0xff, 0xff])
        write(panic, 0x505, [1])
        write(power, 0x600, [0x14])
        write(power, 0x600, [0x34])
        write(power, 0x602, [0])
        write(power, 0x601, [0, 1])
        #expect(events.all.withLock { $0 } == [.reboot, .panic, .powerOff, .reboot])
    }

    @Test func registersOfTheSerialPort() {
        var uart = UARTRegisters()
        #expect(uart.read(5) == 0x60)
        #expect(uart.write(0, 65) == UARTRegisters.Effect(output: 65, interrupt: false))
        // Newly wanted: the transmitter is empty.
        #expect(uart.write(1, 2).interrupt)
        #expect(uart.read(2) == 0x02)
        #expect(uart.read(2) == 0x01)
        _ = uart.write(2, 1)
        #expect(uart.read(2) == 0xc1)
        _ = uart.write(3, 0x83)
        _ = uart.write(0, 1)
        _ = uart.write(1, 0)
        #expect(uart.read(0) == 1 && uart.read(1) == 0)
        _ = uart.write(3, 3)
        _ = uart.write(1, 1)
        let rises = uart.receive(66)
        #expect(rises)
        #expect(uart.read(2) & 0x0f == 0x04)
        #expect(uart.read(5) & 1 == 1)
        #expect(uart.read(0) == 66)
        for byte in 0..<20 as Range<UInt8> { _ = uart.receive(byte) }
        #expect(uart.read(5) & 2 == 2)
        // Loopback, which drivers probe with.
        _ = uart.write(4, 0x1a)
        #expect(uart.read(6) == 0x90)
    }

    @Test func outputReachesTheSinkAndInputTheGuest() throws {
        let pair = try UnixSocket.pair(nonBlocking: true)
        let host = SharedDescriptor(pair.second)
        let guest = SharedDescriptor(pair.first)
        let serial = try Serial16550(sink: guest, source: guest)
        let thread = try LoopThread()
        try serial.attach(to: thread.loop)
        thread.start()
        var random = SeededGenerator(1)
        let text = random.bytes(300_000)
        var got: [UInt8] = []
        var space = [UInt8](repeating: 0, count: 65536)
        // As long as the sink is read, nothing is lost.
        for start in stride(from: 0, to: text.count, by: 30_000) {
            for byte in text[start..<(start + 30_000)] { write(serial, 0x3f8, [byte]) }
            while got.count < start + 30_000 {
                try waitUntilReadable(host.raw)
                if case .bytes(let count) = try space.withUnsafeMutableBytes({ try host.descriptor.read(into: $0) }) {
                    got += space[..<count]
                }
            }
        }
        #expect(got == text)
        #expect(serial.droppedByteCount == 0)
        write(serial, 0x3f9, [1])
        try host.descriptor.writeAll(Array(text[..<100]))
        var input: [UInt8] = []
        while input.count < 100 {
            try waitUntilReadable(serial.interrupt.descriptor.raw)
            serial.interrupt.drain()
            while read(serial, 0x3fd)[0] & 1 == 1 { input += read(serial, 0x3f8) }
        }
        #expect(input == Array(text[..<100]))
        thread.end()
    }

    @Test func sinkThatIsNotReadCostsTheGuestNothing() throws {
        let pair = try UnixSocket.pair(nonBlocking: true)
        let serial = try Serial16550(sink: SharedDescriptor(pair.first))
        for _ in 0..<(Serial16550.bufferSize + 5) { write(serial, 0x3f8, [1]) }
        #expect(serial.droppedByteCount == 5)
    }

    @Test func randomAccesses() throws {
        var random = SeededGenerator(5)
        let serial = try Serial16550(sink: nil)
        for _ in 0..<200_000 {
            let port = UInt16.random(in: 0x3f0...0x402, using: &random)
            if Bool.random(using: &random) {
                write(serial, port, random.bytes([1, 2, 4].randomElement(using: &random) ?? 1))
            } else {
                _ = read(serial, port, [1, 2, 4].randomElement(using: &random) ?? 1)
            }
        }
    }
}
