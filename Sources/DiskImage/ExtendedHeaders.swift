// SPDX-License-Identifier: Apache-2.0

/// What extended headers say about the entry that follows them: pax records, global ones and those for one entry, and
/// GNU tar's long names.
struct ExtendedHeaders {
    /// What they said about one entry.
    struct Description {
        var records: PAXRecords
        var longName: [UInt8]?
        var longLinkTarget: [UInt8]?

        func path(_ header: TarHeader) -> [UInt8] { records.sparseName ?? records.path ?? longName ?? header.name }
        func linkTarget(_ header: TarHeader) -> [UInt8] { records.linkTarget ?? longLinkTarget ?? header.linkTarget }
    }

    private var global = PAXRecords()
    private var local: PAXRecords?
    private var longName: [UInt8]?
    private var longLinkTarget: [UInt8]?
    private var inBytes = 0

    /// Whether an entry has to follow.
    var isPending: Bool { local != nil || longName != nil || longLinkTarget != nil }

    /// Whether a header of this size may come: all those before one entry are bounded together.
    mutating func admits(_ size: UInt64, limits: ConversionLimits) -> Bool {
        inBytes += Int(min(size, UInt64(limits.extendedHeaderInBytes) + 1))
        return inBytes <= limits.extendedHeaderInBytes
    }

    mutating func take(
        _ body: [UInt8], type: UInt8, limits: ConversionLimits
    ) throws(PAXRecords.ProblemWithRecord) {
        switch type {
        case UInt8(ascii: "L"): longName = Array(body.prefix { $0 != 0 })
        case UInt8(ascii: "K"): longLinkTarget = Array(body.prefix { $0 != 0 })
        case UInt8(ascii: "g"):
            try global.apply(body, limits: limits)
            inBytes = 0
        default:
            var records = local ?? global
            try records.apply(body, limits: limits)
            local = records
        }
    }

    /// The entry has come: gives what holds for it, of which the next one keeps only what is global.
    mutating func consume() -> Description {
        let description = Description(
            records: local ?? global, longName: longName, longLinkTarget: longLinkTarget)
        local = nil
        longName = nil
        longLinkTarget = nil
        inBytes = 0
        return description
    }
}

extension TarEntry {
    /// What a header and the extended ones before it say together, for a file; the kind and the device are still to be
    /// set.
    init(
        _ header: TarHeader, _ described: ExtendedHeaders.Description, offset: UInt64
    ) throws(ArchiveProblem) {
        let records = described.records
        let sizeInBytes: UInt64
        if let known = records.sizeInBytes { sizeInBytes = known } else { sizeInBytes = try header.sizeInBytes }
        let modified: Timestamp
        if let known = records.modified {
            modified = known
        } else {
            guard let seconds = header.number(136, 12) else { throw .badNumber(field: "mtime") }
            modified = Timestamp(seconds: seconds)
        }
        self.init(
            kind: .file, path: described.path(header), linkTarget: described.linkTarget(header),
            permissions: UInt16(truncatingIfNeeded: try header.unsigned(100, 8, "mode") & 0o7777),
            uid: try header.identifier(108, "uid", unless: records.uid),
            gid: try header.identifier(116, "gid", unless: records.gid),
            sizeInBytes: sizeInBytes,
            modified: modified, deviceMajor: 0, deviceMinor: 0, xattrs: records.xattrs, sparse: nil,
            offset: offset)
        guard !path.contains(0), !linkTarget.contains(0) else { throw .nameHasNUL }
    }

    mutating func takeDevice(_ header: TarHeader, _ records: PAXRecords) throws(ArchiveProblem) {
        deviceMajor = try header.identifier(329, "devmajor", unless: records.deviceMajor)
        deviceMinor = try header.identifier(337, "devminor", unless: records.deviceMinor)
    }
}

extension TarHeader {
    var sizeInBytes: UInt64 {
        get throws(ArchiveProblem) { try unsigned(124, 12, "size") }
    }

    func unsigned(_ start: Int, _ count: Int, _ field: String) throws(ArchiveProblem) -> UInt64 {
        guard let number = number(start, count), number >= 0 else { throw .badNumber(field: field) }
        return UInt64(number)
    }

    /// A field that an extended header may have said better: then whatever the field has is passed over.
    func identifier(_ start: Int, _ field: String, unless known: UInt32?) throws(ArchiveProblem) -> UInt32 {
        if let known { return known }
        guard let id = UInt32(exactly: try unsigned(start, 8, field)) else { throw .badNumber(field: field) }
        return id
    }
}
