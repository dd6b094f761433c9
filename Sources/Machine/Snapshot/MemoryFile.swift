// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Wire

/// A snapshot's memory file: the guest's memory as the mapping has it, its ranges one after another, zero pages left
/// out as holes; behind it a page that says whose memory it is. Docs/SNAPSHOT-FORMAT.md.
enum MemoryFile {
    static let magic = Array("MARTMEMY".utf8)
    static let version: UInt32 = 1
    /// In bytes, a whole page.
    static let trailerSize: UInt64 = 4096
    /// How much of it means something, its checksum included.
    private static let fieldsSize = 64
    /// What says that all of the memory is there.
    private static let whole: UInt32 = 0

    static func trailer(_ state: MachineState) -> [UInt8] {
        var bytes = magic
        bytes.appendInteger(version)
        bytes.appendInteger(SnapshotFile.architecture)
        bytes.appendInteger(state.memorySize)
        bytes += state.identifier.bytes
        bytes.appendInteger(state.kind == .full ? whole : 1 as UInt32)
        while bytes.count < 60 { bytes.append(0) }
        bytes.appendInteger(CRC32C.of(bytes))
        while bytes.count < Int(trailerSize) { bytes.append(0) }
        return bytes
    }

    /// Fails unless the file is the memory of that snapshot.
    static func check(_ file: borrowing Descriptor, _ path: String, _ state: MachineState) throws(MachineError) {
        let purpose = "the memory file \(path)"
        let size = try system(purpose) { () throws(SystemError) in try file.size() }
        let expected = state.memorySize + trailerSize
        let trailer = try system(purpose) { () throws(SystemError) in try readTrailer(file, size) }
        let isOurs = trailer.count == fieldsSize && trailer.starts(with: magic)
        guard isOurs || size < expected else { throw .snapshot(path: path, .foreignMemory) }
        guard size == expected, isOurs else {
            throw .snapshot(path: path, .wrongLength(announced: expected, present: size))
        }
        guard CRC32C.of(trailer[..<60]) == trailer.integer(at: 60, as: UInt32.self) else {
            throw .snapshot(path: path, .damaged("its last page"))
        }
        guard trailer.integer(at: 8, as: UInt32.self) == version else {
            throw .snapshot(path: path, .newer(version: trailer.integer(at: 8) ?? 0, monitor: "another"))
        }
        guard trailer[24..<40].elementsEqual(state.identifier.bytes),
            trailer.integer(at: 16, as: UInt64.self) == state.memorySize
        else { throw .snapshot(path: path, .otherMemory) }
    }

    /// Whether the file is all of the memory of a snapshot that is known by its identifier.
    static func isWhole(
        _ file: borrowing Descriptor, of identifier: SnapshotIdentifier, memorySize: UInt64
    ) -> Bool {
        guard let size = try? file.size(), size == memorySize + trailerSize,
            let trailer = try? readTrailer(file, size), trailer.count == fieldsSize, trailer.starts(with: magic)
        else { return false }
        return CRC32C.of(trailer[..<60]) == trailer.integer(at: 60, as: UInt32.self)
            && trailer.integer(at: 8, as: UInt32.self) == version
            && trailer.integer(at: 16, as: UInt64.self) == memorySize
            && trailer[24..<40].elementsEqual(identifier.bytes)
            && trailer.integer(at: 40, as: UInt32.self) == whole
    }

    /// The last page's fields, or as much of them as there is.
    private static func readTrailer(_ file: borrowing Descriptor, _ size: UInt64) throws(SystemError) -> [UInt8] {
        var trailer = [UInt8](repeating: 0, count: fieldsSize)
        let start = size >= trailerSize ? size - trailerSize : 0
        let raw = file.raw
        let count = unsafe trailer.withUnsafeMutableBytes { space in
            retryingInterrupts { unsafe pread(raw, space.baseAddress, space.count, off_t(clamping: start)) }
        }
        guard count >= 0 else { throw SystemError("pread") }
        return Array(trailer.prefix(count))
    }
}
