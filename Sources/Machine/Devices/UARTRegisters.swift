// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// The registers of a 16550A and its receive FIFO, as a value. Its line is infinitely fast outwards: the transmitter is
/// always empty, what is written leaves at once.
struct UARTRegisters: Equatable, Sendable {
    private enum Offset {
        static let data: UInt16 = 0
        static let interruptEnable: UInt16 = 1
        static let interruptIdentity: UInt16 = 2
        static let lineControl: UInt16 = 3
        static let modemControl: UInt16 = 4
        static let lineStatus: UInt16 = 5
        static let modemStatus: UInt16 = 6
        static let scratch: UInt16 = 7
    }

    private enum InterruptEnable {
        static let receive: UInt8 = 0x01
        static let transmit: UInt8 = 0x02
    }

    private enum LineStatus {
        static let dataReady: UInt8 = 0x01
        static let overrun: UInt8 = 0x02
        static let transmitterEmpty: UInt8 = 0x60
    }

    /// What an access asks of the device around the registers.
    struct Effect: Equatable {
        /// A byte that leaves.
        var output: UInt8?
        /// The interrupt line rises, anew.
        var interrupt = false
    }

    /// In bytes.
    static let fifoSize = 16

    private var interruptEnable: UInt8 = 0
    private var lineControl: UInt8 = 3
    private var modemControl: UInt8 = 8
    private var scratch: UInt8 = 0
    private var divisor: UInt16 = 12
    private var fifoEnabled = false
    private var hasOverrun = false
    private var transmitPending = false
    private var received: [UInt8] = []

    init() {}

    /// The registers as a section of a snapshot: interrupt enable, line control, modem control, scratch, divisor (two
    /// bytes), and a byte of flags: FIFOs on, overrun, transmitter's interrupt pending. Then what was received.
    var fields: FieldWriter {
        var fields = FieldWriter()
        let flags: UInt8 = (fifoEnabled ? 1 : 0) | (hasOverrun ? 2 : 0) | (transmitPending ? 4 : 0)
        fields.append(
            SnapshotSection.Serial.registers,
            [
                interruptEnable, lineControl, modemControl, scratch, UInt8(truncatingIfNeeded: divisor),
                UInt8(truncatingIfNeeded: divisor >> 8), flags,
            ])
        fields.append(SnapshotSection.Serial.received, received)
        return fields
    }

    init(_ fields: FieldTable) throws(SnapshotFileError) {
        let bytes = try fields.bytes(SnapshotSection.Serial.registers, count: 7)
        interruptEnable = bytes[0] & 0x0f
        lineControl = bytes[1]
        modemControl = bytes[2] & 0x1f
        scratch = bytes[3]
        divisor = UInt16(bytes[4]) | UInt16(bytes[5]) << 8
        fifoEnabled = bytes[6] & 1 != 0
        hasOverrun = bytes[6] & 2 != 0
        transmitPending = bytes[6] & 4 != 0
        received = try fields.bytes(SnapshotSection.Serial.received, multipleOf: 1, limit: Self.fifoSize)
    }

    /// Whether the interrupt line is up.
    var interruptPending: Bool { transmitPending || receivePending }

    private var divisorAccess: Bool { lineControl & 0x80 != 0 }
    private var loopback: Bool { modemControl & 0x10 != 0 }
    private var receivePending: Bool { interruptEnable & InterruptEnable.receive != 0 && !received.isEmpty }

    /// Room for bytes from outside.
    var receiveSpace: Int { loopback ? 0 : Self.fifoSize - received.count }

    mutating func read(_ offset: UInt16) -> UInt8 {
        switch offset {
        case Offset.data:
            if divisorAccess { return UInt8(truncatingIfNeeded: divisor) }
            return received.isEmpty ? 0 : received.removeFirst()
        case Offset.interruptEnable:
            return divisorAccess ? UInt8(truncatingIfNeeded: divisor >> 8) : interruptEnable
        case Offset.interruptIdentity:
            let fifo: UInt8 = fifoEnabled ? 0xc0 : 0
            if receivePending { return fifo | 0x04 }
            if transmitPending {
                // Looking at it is what answers it.
                transmitPending = false
                return fifo | 0x02
            }
            return fifo | 0x01
        case Offset.lineControl: return lineControl
        case Offset.modemControl: return modemControl
        case Offset.lineStatus:
            var status = LineStatus.transmitterEmpty
            if !received.isEmpty { status |= LineStatus.dataReady }
            if hasOverrun { status |= LineStatus.overrun }
            hasOverrun = false
            return status
        case Offset.modemStatus:
            // In loopback the modem's outputs come back as its inputs; else carrier, data set and clear to send are on.
            guard loopback else { return 0xb0 }
            return (modemControl & 0x02) << 3 | (modemControl & 0x01) << 5 | (modemControl & 0x0c) << 4
        case Offset.scratch: return scratch
        default: return 0xff
        }
    }

    mutating func write(_ offset: UInt16, _ value: UInt8) -> Effect {
        switch offset {
        case Offset.data:
            if divisorAccess {
                divisor = divisor & 0xff00 | UInt16(value)
                return Effect()
            }
            if loopback {
                return Effect(interrupt: receive(value))
            }
            transmitPending = interruptEnable & InterruptEnable.transmit != 0
            return Effect(output: value, interrupt: transmitPending)
        case Offset.interruptEnable:
            if divisorAccess {
                divisor = divisor & 0x00ff | UInt16(value) << 8
                return Effect()
            }
            let before = interruptEnable
            interruptEnable = value & 0x0f
            // The transmitter is empty: whoever newly wants to know is told at once.
            if interruptEnable & ~before & InterruptEnable.transmit != 0 { transmitPending = true }
            if interruptEnable & InterruptEnable.transmit == 0 { transmitPending = false }
            return Effect(interrupt: transmitPending || receivePending)
        case Offset.interruptIdentity:
            fifoEnabled = value & 0x01 != 0
            if value & 0x02 != 0 { received.removeAll(keepingCapacity: true) }
        case Offset.lineControl: lineControl = value
        case Offset.modemControl: modemControl = value & 0x1f
        case Offset.scratch: scratch = value
        default: break
        }
        return Effect()
    }

    /// A byte comes in; true when the interrupt line rises. Bytes beyond the FIFO are lost, which the status shows.
    mutating func receive(_ byte: UInt8) -> Bool {
        guard received.count < Self.fifoSize else {
            hasOverrun = true
            return false
        }
        received.append(byte)
        return receivePending
    }
}
