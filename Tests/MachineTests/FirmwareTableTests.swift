// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

@testable import Machine

@Suite struct FirmwareTableTests {
    private func sum(_ bytes: some Sequence<UInt8>) -> UInt8 { bytes.reduce(0, &+) }

    private func tables(vcpuCount: Int, devices: Int) -> ([UInt8], [String: ArraySlice<UInt8>]) {
        let base = GuestLayout.acpiTables
        let bytes = ACPITables(vcpuCount: vcpuCount, devices: (0..<devices).map(DeviceSlot.init(index:))).bytes(
            at: base)
        var found: [String: ArraySlice<UInt8>] = [:]
        func table(_ address: UInt64) -> ArraySlice<UInt8> {
            let start = Int(address - base)
            let count = Int(bytes.little(UInt32.self, at: start + 4) ?? 0)
            let slice = bytes[start..<(start + count)]
            found[String(decoding: slice.prefix(4), as: UTF8.self)] = slice
            return slice
        }
        let xsdt = Array(table(bytes.little(UInt64.self, at: 24) ?? 0))
        for offset in stride(from: 36, to: xsdt.count, by: 8) {
            let entry = Array(table(xsdt.little(UInt64.self, at: offset) ?? 0))
            if entry.starts(with: Array("FACP".utf8)) { _ = table(entry.little(UInt64.self, at: 140) ?? 0) }
        }
        return (bytes, found)
    }

    @Test(arguments: [(1, 0), (2, 5), (32, GuestLayout.maximumDeviceCount)])
    func checksumsHoldAndEverythingIsReached(vcpuCount: Int, devices: Int) {
        let (bytes, found) = tables(vcpuCount: vcpuCount, devices: devices)
        #expect(bytes.count <= GuestLayout.acpiTablesCapacity)
        #expect(bytes.starts(with: Array("RSD PTR ".utf8)))
        #expect(sum(bytes[0..<20]) == 0 && sum(bytes[0..<36]) == 0)
        #expect(Set(found.keys) == ["XSDT", "FACP", "APIC", "DSDT"])
        for (name, table) in found { #expect(sum(table) == 0, "\(name)") }
        #expect(found["FACP"]?.count == 276)
        #expect(found["APIC"]?.count == 36 + 8 + 8 * vcpuCount + 12)
    }

    /// An outside judge reads what we wrote, and writes it as source.
    @Test(arguments: [(1, 0), (32, GuestLayout.maximumDeviceCount)])
    func iaslDisassemblesAllTables(vcpuCount: Int, devices: Int) throws {
        let directory = "/tmp/martlet-acpi-\(vcpuCount)-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory)
        defer { try? Files.removeTree(directory) }
        for (name, table) in tables(vcpuCount: vcpuCount, devices: devices).1 {
            let path = "\(directory)/\(name).dat"
            try Files.writeAtomically(Array(table), to: path)
            let log = try Descriptor.open("\(directory)/log", .create)
            var specification = ProcessSpecification("/usr/bin/iasl", ["iasl", "-d", path])
            specification.descriptors = [-1, log.raw, log.raw]
            let child = try ChildProcess(specification)
            let end = try child.wait()
            let text = String(decoding: try Files.read("\(directory)/log", limit: 1 << 20), as: UTF8.self)
            #expect(end == .exited(0), "\(text)")
            #expect(!text.contains("rror") && !text.contains("arning"), "\(name): \(text)")
            guard name == "DSDT" else { continue }
            let source = String(
                decoding: try Files.read("\(directory)/DSDT.dsl", limit: 1 << 20), as: UTF8.self)
            #expect(source.contains("Name (_S5"))
            #expect(source.contains("EisaId (\"PNP0501\")"))
            #expect(source.contains("\"QEMU0001\""))
            #expect(source.components(of: "\"LNRO0005\"") == devices)
            #expect(source.components(of: "\"ACPI0007\"") == vcpuCount)
        }
    }

    @Test(arguments: [1, 2, 31, 32]) func multiprocessorTableFitsAndSumsUp(vcpuCount: Int) {
        let bytes = MPTable.bytes(vcpuCount: vcpuCount, address: GuestLayout.multiprocessorTable)
        #expect(bytes.count <= GuestLayout.multiprocessorTableCapacity)
        #expect(sum(bytes[0..<16]) == 0)
        #expect(sum(bytes[16...]) == 0)
        #expect(bytes.little(UInt32.self, at: 4) == UInt32(GuestLayout.multiprocessorTable + 16))
        #expect(bytes.little(UInt16.self, at: 16 + 4) == UInt16(bytes.count - 16))
        #expect(bytes.little(UInt16.self, at: 16 + 34) == UInt16(vcpuCount + 2 + 24 + 2))
    }

    @Test(arguments: [(0, 1), (0x3e, 1), (0x3f, 2), (0xffd, 2), (0xffe, 3), (0xffffc, 3), (0xffffd, 4)])
    func packageLengthsAreTheShortest(content: Int, lengthBytes: Int) {
        // A scope named "A___", so four bytes of the content are its name.
        guard content >= 4 else { return }
        let encoded = AML.scope("A___", [[UInt8](repeating: 0, count: content - 4)])
        #expect(encoded.count == 1 + lengthBytes + content)
        let lead = Int(encoded[1])
        var length = lengthBytes == 1 ? lead : lead & 0xf
        for index in 1..<lengthBytes { length |= Int(encoded[1 + index]) << (4 + 8 * (index - 1)) }
        #expect(length == encoded.count - 1)
    }
}

extension String {
    fileprivate func components(of part: String) -> Int {
        var count = 0
        var rest = self[...]
        while let range = rest.firstRange(of: part) {
            count += 1
            rest = rest[range.upperBound...]
        }
        return count
    }
}
