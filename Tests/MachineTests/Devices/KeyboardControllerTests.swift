// SPDX-License-Identifier: Apache-2.0

import Platform
import TestSupport
import Testing
import VirtioTestSupport
import Wire

@testable import Machine

@Suite struct KeyboardControllerTests {
    private let data = KeyboardController.data
    private let command = KeyboardController.command

    private func readAll(_ controller: inout KeyboardController) -> [UInt8] {
        var bytes: [UInt8] = []
        while controller.read(command).value & 1 != 0 { bytes.append(controller.read(data).value) }
        return bytes
    }

    /// What Linux's i8042 and atkbd drivers ask when they look for a keyboard.
    @Test func driversFindAKeyboard() {
        var controller = KeyboardController()
        _ = controller.write(command, 0x20)
        #expect(readAll(&controller) == [0x05])
        _ = controller.write(command, 0x60)
        _ = controller.write(data, 0x45)
        _ = controller.write(command, 0x20)
        #expect(readAll(&controller) == [0x45])
        _ = controller.write(command, 0xaa)
        #expect(readAll(&controller) == [0x55])
        #expect(controller.write(data, 0xf2) == .interrupt)
        #expect(readAll(&controller) == [0xfa, 0xab, 0x83])
        for byte: UInt8 in [0xed, 0x00] { _ = controller.write(data, byte) }
        #expect(readAll(&controller) == [0xfa, 0xfa])
        for byte: UInt8 in [0xf0, 0x00] { _ = controller.write(data, byte) }
        #expect(readAll(&controller) == [0xfa, 0xfa, 0x02])
        _ = controller.write(data, 0xff)
        #expect(readAll(&controller) == [0xfa, 0xaa])
    }

    @Test func ctrlAltDeleteInBothScanCodeSets() {
        var controller = KeyboardController()
        #expect(controller.pressCtrlAltDelete() == .interrupt)
        #expect(controller.read(data).effect == .interrupt)
        #expect(readAll(&controller) == [0x11, 0xe0, 0x71])
        _ = controller.write(command, 0x60)
        _ = controller.write(data, 0x44)
        #expect(controller.pressCtrlAltDelete() == [])
        #expect(readAll(&controller) == [0x1d, 0x38, 0xe0, 0x53])
    }

    @Test func nobodyReads() {
        var controller = KeyboardController()
        for _ in 0..<4 { #expect(controller.pressCtrlAltDelete() != nil) }
        #expect(controller.pressCtrlAltDelete() == nil)
    }

    @Test func theResetLineIsPulledInTwoWays() {
        var controller = KeyboardController()
        #expect(controller.write(command, 0xfe) == .reset)
        _ = controller.write(command, 0xd1)
        #expect(controller.write(data, 0x03) == [])
        _ = controller.write(command, 0xd1)
        #expect(controller.write(data, 0x02) == .reset)
    }

    /// Whatever a guest writes, what waits for it stays bounded.
    @Test func fuzz() {
        var generator = SeededGenerator(5)
        var controller = KeyboardController()
        for _ in 0..<20_000 {
            let offset = UInt16.random(in: 0...4, using: &generator)
            if Bool.random(using: &generator) {
                _ = controller.write(offset, UInt8.random(in: 0...255, using: &generator))
            } else {
                _ = controller.read(offset)
            }
            _ = Int.random(in: 0..<50, using: &generator) == 0 ? controller.pressCtrlAltDelete() : nil
        }
        #expect(readAll(&controller).count <= 16)
    }

    /// Wherever it is saved, the driver finds what it would have found.
    @Test(arguments: 0..<20 as Range<UInt64>) func aSavedOneGoesOn(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        var controller = KeyboardController()
        let values: [UInt8] = [0x20, 0x60, 0xaa, 0xd1, 0x45, 0xf0, 0xf2, 0xed, 0, 2]
        for _ in 0..<300 {
            let value = values.randomElement(using: &generator) ?? 0
            switch Int.random(in: 0..<4, using: &generator) {
            case 0: _ = controller.write(command, value)
            case 1: _ = controller.read(data)
            case 2: _ = controller.pressCtrlAltDelete()
            default: _ = controller.write(data, value)
            }
            let table = try FieldTable(controller.fields.bytes, "the keyboard controller")
            #expect(try KeyboardController(table) == controller)
        }
    }

    /// Bytes that lie there when a machine is restored are told of again: the driver asks what there is.
    @Test func aRestoredOneInterrupts() throws {
        let keyboard = try I8042 { _ in }
        keyboard.restore(KeyboardController())
        #expect(keyboard.interrupt.drain() == 0)
        let pressed = try I8042 { _ in }
        #expect(pressed.pressCtrlAltDelete())
        keyboard.restore(pressed.captureState())
        #expect(keyboard.interrupt.drain() == 1)
        #expect(keyboard.captureState() == pressed.captureState())
    }
}
