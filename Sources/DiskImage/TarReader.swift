// SPDX-License-Identifier: Apache-2.0
//
// States of the reader, and what ends each:
//   header     512 bytes are collected → any other state, by the entry's type
//   extended   an extended header's body is collected → header (the entry it belongs to follows)
//   oldMap     extension blocks of GNU tar's old sparse format → data
//   map        blocks with the map of GNU's sparse format 1.0, at the start of the data → data
//   data       the entry's bytes go to the sink → skip
//   skip       padding, and data of entries that are passed over → header
//   zero       one zero block was read: a second one ends the archive, anything else is illegal
//   ended      whatever still comes is ignored, as every tar does (writers pad to their block size)
// The input may end in header (nothing collected), zero and ended.

/// What a tar reader hands its entries to.
protocol TarSink: AnyObject {
    /// An entry begins; of a file with data its bytes follow.
    func begin(_ entry: TarEntry) throws(DiskImageError)
    /// Bytes of the file that began last. They are lent until the call of `TarReader.push` returns.
    func data(_ bytes: Span<UInt8>) throws(DiskImageError)
    /// All bytes of the file that began last have come. Comes after each `begin`.
    func end() throws(DiskImageError)
}

/// Reads an archive that comes in pieces of any size: ustar, GNU tar's and pax's formats.
struct TarReader {
    private enum State {
        case header
        case extended(UInt8)
        case oldMap
        case map
        case data
        case skip
        case zero
        case ended
    }

    private let limits: ConversionLimits
    private var state = State.header
    /// A block, or an extended header's body, as far as it came.
    private var collected: [UInt8] = []
    private var wanted = TarHeader.blockInBytes
    /// Of data or of a part that is passed over: what is still to come.
    private var remaining: UInt64 = 0
    private var padding: UInt64 = 0
    /// Bytes of the archive read so far.
    private(set) var offset: UInt64 = 0
    private var headerOffset: UInt64 = 0
    private var entries = 0

    private var extended = ExtendedHeaders()
    /// The sparse file whose map is being read.
    private var pending: TarEntry?
    /// The entry whose data is read, for messages.
    private var current: [UInt8] = []

    init(limits: ConversionLimits) {
        self.limits = limits
        collected.reserveCapacity(TarHeader.blockInBytes)
    }

    mutating func push(_ input: Span<UInt8>, to sink: some TarSink) throws(DiskImageError) {
        var position = 0
        while position < input.count {
            let available = input.count - position
            switch state {
            case .ended:
                offset += UInt64(available)
                return
            case .data:
                let count = Int(min(UInt64(available), remaining))
                try sink.data(input.extracting(position..<position + count))
                position += count
                offset += UInt64(count)
                remaining -= UInt64(count)
                if remaining == 0 { try endData(sink) }
            case .skip:
                let count = Int(min(UInt64(available), remaining))
                position += count
                offset += UInt64(count)
                remaining -= UInt64(count)
                if remaining == 0 { collect(.header) }
            default:
                let count = min(available, wanted - collected.count)
                for index in position..<position + count { collected.append(input[index]) }
                position += count
                offset += UInt64(count)
                if collected.count == wanted { try take(sink) }
            }
        }
    }

    /// The input has ended: whether it may.
    func finish() throws(DiskImageError) {
        switch state {
        case .ended, .zero: return
        case .header where collected.isEmpty && !extended.isPending: return
        case .data, .skip, .map, .oldMap: throw .truncated(what: "the entry '\(displayed(current))'", offset: offset)
        case .header, .extended: throw .truncated(what: "a header", offset: offset)
        }
    }

    // MARK: Blocks

    private mutating func collect(_ next: State, count: Int = TarHeader.blockInBytes) {
        state = next
        wanted = count
        collected.removeAll(keepingCapacity: true)
    }

    private mutating func take(_ sink: some TarSink) throws(DiskImageError) {
        switch state {
        case .header: try takeHeader(sink)
        case .zero:
            guard collected.allSatisfy({ $0 == 0 }) else { throw problem(.loneZeroBlock) }
            state = .ended
        case .extended(let type): try takeExtended(type)
        case .oldMap: try takeOldMap(sink)
        case .map: try takeMap(sink)
        case .data, .skip, .ended: break
        }
    }

