// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import KVM
internal import Platform
internal import Virtio

/// The virtual machine's generation identifier (Microsoft, "Virtual Machine Generation ID"): 16 bytes in the guest's
/// memory that are others in every machine that goes on from another's state. The guest is told by an interrupt of the
/// generic event device, and its kernel stirs its random numbers before anything else of it is asked.
enum VMGeneration {
    static let size = 16

    /// Puts a fresh identifier into the memory.
    static func renew(in memory: GuestMemory) throws(MachineError) {
        var bytes = [UInt8](repeating: 0, count: size)
        let count = unsafe bytes.withUnsafeMutableBytes { space in
            retryingInterrupts { unsafe clinux_getrandom(space.baseAddress, space.count) }
        }
        guard count == size else { throw .system("the machine's generation", SystemError("getrandom")) }
        do throws(VirtioError) { try memory.write(bytes, at: GuestLayout.generationIdentifier) } catch {
            preconditionFailure("the low MiB is memory in every machine")
        }
    }

    /// The guest is told that the identifier is another.
    static func announce(_ vm: borrowing VM) throws(MachineError) {
        do throws(KVMError) { try vm.pulse(line: GuestLayout.eventInterrupt) } catch { throw .kvm(error) }
    }
}
