// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// Why a file is no snapshot that this monitor reads. Each says what the file is instead.
package enum SnapshotFileError: Error, Equatable, Sendable, CustomStringConvertible {
    /// It does not begin as a snapshot does.
    case foreign
    /// Its format is of a version that came after this monitor.
    case newer(version: UInt32, monitor: String)
    case otherArchitecture(UInt32)
    /// It ends before all that its header announces, or goes on after it.
    case wrongLength(announced: UInt64, present: UInt64)
    /// A checksum does not fit.
    case damaged(String)
    /// It has a required section that this monitor does not know.
    case unknownSection(kind: UInt32, monitor: String)
    /// A section is missing, or says what cannot be.
    case malformed(String)
    /// A memory file that is none, or is that of another snapshot.
    case foreignMemory
    case otherMemory

    package var description: String {
        switch self {
        case .foreign: "this is no machine's state: it does not begin with MARTSNAP"
        case .newer(let version, let monitor):
            "this state has version \(version) of the format, written by monitor \(monitor); this one reads up to version "
                + "\(SnapshotFile.version): use a newer martlet"
        case .otherArchitecture(let number):
            "this state is of a machine of architecture \(number); this monitor runs \(SnapshotFile.architecture) (x86-64)"
        case .wrongLength(let announced, let present) where present < announced:
            "this state was cut short: \(present) bytes of \(announced) are there"
        case .wrongLength(let announced, let present):
            "this state goes on after its end: \(present) bytes instead of \(announced)"
        case .damaged(let part): "this state is damaged: the checksum of \(part) does not fit"
        case .unknownSection(let kind, let monitor):
            "this state has a section of kind \(kind), which is not to be skipped and which this monitor does not know; "
                + "monitor \(monitor) wrote it: use a newer martlet"
        case .malformed(let problem): "this state cannot be: \(problem)"
        case .foreignMemory: "this is no snapshot's memory: its last page does not begin with MARTMEMY"
        case .otherMemory: "this is the memory of another snapshot than the state's"
        }
    }
}

/// The container of a machine's state: a plain header and sections, each with its checksum. Docs/SNAPSHOT-FORMAT.md.
struct SnapshotFile: Equatable {
    struct Section: Equatable {
        let kind: UInt32
        /// Tells several sections of one kind apart: a vCPU's number, a device's slot.
        var index: UInt32 = 0
        /// Who does not know the kind cannot do without it.
        var isRequired = true
        let payload: [UInt8]
    }

    static let magic = Array("MARTSNAP".utf8)
    static let version: UInt32 = 1
    static let architecture: UInt32 = 1
    static let headerSize = 64
    static let sectionHeaderSize = 32
    /// The most bytes of a file, and the most sections.
    static let sizeLimitInBytes = 64 << 20
    static let sectionLimit = 4096
    private static let monitorRoom = 24

    var monitor: String
    var sections: [Section]

    init(monitor: String, sections: [Section]) {
        self.monitor = monitor
        self.sections = sections
    }

    // MARK: - Writing

    func encoded() -> [UInt8] {
        var body: [UInt8] = []
        for section in sections {
            var header: [UInt8] = []
            header.appendInteger(section.kind)
            header.appendInteger(section.index)
            header.appendInteger(section.isRequired ? 1 : 0 as UInt32)
            header.appendInteger(0 as UInt32)
            header.appendInteger(UInt64(section.payload.count))
            header.appendInteger(CRC32C.of(section.payload))
            header.appendInteger(CRC32C.of(header))
            body += header
            body += section.payload
            body.pad(to: 8)
        }
        var header = Self.magic
        header.appendInteger(Self.version)
        header.appendInteger(Self.architecture)
        header.appendInteger(UInt64(Self.headerSize + body.count))
        header.appendInteger(UInt32(sections.count))
        header.appendInteger(0 as UInt32)
        header += Array(monitor.utf8.prefix(Self.monitorRoom))
        while header.count < Self.headerSize - 8 { header.append(0) }
        header.appendInteger(0 as UInt32)
        header.appendInteger(CRC32C.of(header))
        return header + body
    }

    // MARK: - Reading

    /// - Parameter known: the kinds of sections that the caller reads.
    init(reading bytes: [UInt8], known: Set<UInt32>) throws(SnapshotFileError) {
        guard bytes.starts(with: Self.magic) else { throw .foreign }
        guard bytes.count >= Self.headerSize else {
            throw .wrongLength(announced: UInt64(Self.headerSize), present: UInt64(bytes.count))
        }
        // The monitor's name is for messages: whatever it has that is no plain text is left out.
        let name = bytes[32..<(32 + Self.monitorRoom)].filter { $0 > 0x20 && $0 < 0x7f }
        monitor = String(decoding: name, as: UTF8.self)
        guard CRC32C.of(bytes[..<60]) == bytes.integer(at: 60, as: UInt32.self) else { throw .damaged("its header") }
        let version = bytes.integer(at: 8, as: UInt32.self) ?? 0
        guard version >= 1, version <= Self.version else { throw .newer(version: version, monitor: monitor) }
        let architecture = bytes.integer(at: 12, as: UInt32.self) ?? 0
        guard architecture == Self.architecture else { throw .otherArchitecture(architecture) }
        let length = bytes.integer(at: 16, as: UInt64.self) ?? 0
        guard length == UInt64(bytes.count) else {
            throw .wrongLength(announced: length, present: UInt64(bytes.count))
        }
        let count = Int(bytes.integer(at: 24, as: UInt32.self) ?? 0)
        guard count <= Self.sectionLimit else { throw .malformed("\(count) sections") }
        sections = []
        var position = Self.headerSize
        for number in 0..<count {
            let section = try Self.readSection(bytes, &position, number)
            if known.contains(section.kind) {
                sections.append(section)
            } else if section.isRequired {
                throw .unknownSection(kind: section.kind, monitor: monitor)
            }
        }
        guard position == bytes.count else { throw .malformed("there are bytes after the last section") }
    }

    private static func readSection(
        _ bytes: [UInt8], _ position: inout Int, _ number: Int
    ) throws(SnapshotFileError) -> Section {
        let start = position
        guard bytes.count - start >= sectionHeaderSize else { throw .malformed("section \(number) has no room") }
        guard CRC32C.of(bytes[start..<(start + 28)]) == bytes.integer(at: start + 28, as: UInt32.self) else {
            throw .damaged("the header of section \(number)")
        }
        let kind = bytes.integer(at: start, as: UInt32.self) ?? 0
        let length = bytes.integer(at: start + 16, as: UInt64.self) ?? 0
        let room = bytes.count - start - sectionHeaderSize
        guard length <= UInt64(room) else { throw .malformed("section \(number) is longer than the file") }
        let payload = Array(bytes[(start + sectionHeaderSize)..<(start + sectionHeaderSize + Int(length))])
        guard CRC32C.of(payload) == bytes.integer(at: start + 24, as: UInt32.self) else {
            throw .damaged("section \(number) (kind \(kind))")
        }
        position = min(bytes.count, (start + sectionHeaderSize + Int(length) + 7) & ~7)
        return Section(
            kind: kind, index: bytes.integer(at: start + 4, as: UInt32.self) ?? 0,
            isRequired: (bytes.integer(at: start + 8, as: UInt32.self) ?? 0) & 1 != 0, payload: payload)
    }
}