    private mutating func takeHeader(_ sink: some TarSink) throws(DiskImageError) {
        let header = TarHeader(collected)
        headerOffset = offset - UInt64(TarHeader.blockInBytes)
        if header.isZero {
            collect(.zero)
            return
        }
        current = header.name
        guard header.hasValidChecksum else { throw problem(.badChecksum) }
        switch header.type {
        case UInt8(ascii: "x"), UInt8(ascii: "X"), UInt8(ascii: "g"), UInt8(ascii: "L"), UInt8(ascii: "K"):
            let size = try checked { () throws(ArchiveProblem) in try header.sizeInBytes }
            guard extended.admits(size, limits: limits) else {
                throw limit(.extendedHeader, limits.extendedHeaderInBytes)
            }
            padding = Self.padding(size)
            collect(.extended(header.type), count: Int(size))
            if size == 0 { try takeExtended(header.type) }
        case UInt8(ascii: "V"):
            try pass(try checked { () throws(ArchiveProblem) in try header.sizeInBytes })
        default:
            try begin(header, sink)
        }
    }

    private mutating func takeExtended(_ type: UInt8) throws(DiskImageError) {
        do throws(PAXRecords.ProblemWithRecord) {
            try extended.take(collected, type: type, limits: limits)
        } catch {
            switch error {
            case .problem(let what): throw problem(.badExtendedHeader(what))
            case .tooManySegments: throw limit(.sparseSegments, limits.sparseSegments)
            case .tooManyAttributes: throw limit(.xattrs, limits.xattrsInBytes)
            }
        }
        try pass(0)
    }

    /// Passes over data of so many bytes, and over the padding.
    private mutating func pass(_ count: UInt64) throws(DiskImageError) {
        remaining = count == 0 ? padding : count + Self.padding(count)
        padding = 0
        if remaining == 0 { collect(.header) } else { state = .skip }
    }

    // MARK: Entries

    private mutating func begin(_ header: TarHeader, _ sink: some TarSink) throws(DiskImageError) {
        entries += 1
        guard entries <= limits.entries else { throw limit(.entries, limits.entries) }
        let described = extended.consume()
        current = described.path(header)
        var entry = try checked { () throws(ArchiveProblem) in
            try TarEntry(header, described, offset: headerOffset)
        }
        switch header.type {
        case 0, UInt8(ascii: "0"), UInt8(ascii: "7"), UInt8(ascii: "S"):
            if entry.path.last == UInt8(ascii: "/") {  // as archives before POSIX mark a directory
                entry.kind = .directory
                try beginWithoutData(entry, passing: entry.sizeInBytes, sink)
            } else if header.type == UInt8(ascii: "S") {
                try beginOldSparse(entry, header, sink)
            } else {
                try beginFile(entry, described.records, sink)
            }
            return
        case UInt8(ascii: "1"): entry.kind = .hardLink
        case UInt8(ascii: "2"): entry.kind = .symbolicLink
        case UInt8(ascii: "3"), UInt8(ascii: "4"):
            entry.kind = header.type == UInt8(ascii: "3") ? .characterDevice : .blockDevice
            try checked { () throws(ArchiveProblem) in try entry.takeDevice(header, described.records) }
        case UInt8(ascii: "5"): entry.kind = .directory
        case UInt8(ascii: "D"):  // GNU tar's incremental archives: a directory, with the list of its names as data
            entry.kind = .directory
            try beginWithoutData(entry, passing: entry.sizeInBytes, sink)
            return
        case UInt8(ascii: "6"): entry.kind = .fifo
        default: throw problem(.unsupportedType(header.type))
        }
        // Whatever size these state, no data follows them.
        entry.sizeInBytes = 0
        try beginWithoutData(entry, passing: 0, sink)
    }

    private mutating func beginWithoutData(
        _ entry: TarEntry, passing count: UInt64, _ sink: some TarSink
    ) throws(DiskImageError) {
        try sink.begin(entry)
        try sink.end()
        padding = 0
        try pass(count)
    }

