// SPDX-License-Identifier: Apache-2.0

// Linux, Documentation/arch/x86/boot.rst: "The Real-Mode Kernel Header".
extension KernelImage {
    static func parseBzImage(
        head: [UInt8], fileSize: UInt64, lowMemoryEnd: UInt64
    ) throws(KernelImageError) -> KernelImage {
        guard let version = head.little(UInt16.self, at: 0x206), head.count >= 0x300 else {
            throw .notAKernel("it is a bzImage, cut off in its header")
        }
        guard version >= 0x20c, let initSize = head.little(UInt32.self, at: 0x260) else {
            let text = "\(version >> 8).\(version & 0xff)"
            throw .notAKernel("it is a bzImage of boot protocol \(text), but 2.12 (Linux 3.8) or later is needed")
        }
        let loadFlags = head[0x211]
        let extendedFlags = head.little(UInt16.self, at: 0x236) ?? 0
        guard loadFlags & 1 != 0, extendedFlags & 1 != 0 else {
            throw .notAKernel("it is a bzImage without a 64-bit entry: a 32-bit kernel?")
        }
        // 0 stands for 4, for the sake of LILO.
        let setupSectors = head[0x1f1] == 0 ? 4 : UInt64(head[0x1f1])
        let start = (setupSectors + 1) * 512
        guard start < fileSize else { throw .notAKernel("it is a bzImage, cut off before its kernel") }
        let count = fileSize - start
        // In units of 16 bytes; what follows is a signature.
        let stated = UInt64(head.little(UInt32.self, at: 0x1f4) ?? 0) * 16
        guard stated <= count else { throw .notAKernel("it is a bzImage, cut off within its kernel") }
        // The kernel unpacks itself where it likes to lie, and needs init_size there.
        let preferred = head.little(UInt64.self, at: 0x258) ?? 0
        let address = GuestLayout.highMemory
        let (unpackedEnd, overflow) = max(preferred, address).addingReportingOverflow(UInt64(initSize))
        let (loadedEnd, loadedOverflow) = address.addingReportingOverflow(count)
        guard !overflow, !loadedOverflow, count > 0x200 else { throw .notAKernel("its bzImage header is damaged") }
        let highest = max(unpackedEnd, loadedEnd)
        guard highest <= lowMemoryEnd else { throw .memoryTooSmall(neededInBytes: highest) }
        let headerEnd = min(0x202 + Int(head[0x201]), 0x290)
        guard headerEnd > 0x264 else { throw .notAKernel("its bzImage header is too short") }
        let limit = Int(head.little(UInt32.self, at: 0x238) ?? 0)
        return KernelImage(
            segments: [
                KernelSegment(fileOffset: start, fileCount: count, guestAddress: address, guestCount: count)
            ],
            entry: .linux64(address: address + 0x200), setupHeader: Array(head[0x1f1..<headerEnd]),
            highestAddress: highest, commandLineLimit: min(limit, GuestLayout.commandLineCapacity - 1))
    }
}
