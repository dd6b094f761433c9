// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Machine

@Suite struct KernelImageTests {
    static func parse(
        _ bytes: [UInt8], lowMemoryEnd: UInt64 = 128 << 20
    ) throws(KernelImageError) -> KernelImage {
        try KernelImage.parse(fileSize: UInt64(bytes.count), lowMemoryEnd: lowMemoryEnd) {
            (offset, count) throws(KernelImageError) in
            guard offset < UInt64(bytes.count) else { return [] }
            return Array(bytes[Int(offset)..<min(bytes.count, Int(offset) + count)])
        }
    }

    /// A kernel of one segment of 0x100 bytes at 16 MiB, with 0x200 in memory.
    static func elf(note: Bool) -> [UInt8] {
        var bytes: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0] + [UInt8](repeating: 0, count: 8)
        bytes.append(little: UInt16(2))
        bytes.append(little: UInt16(62))
        bytes.append(little: UInt32(1))
        bytes.append(little: UInt64(0x100_0010))
        bytes.append(little: UInt64(64))
        bytes.append(little: UInt64(0))
        bytes.append(little: UInt32(0))
        for value: UInt16 in [64, 56, note ? 2 : 1, 0, 0, 0] { bytes.append(little: value) }
        func header(_ type: UInt32, _ offset: UInt64, _ address: UInt64, _ file: UInt64, _ memory: UInt64) {
            bytes.append(little: type)
            bytes.append(little: UInt32(5))
            for value in [offset, address, address, file, memory, 4096] { bytes.append(little: value) }
        }
        header(1, 0x200, 0x100_0000, 0x100, 0x200)
        if note { header(4, 0x180, 0, 0x18, 0x18) }
        while bytes.count < 0x180 { bytes.append(0) }
        for value: UInt32 in [4, 8, 18, 0x006e_6558, 0x100_0020, 0] { bytes.append(little: value) }
        while bytes.count < 0x300 { bytes.append(0x90) }
        return bytes
    }

    static func bzImage() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 0x2000)
        bytes[0x1f1] = 3
        bytes.put(UInt32(0x100), at: 0x1f4)
        bytes.put(UInt16(0xaa55), at: 0x1fe)
        bytes.replaceSubrange(0x200..<0x202, with: [0xeb, 0x6a])
        bytes[0x201] = 0x6a
        bytes.put(UInt32(0x5372_6448), at: 0x202)
        bytes.put(UInt16(0x20f), at: 0x206)
        bytes[0x211] = 1
        bytes.put(UInt16(0x7f), at: 0x236)
        bytes.put(UInt32(2047), at: 0x238)
        bytes.put(UInt64(0x100_0000), at: 0x258)
        bytes.put(UInt32(0x200_0000), at: 0x260)
        return bytes
    }

    @Test func elfWithNoteIsEnteredByPVH() throws {
        let kernel = try Self.parse(Self.elf(note: true))
        #expect(kernel.entry == .pvh(address: 0x100_0020))
        #expect(
            kernel.segments == [
                KernelSegment(fileOffset: 0x200, fileCount: 0x100, guestAddress: 0x100_0000, guestCount: 0x200)
            ])
        #expect(kernel.highestAddress == 0x100_0200)
    }

    @Test func elfWithoutNoteIsEnteredInLongMode() throws {
        #expect(try Self.parse(Self.elf(note: false)).entry == .linux64(address: 0x100_0010))
    }

    @Test func bzImageIsEnteredBehindItsSetup() throws {
        let kernel = try Self.parse(Self.bzImage())
        #expect(kernel.entry == .linux64(address: 0x10_0200))
        #expect(kernel.segments.first?.fileOffset == 4 * 512)
        #expect(kernel.highestAddress == 0x300_0000)
        #expect(kernel.setupHeader.count == 0x202 + 0x6a - 0x1f1)
    }

    static let foreign: [([UInt8], String)] = [
        ([], "empty"), ([0x1f, 0x8b, 8], "gzip"), ([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], "xz"),
        ([0x28, 0xb5, 0x2f, 0xfd], "zstd"), (Array("#!/bin/sh\n".utf8), "script"), (Array("hello\n".utf8), "text"),
        ([UInt8](repeating: 0, count: 5000), "zeros"), ([0x4d, 0x5a, 0, 0], "EFI"), ([1, 2, 3], "unknown kind"),
        (Array("070701".utf8), "cpio"), (Array("!<arch>\n".utf8), "Debian"),
        ([0x7f, 0x45, 0x4c, 0x46], "cut off"),
    ]

    @Test(arguments: foreign) func whatIsNoKernelIsNamed(bytes: [UInt8], name: String) {
        do throws(KernelImageError) {
            _ = try Self.parse(bytes)
            Issue.record("\(name) was taken for a kernel")
        } catch {
            guard case .notAKernel(let reason) = error else { return #expect(Bool(false), "\(error)") }
            #expect(reason.contains(name), "\(reason)")
        }
    }

    @Test(arguments: [
        (18, UInt64(183), 2, "arm64"), (4, 1, 1, "not for x86-64"), (16, 1, 2, "object file"),
        (56, 0, 2, "program header table"), (32, 0xffff_ffff, 8, "cut off"), (64 + 24, 0x1000, 8, "between 1 MiB"),
        (64 + 32, 0x10000, 8, "damaged"), (64 + 8, 0xffff_ffff_ffff_ff80, 8, "damaged"),
        (64 + 8, 0x10000, 8, "cut off"),
        (24, 0, 8, "none of its segments"), (64, 3, 4, "interpreter"),
    ])
    func damagedELFIsExplained(offset: Int, value: UInt64, size: Int, reason: String) {
        var bytes = Self.elf(note: false)
        for index in 0..<size { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
        do throws(KernelImageError) {
            _ = try Self.parse(bytes)
            Issue.record("a damaged ELF was taken: \(reason)")
        } catch {
            guard case .notAKernel(let text) = error else { return #expect(Bool(false), "\(error)") }
            #expect(text.contains(reason), "\(text)")
        }
    }

    @Test func kernelTooLargeForMemorySaysWhatItNeeds() {
        #expect(throws: KernelImageError.memoryTooSmall(neededInBytes: 0x100_0200)) {
            try Self.parse(Self.elf(note: true), lowMemoryEnd: 0x100_0000)
        }
        #expect(throws: KernelImageError.memoryTooSmall(neededInBytes: 0x300_0000)) {
            try Self.parse(Self.bzImage(), lowMemoryEnd: 0x200_0000)
        }
    }

    @Test(arguments: [(0x206, 0x20b), (0x236, 0), (0x211, 0), (0x201, 0)])
    func bzImagesThatAreTooOldAreRefused(offset: Int, value: Int) {
        var bytes = Self.bzImage()
        bytes.put(UInt8(value & 0xff), at: offset)
        #expect(throws: KernelImageError.self) { try Self.parse(bytes) }
    }
}