    private mutating func beginFile(
        _ entry: TarEntry, _ records: PAXRecords, _ sink: some TarSink
    ) throws(DiskImageError) {
        var entry = entry
        if records.sparseMajor == 1 {
            guard let size = records.sparseSizeInBytes else { throw problem(.badSparseMap("no size")) }
            entry.sparse = SparseMap(sizeInBytes: size)
            guard entry.sizeInBytes >= UInt64(TarHeader.blockInBytes) else { throw problem(.badSparseMap("no map")) }
            pending = entry
            collect(.map)
            mapReader = SparseMapReader()
            return
        }
        if let size = records.sparseSizeInBytes {
            entry.sparse = SparseMap(segments: records.sparseSegments, sizeInBytes: size)
        }
        try beginData(entry, sink)
    }

    private mutating func beginData(_ entry: TarEntry, _ sink: some TarSink) throws(DiskImageError) {
        var entry = entry
        if let what = entry.sparse?.normalize(data: entry.sizeInBytes) { throw problem(.badSparseMap(what)) }
        try sink.begin(entry)
        remaining = entry.sizeInBytes
        padding = Self.padding(entry.sizeInBytes)
        if remaining == 0 { try endData(sink) } else { state = .data }
    }

    private mutating func endData(_ sink: some TarSink) throws(DiskImageError) {
        try sink.end()
        try pass(0)
    }

    // MARK: Sparse files

    private var mapReader = SparseMapReader()

    private mutating func beginOldSparse(
        _ entry: TarEntry, _ header: TarHeader, _ sink: some TarSink
    ) throws(DiskImageError) {
        var entry = entry
        let size = try checked { () throws(ArchiveProblem) in try header.unsigned(483, 12, "realsize") }
        guard let segments = header.segments(at: 386, count: 4) else { throw problem(.badNumber(field: "sparse")) }
        entry.sparse = SparseMap(segments: segments, sizeInBytes: size)
        guard header.isExtended(at: 482) else {
            try beginData(entry, sink)
            return
        }
        pending = entry
        collect(.oldMap)
    }

    private mutating func takeOldMap(_ sink: some TarSink) throws(DiskImageError) {
        let block = TarHeader(collected)
        guard let segments = block.segments(at: 0, count: 21) else { throw problem(.badNumber(field: "sparse")) }
        // A block without segments that announces another would go on for ever.
        guard !segments.isEmpty || !block.isExtended(at: 504) else { throw problem(.badSparseMap("an empty block")) }
        pending?.sparse?.segments.append(contentsOf: segments)
        guard pending?.sparse?.segments.count ?? 0 <= limits.sparseSegments else {
            throw limit(.sparseSegments, limits.sparseSegments)
        }
        if block.isExtended(at: 504) { collect(.oldMap) } else { try beginPending(sink) }
    }

    private mutating func takeMap(_ sink: some TarSink) throws(DiskImageError) {
        guard mapReader.take(collected, maximum: limits.sparseSegments) else {
            throw mapReader.isTooLong
                ? limit(.sparseSegments, limits.sparseSegments) : problem(.badSparseMap("no list of numbers"))
        }
        pending?.sizeInBytes -= UInt64(TarHeader.blockInBytes)  // There was a whole block: checked before each.
        if mapReader.isComplete {
            pending?.sparse?.segments = mapReader.segments
            mapReader = SparseMapReader()
            try beginPending(sink)
        } else {
            guard pending?.sizeInBytes ?? 0 >= UInt64(TarHeader.blockInBytes) else {
                throw problem(.badSparseMap("longer than the data"))
            }
            collect(.map)
        }
    }

    private mutating func beginPending(_ sink: some TarSink) throws(DiskImageError) {
        guard let entry = pending else { return }
        pending = nil
        try beginData(entry, sink)
    }

    // MARK: Errors

    /// Says of an entry's problem where it is.
    private func checked<Value>(_ body: () throws(ArchiveProblem) -> Value) throws(DiskImageError) -> Value {
        do throws(ArchiveProblem) { return try body() } catch { throw problem(error) }
    }

    private static func padding(_ size: UInt64) -> UInt64 {
        (UInt64(TarHeader.blockInBytes) - size % UInt64(TarHeader.blockInBytes)) % UInt64(TarHeader.blockInBytes)
    }

    private func problem(_ problem: ArchiveProblem) -> DiskImageError {
        .archive(entry: displayed(current), offset: headerOffset, problem: problem)
    }

    private func limit(_ kind: LimitKind, _ maximum: Int) -> DiskImageError {
        .limit(entry: displayed(current), limit: kind, maximum: UInt64(maximum))
    }
}
