// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// An i8042 with a keyboard that nobody types on, as far as a driver needs it to find both (IBM PC/AT technical
/// reference, "Keyboard controller"; PS/2 "Keyboard and auxiliary device controller").
///
/// States: what the next byte to the data port is for, and what lies in the output buffer. Unknown commands to the
/// controller are ignored, unknown ones to the keyboard acknowledged.
struct KeyboardController: Equatable, Sendable {
    /// What an access did besides.
    struct Effect: OptionSet {
        let rawValue: UInt8
        static let interrupt = Effect(rawValue: 1)
        static let reset = Effect(rawValue: 2)
    }

    private enum Status {
        static let outputFull: UInt8 = 0x01
        static let systemFlag: UInt8 = 0x04
        static let command: UInt8 = 0x08
        static let notInhibited: UInt8 = 0x10
    }

    private enum Control {
        static let interrupt: UInt8 = 0x01
        static let systemFlag: UInt8 = 0x04
        static let disabled: UInt8 = 0x10
        static let translates: UInt8 = 0x40
    }

    /// Who gets the next byte that comes to the data port.
    private enum Recipient: Equatable {
        case keyboard
        /// The keyboard, as the operand of this command.
        case operand(UInt8)
        case control
        case outputPort
    }

    static let data: UInt16 = 0
    static let command: UInt16 = 4
    /// The most bytes that wait for the driver.
    private static let capacity = 16

    /// Keys pressed: Ctrl, Alt, Delete. As the keyboard says it (scan code set 2), and as the controller translates it.
    private static let ctrlAltDelete: [UInt8] = [0x14, 0x11, 0xe0, 0x71]
    private static let translated: [UInt8] = [0x1d, 0x38, 0xe0, 0x53]

    private var control = Control.interrupt | Control.systemFlag
    private var recipient = Recipient.keyboard
    private var output: [UInt8] = []
    private var lastWasCommand = false

    mutating func read(_ offset: UInt16) -> (value: UInt8, effect: Effect) {
        switch offset {
        case Self.data:
            guard !output.isEmpty else { return (0, []) }
            let value = output.removeFirst()
            return (value, interruptIfFull)
        case Self.command:
            var status = Status.systemFlag | Status.notInhibited
            if !output.isEmpty { status |= Status.outputFull }
            if lastWasCommand { status |= Status.command }
            return (status, [])
        default: return (0, [])
        }
    }

    mutating func write(_ offset: UInt16, _ value: UInt8) -> Effect {
        switch offset {
        case Self.data:
            lastWasCommand = false
            return give(value)
        case Self.command:
            lastWasCommand = true
            return obey(value)
        default: return []
        }
    }

    /// Presses Ctrl, Alt and Delete; nil where the driver has not taken what was there before.
    mutating func pressCtrlAltDelete() -> Effect? {
        guard output.count + 4 <= Self.capacity else { return nil }
        output += control & Control.translates == 0 ? Self.ctrlAltDelete : Self.translated
        return interruptIfFull
    }

    private var interruptIfFull: Effect {
        !output.isEmpty && control & Control.interrupt != 0 ? .interrupt : []
    }

    /// A command to the controller.
    private mutating func obey(_ command: UInt8) -> Effect {
        switch command {
        case 0x20: output = [control]
        case 0x60: recipient = .control
        case 0xaa: output = [0x55]  // self-test passed
        case 0xab: output = [0]  // the keyboard's lines are good
        case 0xad: control |= Control.disabled
        case 0xae: control &= ~Control.disabled
        case 0xd0: output = [0x03]  // neither reset nor address line 20 is held
        case 0xd1: recipient = .outputPort
        case 0xfe: return .reset
        default: break
        }
        // What the controller itself says is polled for.
        return []
    }

    /// A byte for whoever waits for one.
    private mutating func give(_ value: UInt8) -> Effect {
        let recipient = recipient
        self.recipient = .keyboard
        switch recipient {
        case .control:
            control = value
            return []
        case .outputPort:
            // Bit 0 low pulls the processor's reset line.
            return value & 1 == 0 ? .reset : []
        case .operand(0xf0) where value == 0:
            answer([0xfa, 0x02])  // scan code set 2
        case .operand:
            answer([0xfa])
        case .keyboard:
            switch value {
            case 0xed, 0xf0, 0xf3:
                answer([0xfa])
                self.recipient = .operand(value)
            case 0xee: answer([0xee])  // echo
            case 0xf2: answer([0xfa, 0xab, 0x83])  // what it is
            case 0xff: answer([0xfa, 0xaa])  // reset, self-test passed
            default: answer([0xfa])
            }
        }
        return interruptIfFull
    }

    private mutating func answer(_ bytes: [UInt8]) {
        guard output.count + bytes.count <= Self.capacity else { return }
        output += bytes
    }
}

// MARK: - State

extension KeyboardController {
    /// As a snapshot has it: section 10 of Docs/SNAPSHOT-FORMAT.md.
    var fields: FieldWriter {
        var fields = FieldWriter()
        let (next, operand): (UInt8, UInt8) =
            switch recipient {
            case .keyboard: (0, 0)
            case .operand(let command): (1, command)
            case .control: (2, 0)
            case .outputPort: (3, 0)
            }
        fields.append(SnapshotSection.Keyboard.registers, [control, next, operand, lastWasCommand ? 1 : 0])
        fields.append(SnapshotSection.Keyboard.output, output)
        return fields
    }

    init(_ fields: FieldTable) throws(SnapshotFileError) {
        let bytes = try fields.bytes(SnapshotSection.Keyboard.registers, count: 4)
        control = bytes[0]
        switch bytes[1] {
        case 0: recipient = .keyboard
        case 1: recipient = .operand(bytes[2])
        case 2: recipient = .control
        case 3: recipient = .outputPort
        case let other: throw .malformed("the keyboard controller waits for a byte of kind \(other)")
        }
        lastWasCommand = bytes[3] & 1 != 0
        output = try fields.bytes(SnapshotSection.Keyboard.output, multipleOf: 1, limit: Self.capacity)
    }

    /// Whether the driver has been told of bytes that it has not taken.
    var interruptPending: Bool { interruptIfFull.contains(.interrupt) }
}
