// SPDX-License-Identifier: Apache-2.0

/// A part of a kernel's file and where it belongs in the guest's memory.
struct KernelSegment: Equatable {
    let fileOffset: UInt64
    let fileCount: UInt64
    let guestAddress: UInt64
    /// At least `fileCount`; the rest is zero.
    let guestCount: UInt64
}

/// How a kernel wants to be entered.
enum KernelEntry: Equatable {
    /// 32-bit protected mode, RBX at the start information (Xen's PVH boot ABI).
    case pvh(address: UInt64)
    /// 64-bit mode, RSI at the zero page (Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    case linux64(address: UInt64)
}

/// A kernel: what to load where, and how to start it.
struct KernelImage: Equatable {
    let segments: [KernelSegment]
    let entry: KernelEntry
    /// A bzImage's own setup header, from file offset 0x1f1; empty for an ELF.
    let setupHeader: [UInt8]
    /// The end of what the kernel uses before it manages memory itself.
    let highestAddress: UInt64
    /// The longest command line it takes, in bytes, without the final zero.
    let commandLineLimit: Int
}

/// Why a file cannot be booted.
enum KernelImageError: Error, Equatable {
    /// It is something else, or damaged.
    case notAKernel(String)
    /// It is a kernel that needs more memory below 3 GiB than the machine has.
    case memoryTooSmall(neededInBytes: UInt64)
    /// The file could not be read.
    case unreadable(String)
}

/// Bytes of the file: fewer than asked for where it ends.
typealias KernelReader = (_ offset: UInt64, _ count: Int) throws(KernelImageError) -> [UInt8]

extension KernelImage {
    /// Recognises a kernel by its first bytes and checks all that is used of its headers.
    /// - Parameters:
    ///   - fileSize: in bytes.
    ///   - lowMemoryEnd: the end of the machine's memory below the hole.
    static func parse(
        fileSize: UInt64, lowMemoryEnd: UInt64, read: KernelReader
    ) throws(KernelImageError) -> KernelImage {
        guard fileSize > 0 else { throw .notAKernel("the file is empty") }
        let head = try read(0, 4096)
        if head.starts(with: [0x7f, 0x45, 0x4c, 0x46]) {
            return try parseELF(head: head, fileSize: fileSize, lowMemoryEnd: lowMemoryEnd, read: read)
        }
        if head.little(UInt32.self, at: 0x202) == 0x5372_6448 {  // "HdrS"
            return try parseBzImage(head: head, fileSize: fileSize, lowMemoryEnd: lowMemoryEnd)
        }
        throw .notAKernel("it looks like \(look(head)); an uncompressed ELF vmlinux or an x86 bzImage is wanted")
    }

    /// What a file that is no kernel looks like.
    private static func look(_ head: [UInt8]) -> String {
        let known: [([UInt8], String)] = [
            ([0x1f, 0x8b], "gzip data (gunzip it first)"),
            ([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], "xz data (unxz it first)"),
            ([0x28, 0xb5, 0x2f, 0xfd], "zstd data (unzstd it first)"),
            ([0x42, 0x5a, 0x68], "bzip2 data (bunzip2 it first)"),
            ([0x04, 0x22, 0x4d, 0x18], "lz4 data (unlz4 it first)"),
            ([0x23, 0x21], "a script"),
            ([0x51, 0x46, 0x49, 0xfb], "a qcow2 disk image"),
            (Array("070701".utf8), "a cpio archive (an initrd?)"),
            (Array("!<arch>".utf8), "an ar archive or a Debian package"),
            ([0xed, 0xab, 0xee, 0xdb], "an RPM package"),
            ([0x50, 0x4b, 0x03, 0x04], "a zip archive"),
            ([0x4d, 0x5a], "an EFI or Windows program"),
        ]
        for (magic, name) in known where head.starts(with: magic) { return name }
        if head.little(UInt32.self, at: 56) == 0x644d_5241 { return "a Linux kernel for arm64" }
        if head.little(UInt16.self, at: 0x438) == 0xef53 { return "an ext2, ext3 or ext4 file system" }
        if head.little(UInt32.self, at: 0x400) == 0xe0f5_e1e2 { return "an EROFS file system" }
        if head.count > 262, head[257..<262].elementsEqual("ustar".utf8) { return "a tar archive" }
        if head.little(UInt16.self, at: 0x1fe) == 0xaa55 { return "a disk image with a boot sector" }
        if head.allSatisfy({ $0 == 0 }) { return "zeros only" }
        if head.allSatisfy({ $0 >= 0x20 && $0 < 0x7f || $0 == 9 || $0 == 10 || $0 == 13 }) { return "text" }
        return "data of an unknown kind"
    }
}
