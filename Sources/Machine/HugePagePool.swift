// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Virtio

/// The host's pool of 2 MiB pages (hugetlbfs).
enum HugePagePool {
    private static let pageSize: UInt64 = 2 << 20
    private static let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB"

    /// Anonymous memory of the pool's pages, all of which are set aside for it. It is private: a fork of the machine
    /// copies what it writes, as long as the pool has pages for that.
    static func allocate(_ ranges: [Range<UInt64>], tracksWrites: Bool) throws(MachineError) -> GuestMemory {
        let count = ranges.reduce(0) { $0 + $1.upperBound - $1.lowerBound }
        guard count % pageSize == 0 else {
            throw .configuration(
                field: field, problem: "\(count) bytes of memory are no whole number of pages of 2 MiB")
        }
        do throws(SystemError) {
            return GuestMemory(try MemoryMapping(hugePages: Int(count)), ranges: ranges, tracksWrites: tracksWrites)
        } catch {
            throw .configuration(field: field, problem: problem(count / pageSize, error))
        }
    }

    /// Fails where the pool has not as many pages as forks of a machine may come to write to. Who takes a page that is
    /// not there any more is ended by the kernel.
    static func checkForks(_ count: Int, of memory: GuestMemory) throws(MachineError) {
        let wanted = memory.byteCount / pageSize * UInt64(count)
        guard let free = unreserved, free < wanted else { return }
        throw .configuration(
            field: field,
            problem: "\(count) forks of a machine of \(memory.byteCount >> 20) MiB may come to write to \(wanted) "
                + "pages of 2 MiB, and \(free) of the host's pool are free: " + remedy(wanted - free))
    }

    private static let field = "machine-config.huge_pages"

    private static func problem(_ wanted: UInt64, _ error: SystemError) -> String {
        guard let free = unreserved else {
            return "the host's kernel has no pool of 2 MiB pages (\(error.reason)); leave it at None or Transparent"
        }
        let missing = wanted > free ? wanted - free : wanted
        return "the machine's memory is \(wanted) pages of 2 MiB, and \(free) of the host's pool are free: "
            + remedy(missing)
    }

    private static func remedy(_ missing: UInt64) -> String {
        "have \(missing) more there with sysctl vm.nr_hugepages=\((number("nr_hugepages") ?? 0) + missing)"
    }

    /// Pages that nobody has and nobody has set aside; nil where there is no such pool.
    private static var unreserved: UInt64? {
        guard let free = number("free_hugepages"), let reserved = number("resv_hugepages") else { return nil }
        return free > reserved ? free - reserved : 0
    }

    private static func number(_ name: String) -> UInt64? {
        guard let bytes = try? Files.read("\(directory)/\(name)", limit: 64) else { return nil }
        return UInt64(String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self))
    }
}
