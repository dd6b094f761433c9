// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// Why a vCPU left the guest (KVM API, section 5, "The kvm_run structure"). Decoding one allocates nothing.
package enum KVMExit: Sendable {
    /// The guest reads from a port: fill `data` before the vCPU runs again. More than `size` bytes are a string
    /// instruction: one access of `size` bytes after another, all to the same port.
    case portRead(port: UInt16, size: Int, data: ExitData)
    case portWrite(port: UInt16, size: Int, data: ExitData)
    /// The guest reads 1 to 8 bytes where there is no memory: fill `data` before the vCPU runs again.
    case memoryRead(address: UInt64, data: ExitData)
    case memoryWrite(address: UInt64, data: ExitData)
    /// HLT without an in-kernel interrupt controller.
    case halted
    /// Triple fault.
    case shutdown
    case systemEvent(UInt32)
    /// KVM itself cannot go on with this guest.
    case internalError(KVMInternalError)
    /// The processor refuses the guest's state.
    case entryFailed(reason: UInt64)
    /// `VCPUKick.kick`, or another signal.
    case interrupted
    /// A reason that nobody asked KVM for, by its number.
    case unexpected(UInt32)
}

/// The bytes of one exit within the page that KVM shares with the monitor. Valid until the vCPU runs again.
@safe package struct ExitData: @unchecked Sendable {  // Used by the vCPU's own thread only.
    package let start: UnsafeMutableRawPointer
    package let count: Int

    /// The bytes, for whoever takes a raw buffer.
    @unsafe package var buffer: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: start, count: count)
    }

    /// The first bytes as a little-endian number; bytes beyond the eighth are left out.
    package var number: UInt64 {
        var value: UInt64 = 0
        for index in 0..<min(8, count) {
            value |= unsafe UInt64(start.load(fromByteOffset: index, as: UInt8.self)) << UInt64(8 * index)
        }
        return value
    }

    /// Sets all bytes, as an address that nobody answers does on a PC.
    package func fill(_ byte: UInt8) {
        unsafe start.initializeMemory(as: UInt8.self, repeating: byte, count: count)
    }
}

/// KVM_EXIT_INTERNAL_ERROR.
package struct KVMInternalError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What went wrong, by KVM's number for it.
    package let suberror: UInt32
    /// The bytes of the instruction that KVM could not emulate, little-endian, or 0 where it does not say.
    package let instruction: UInt64
    /// Where the guest was.
    package let instructionPointer: UInt64

    package var description: String {
        let what =
            switch suberror {
            case 1: "KVM cannot emulate an instruction"
            case 2: "an exception came while another was delivered"
            case 3: "the delivery of an event failed"
            case 4: "the processor gave an exit reason unknown to KVM"
            default: "unknown to this monitor"
            }
        var text = "KVM internal error, suberror \(suberror) (\(what)) at 0x\(String(instructionPointer, radix: 16))"
        if instruction != 0 {
            text += ", instruction bytes"
            for index in 0..<8 {
                let byte = UInt8(truncatingIfNeeded: instruction >> UInt64(8 * index))
                text += byte < 16 ? " 0" : " "
                text += String(byte, radix: 16)
            }
        }
        return text
    }
}