@Suite struct KernelImageFuzz {
    /// Whatever a file says, what is to be loaded lies within the file and within the guest's memory.
    @Test func mutatedKernelsNeverLoadOutOfBounds() {
        let corpus = [KernelImageTests.elf(note: true), KernelImageTests.elf(note: false), KernelImageTests.bzImage()]
        var state: UInt64 = 99
        func below(_ limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % limit
        }
        let end: UInt64 = 128 << 20
        for _ in 0..<40_000 {
            var bytes = corpus[below(corpus.count)]
            for _ in 0..<(1 + below(6)) {
                let place = below(min(bytes.count, 0x300))
                bytes[place] = [0, 0xff, 0x7f, 0x80, UInt8(below(256))][below(5)]
            }
            if below(8) == 0 { bytes.removeLast(below(bytes.count)) }
            guard let kernel = try? KernelImageTests.parse(bytes, lowMemoryEnd: end) else { continue }
            for segment in kernel.segments {
                #expect(segment.fileOffset + segment.fileCount <= UInt64(bytes.count))
                #expect(segment.guestAddress >= 1 << 20 && segment.guestAddress + segment.guestCount <= end)
                #expect(segment.fileCount <= segment.guestCount)
            }
            #expect(kernel.highestAddress <= end)
            let information = BootInformation(
                memoryMap: GuestLayout.memoryMap(sizeInBytes: end), initrd: nil, hasACPI: true)
            #expect(information.zeroPage(setupHeader: kernel.setupHeader).count == 4096)
        }
    }
}

@Suite struct BootInformationTests {
    @Test func startInformationPointsAtItsLists() {
        let information = BootInformation(
            memoryMap: GuestLayout.memoryMap(sizeInBytes: 6 << 30), initrd: 0x700_0000..<0x700_1000, hasACPI: true)
        let bytes = information.startInformation()
        let base = GuestLayout.startInformation
        #expect(bytes.little(UInt32.self, at: 0) == 0x336e_c578)
        #expect(bytes.little(UInt32.self, at: 12) == 1)
        let module = Int((bytes.little(UInt64.self, at: 16) ?? 0) - base)
        #expect(bytes.little(UInt64.self, at: module) == 0x700_0000)
        #expect(bytes.little(UInt64.self, at: module + 8) == 0x1000)
        #expect(bytes.little(UInt64.self, at: 24) == GuestLayout.commandLine)
        #expect(bytes.little(UInt64.self, at: 32) == GuestLayout.acpiTables)
        let map = Int((bytes.little(UInt64.self, at: 40) ?? 0) - base)
        #expect(bytes.little(UInt32.self, at: 48) == 4)
        #expect(bytes.little(UInt64.self, at: map + 3 * 24) == 0x1_0000_0000)
        #expect(bytes.little(UInt64.self, at: map + 3 * 24 + 8) == 3 << 30)
        #expect(bytes.count <= Int(GuestLayout.zeroPage - base))
    }

    @Test func zeroPageHasTheMapAndTheInitrd() {
        let information = BootInformation(
            memoryMap: GuestLayout.memoryMap(sizeInBytes: 6 << 30), initrd: 0x700_0000..<0x700_1000, hasACPI: false)
        let page = information.zeroPage(setupHeader: [])
        #expect(page[0x1e8] == 4)
        #expect(page.little(UInt64.self, at: 0x2d0 + 20 * 2) == 0x10_0000)
        #expect(page.little(UInt64.self, at: 0x2d0 + 20 * 2 + 8) == 0xc000_0000 - 0x10_0000)
        #expect(page.little(UInt32.self, at: 0x2d0 + 20 * 3 + 16) == 1)
        #expect(page.little(UInt32.self, at: 0x218) == 0x700_0000)
        #expect(page.little(UInt64.self, at: 0x70) == 0)
    }
}
