// SPDX-License-Identifier: Apache-2.0

package import MachineAPI

/// What of a client's memory is there, and what comes where something is missing. Without any call of the system.
package struct ClientPages: Equatable, Sendable {
    /// Pages of one kind, side by side.
    package struct Piece: Equatable, Sendable {
        package enum Content: Equatable, Sendable {
            /// Those of the memory file, from this offset on.
            case file(UInt64)
            case zero
        }

        /// Where they go, in the client's process.
        package var address: UInt64
        /// In bytes.
        package var count: UInt64
        package var content: Content
        package var pageSize: UInt64

        /// Where its bytes lie in the memory file; nil for zeros.
        var bytes: Range<UInt64>? { if case .file(let offset) = content { offset..<offset + count } else { nil } }
    }

    /// What is put around a page that is missing: programs touch what is near next.
    static let windowInBytes: UInt64 = 64 << 10

    private struct Area: Equatable, Sendable {
        let region: MemoryHandoff.Region
        /// A bit for each page.
        var present: [UInt64]
        /// Taken away by the client: zero from then on. Empty until there is one.
        var removed: [UInt64] = []

        init(_ region: MemoryHandoff.Region) {
            self.region = region
            present = Array(repeating: 0, count: Int((region.size / region.pageSize + 63) / 64))
        }

        var end: UInt64 { region.address + region.size }
        func isPresent(_ page: UInt64) -> Bool { present[Int(page / 64)] >> (page % 64) & 1 != 0 }
        func isRemoved(_ page: UInt64) -> Bool { !removed.isEmpty && removed[Int(page / 64)] >> (page % 64) & 1 != 0 }
    }

    /// By address.
    private var areas: [Area]

    package init(_ handoff: MemoryHandoff) {
        areas = handoff.regions.sorted { $0.address < $1.address }.map(Area.init)
    }

    private func area(of address: UInt64) -> Int? {
        areas.firstIndex { $0.region.address <= address && address < $0.end }
    }

    /// What to put where the page at an address is missing, and around it: the piece with that page comes first. Nil for
    /// an address outside of the memory.
    package func pieces(missing address: UInt64, _ data: DataMap) -> [Piece]? {
        guard let index = area(of: address) else { return nil }
        let area = areas[index]
        let size = area.region.pageSize
        let missing = (address - area.region.address) / size
        let perWindow = max(1, Self.windowInBytes / size)
        let first = missing / perWindow * perWindow
        let last = min(first + perWindow, area.region.size / size)
        var pieces: [Piece] = []
        var wanted = 0
        for page in first..<last {
            // The page itself in any case: the kernel knows better.
            guard page == missing || !area.isPresent(page) && !area.isRemoved(page) else { continue }
            let next = piece(area, page, data)
            if let last = pieces.last, last.address + last.count == next.address, last.isContinued(by: next) {
                pieces[pieces.count - 1].count += size
            } else {
                pieces.append(next)
            }
            if page == missing { wanted = pieces.count - 1 }
        }
        pieces.swapAt(0, wanted)
        return pieces
    }

    private func piece(_ area: Area, _ page: UInt64, _ data: DataMap) -> Piece {
        let size = area.region.pageSize
        let offset = area.region.offset + page * size
        let isZero = area.isRemoved(page) || size == 4096 && data.isZero(offset..<offset + size)
        return Piece(
            address: area.region.address + page * size, count: size, content: isZero ? .zero : .file(offset),
            pageSize: size)
    }

    /// Pages are there now.
    package mutating func note(_ address: UInt64, count: UInt64) {
        guard count > 0, let index = area(of: address) else { return }
        let region = areas[index].region
        let first = (address - region.address) / region.pageSize
        let end = min(address - region.address + count, region.size) / region.pageSize
        for page in first..<max(first, end) { areas[index].present[Int(page / 64)] |= 1 << (page % 64) }
    }

    /// The client took pages away: they are missing again, and zero.
    package mutating func remove(_ range: Range<UInt64>) {
        for index in areas.indices {
            let region = areas[index].region
            let part = range.clamped(to: region.address..<areas[index].end)
            guard !part.isEmpty else { continue }
            if areas[index].removed.isEmpty {
                areas[index].removed = Array(repeating: 0, count: areas[index].present.count)
            }
            let first = (part.lowerBound - region.address) / region.pageSize
            let end = (part.upperBound - region.address + region.pageSize - 1) / region.pageSize
            for page in first..<end {
                areas[index].present[Int(page / 64)] &= ~(1 << (page % 64))
                areas[index].removed[Int(page / 64)] |= 1 << (page % 64)
            }
        }
    }
}

extension ClientPages.Piece {
    /// Whether what follows in memory follows in the file too, or both are zero.
    fileprivate func isContinued(by next: Self) -> Bool {
        switch (content, next.content) {
        case (.zero, .zero): true
        case (.file(let offset), .file(let other)): offset + count == other
        default: false
        }
    }
}
