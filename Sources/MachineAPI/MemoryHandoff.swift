// SPDX-License-Identifier: Apache-2.0

package import Wire

/// What a monitor tells a page server about a machine whose memory that is to hand over, as Firecracker has it: one JSON
/// array, sent over a unix socket together with the descriptor of a userfaultfd (SCM_RIGHTS).
package struct MemoryHandoff: Equatable, Sendable {
    /// A range of the machine's memory.
    package struct Region: Equatable, Sendable {
        /// Where it lies in the monitor's process.
        package var address: UInt64
        /// In bytes.
        package var size: UInt64
        /// Where it lies in the memory file.
        package var offset: UInt64
        /// The size of its pages in bytes, a power of two: 4096, or that of the hugetlbfs pool.
        package var pageSize: UInt64

        package init(address: UInt64, size: UInt64, offset: UInt64, pageSize: UInt64 = 4096) {
            self.address = address
            self.size = size
            self.offset = offset
            self.pageSize = pageSize
        }
    }

    /// The most bytes that it may have.
    package static let sizeLimit = 16 << 10
    /// The most ranges.
    package static let regionLimit = 64

    package var regions: [Region]
    /// The snapshot that the machine goes on from, as its files name it; nil from monitors that do not say it, which are
    /// Firecracker's. A member of ours, in each range; other servers leave it alone.
    package var snapshot: String?

    package init(regions: [Region], snapshot: String? = nil) {
        self.regions = regions
        self.snapshot = snapshot
    }

    /// `page_size_kib` is in bytes too, whatever its name says: so Firecracker sends it, and so handlers take it.
    package var json: JSON {
        .array(
            regions.map { region in
                var object = JSONObject()
                object["base_host_virt_addr"] = .number(region.address)
                object["size"] = .number(region.size)
                object["offset"] = .number(region.offset)
                object["page_size"] = .number(region.pageSize)
                object["page_size_kib"] = .number(region.pageSize)
                if let snapshot { object["snapshot_id"] = .string(snapshot) }
                return .object(object)
            })
    }

    /// Reads what a monitor sent, which may be anything. Members that are not known are left alone: they are of later
    /// versions.
    /// - Parameter fileSize: of the memory file, in bytes: no range reaches beyond, and all together are no larger.
    package init(reading view: JSONView, fileSize: UInt64) throws(JSONMismatch) {
        let elements = try view.elements()
        guard !elements.isEmpty else { throw view.mismatch("a machine has memory: one range at least") }
        guard elements.count <= Self.regionLimit else { throw view.mismatch("more than \(Self.regionLimit) ranges") }
        regions = []
        snapshot = nil
        var rest = fileSize
        for element in elements {
            let region = try Region(reading: element)
            if let field = try element.optional("snapshot_id") {
                let name = try field.string()
                guard snapshot == nil || snapshot == name else { throw field.mismatch("it is of several snapshots") }
                snapshot = name
            }
            guard region.size <= fileSize, region.offset <= fileSize - region.size else {
                throw element.mismatch(
                    "\(region.size) bytes at \(region.offset) are not in a file of \(fileSize) bytes")
            }
            guard region.size <= rest else { throw element.mismatch("all ranges together are larger than the file") }
            rest -= region.size
            for other in regions
            where region.address < other.address + other.size && other.address < region.address + region.size {
                throw element.mismatch("it overlaps another range")
            }
            regions.append(region)
        }
    }
}

extension MemoryHandoff.Region {
    /// Addresses of processes are below this (x86-64 with five levels of page tables).
    private static let addressLimit: UInt64 = 1 << 56

    init(reading view: JSONView) throws(JSONMismatch) {
        address = try view.required("base_host_virt_addr").unsigned(in: 0...Self.addressLimit)
        size = try view.required("size").unsigned(in: 1...Self.addressLimit)
        offset = try view.required("offset").unsigned(in: 0...Self.addressLimit)
        // Monitors before Firecracker 1.10 say it by the other name, still older ones do not say it.
        var field = try view.optional("page_size")
        if field == nil { field = try view.optional("page_size_kib") }
        pageSize = 4096
        if let field { pageSize = try field.unsigned(in: 4096...(1 << 30)) }
        guard pageSize & (pageSize - 1) == 0 else { throw view.mismatch("a page has a power of two of bytes") }
        guard address % pageSize == 0, size % pageSize == 0, offset % 4096 == 0 else {
            throw view.mismatch("it is not of whole pages")
        }
    }
}
