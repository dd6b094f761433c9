// SPDX-License-Identifier: Apache-2.0
//
// The on-disk format of EROFS, as in the kernel's Documentation/filesystems/erofs.rst. All numbers are little-endian.

/// Constants of EROFS, and what this project makes of the choices that the format leaves.
enum Erofs {
    static let magic: UInt32 = 0xE0F5_E1E2
    static let superblockOffset = 1024
    static let superblockInBytes = 128
    /// Blocks of 4096 bytes, the only size that every kernel with EROFS can mount.
    static let blockBits: UInt8 = 12
    static let blockInBytes = 1 << 12
    /// A node number counts slots of 32 bytes from the start of the metadata.
    static let slotInBytes = 32
    static let compactInodeInBytes = 32
    static let extendedInodeInBytes = 64
    static let direntInBytes = 12
    /// A block address that means a hole.
    static let hole = UInt32.max
    static let maximumNameInBytes = 255

    enum CompatibleFeature {
        static let superblockChecksum: UInt32 = 1
        static let modificationTime: UInt32 = 2
    }

    enum IncompatibleFeature {
        static let chunkedFile: UInt32 = 4
    }

    enum Layout: UInt16 {
        /// All data in consecutive blocks.
        case plain = 0
        /// Whole blocks consecutive, the rest right after the inode.
        case inline = 2
        /// A map of chunks after the inode.
        case chunked = 4
    }

    /// Bits of a chunked inode's format.
    enum ChunkFormat {
        static let bitsMask: UInt16 = 0x1F
        static let indexes: UInt16 = 0x20
        static let all: UInt16 = 0x3F
    }

    static let xattrHeaderInBytes = 12
    /// The most that `i_xattr_icount` can express.
    static let maximumXattrBodyInBytes = xattrHeaderInBytes + (Int(UInt16.max) - 1) * 4

    /// Prefixes of attributes' names, with the numbers that stand for them.
    static let xattrPrefixes: [(number: UInt8, prefix: [UInt8])] = [
        (1, Array("user.".utf8)), (2, Array("system.posix_acl_access".utf8)),
        (3, Array("system.posix_acl_default".utf8)), (4, Array("trusted.".utf8)), (6, Array("security.".utf8)),
    ]

    /// A file's type as directory entries have it.
    static func entryType(_ type: FileType) -> UInt8 {
        switch type {
        case .file: 1
        case .directory: 2
        case .characterDevice: 3
        case .blockDevice: 4
        case .fifo: 5
        case .socket: 6
        case .symbolicLink: 7
        }
    }

    /// A device number as the kernel encodes it in 32 bits; nil where it does not fit.
    static func device(major: UInt32, minor: UInt32) -> UInt32? {
        guard major < 1 << 12, minor < 1 << 20 else { return nil }
        return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
    }

    static func deviceNumbers(_ encoded: UInt32) -> (major: UInt32, minor: UInt32) {
        ((encoded & 0xF_FF00) >> 8, (encoded & 0xFF) | ((encoded >> 12) & 0xF_FF00))
    }

    static func roundUp(_ value: UInt64, to alignment: Int) -> UInt64 {
        let mask = UInt64(alignment - 1)
        return (value &+ mask) & ~mask
    }

    /// CRC-32C without the final inversion, as the kernel's `crc32c(~0, …)`.
    static func crc32c(_ bytes: ArraySlice<UInt8>) -> UInt32 {
        var crc = UInt32.max
        for byte in bytes {
            crc ^= UInt32(byte)
            for _ in 0..<8 { crc = crc & 1 != 0 ? (crc >> 1) ^ 0x82F6_3B78 : crc >> 1 }
        }
        return crc
    }
}

extension [UInt8] {
    mutating func appendLittleEndian<Number: FixedWidthInteger & UnsignedInteger>(_ number: Number) {
        var rest = number
        for _ in 0..<(Number.bitWidth / 8) {
            append(UInt8(truncatingIfNeeded: rest))
            rest = Number.bitWidth > 8 ? rest >> 8 : 0
        }
    }
}
