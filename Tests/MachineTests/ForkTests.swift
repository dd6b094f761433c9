// SPDX-License-Identifier: Apache-2.0

import CLinux
import Glibc
import MachineAPI
import Platform
import TestSupport
import Testing
import Virtio
import Wire

@testable import Machine

@Suite struct ForkReportTests {
    private static func record(_ index: UInt32, _ failure: String?) -> [UInt8] {
        var bytes: [UInt8] = []
        let text = Array((failure ?? "").utf8)
        bytes.appendInteger(index)
        bytes.append(failure == nil ? 1 : 0)
        bytes.appendInteger(UInt16(text.count))
        return bytes + text
    }

    @Test func recordsInAnyOrder() {
        let bytes = Self.record(2, nil) + Self.record(0, "no room") + Self.record(1, "")
        let records = ForkChannel.records(bytes)
        #expect(records.map(\.index) == [2, 0, 1])
        #expect(records.map(\.failure) == [nil, "no room", ""])
        // One that a child did not finish is none.
        for count in 0..<bytes.count {
            let whole = ForkChannel.records(Array(bytes[..<count])).count
            #expect(whole == (count < 7 ? 0 : count < 21 ? 1 : 2), "\(count)")
        }
    }

    @Test(arguments: 0..<20 as Range<UInt64>) func anyBytes(seed: UInt64) {
        var generator = SeededGenerator(seed)
        for _ in 0..<200 {
            let bytes = generator.bytes(Int.random(in: 0..<200, using: &generator))
            let records = ForkChannel.records(bytes)
            #expect(records.count * 7 <= bytes.count)
        }
    }
}

@Suite struct ForkChannelTests {
    /// A child that neither gets its machine nor ends is not waited for for ever, and is gone then; those that have said
    /// what came of them stay as they are.
    @Test func whoeverSaysNothingIsKilled() throws {
        let channel = try ForkChannel()
        // The children have the pipe, as of a fork's; and end by themselves where the test fails.
        let silent = clinux_fork()
        if silent == 0 {
            alarm(60)
            while true { pause() }
        }
        let other = clinux_fork()
        if other == 0 { _exit(0) }
        let outcomes = channel.outcomes(
            of: [
                ForkedProcessNumber(process: silent, code: 0), ForkedProcessNumber(process: other, code: 0),
                ForkedProcessNumber(process: -1, code: EAGAIN),
            ], silenceLimit: 300)
        guard case .failed(let reason) = outcomes[0] else {
            Issue.record("\(outcomes)")
            return
        }
        #expect(reason.contains("was killed"))
        #expect(outcomes[1] == .failed("the child ended before it had its machine"))
        var code: Int32 = 0
        var signaled = false
        #expect(unsafe clinux_wait(silent, false, &code, &signaled) == 1 && signaled && code == SIGKILL)
    }
}

@Suite struct MachineOverridesTests {
    /// Another place for the console is no other limit on it.
    @Test func aConsoleElsewhereKeepsItsLimit() throws {
        var saved = MachineConfiguration(bootSource: BootSource(kernelImagePath: "/k"))
        saved.serial = Serial(outputPath: "/old")
        saved.serial.limit = RateLimit.Bucket(size: 1000, refillTime: 100)
        var overrides = MachineOverrides()
        for path in ["/new", nil] {
            overrides.serial = Serial(outputPath: path)
            let serial = try overrides.apply(to: saved).serial
            #expect(serial.outputPath == path && serial.limit == saved.serial.limit)
        }
        overrides.serial?.limit = RateLimit.Bucket(size: 5, refillTime: 6)
        #expect(try overrides.apply(to: saved).serial.limit == RateLimit.Bucket(size: 5, refillTime: 6))
    }
}

@Suite struct MappedApartTests {
    /// A fork leaves what was mapped apart as it is, so that a child has none of it in its page tables, until something is
    /// written there.
    @Test func aForkDoesNotCopyIt() throws {
        let file = try Descriptor.memoryFile("apart")
        let size: UInt64 = 8 << 20
        var generator = SeededGenerator(3)
        try file.writeAll(generator.bytes(Int(size)))
        let memory = GuestMemory(
            try MemoryMapping(count: Int(size), file: file.raw, shared: false), ranges: [0..<size])
        let apart: Range<UInt64> = 2 << 20..<4 << 20
        memory.mapApart([apart])
        #expect(memory.rangesApart == [apart] && memory.rangesUnwritten == [apart])
        try memory.populate(0..<size, writing: false)
        try memory.write([1], at: 0)
        try memory.write([1], at: 5 << 20)

        /// In the page tables of a child that touches nothing.
        func pagesOfChild() throws -> UInt64 {
            let child = clinux_fork()
            if child == 0 {
                alarm(60)
                while true { pause() }
            }
            defer {
                kill(child, SIGKILL)
                var code: Int32 = 0
                var signaled = false
                #expect(unsafe clinux_wait(child, false, &code, &signaled) == 1)
            }
            let pagemap = try Descriptor.open("/proc/\(child)/pagemap", .readOnly)
            let start = unsafe UInt64(
                UInt(bitPattern: memory.bytes(offset: apart.lowerBound, count: 0).baseAddress))
            var next: UInt64 = 0
            var stretches = [clinux_stretch](repeating: clinux_stretch(), count: 64)
            let count = unsafe clinux_mapped_pages(pagemap.raw, start, start + (2 << 20), &stretches, 64, &next)
            try #require(count >= 0 && next == start + (2 << 20))
            return stretches.prefix(count).reduce(0) { $0 + ($1.end - $1.start) / 4096 }
        }
        #expect(try pagesOfChild() == 0)
        #expect(memory.rangesUnwritten == [apart])
        try memory.write([1], at: 3 << 20)
        #expect(memory.rangesUnwritten == [])
        #expect(try pagesOfChild() == 511)
    }

    /// What is gathered is one page, the same as before, for all who have it mapped, until they write there.
    @Test func whatIsGatheredIsOnePage() throws {
        let file = try Descriptor.memoryFile("gathered")
        let size: UInt64 = 8 << 20
        var generator = SeededGenerator(4)
        let bytes = generator.bytes(Int(size))
        try file.writeAll(bytes)
        func map() throws -> GuestMemory {
            let mapping = try MemoryMapping(count: Int(size), file: file.raw, shared: false)
            #expect(unsafe UInt(bitPattern: mapping.start) % (2 << 20) == 0)
            return GuestMemory(mapping, ranges: [0..<size])
        }
        let apart: Range<UInt64> = 2 << 20..<6 << 20
        let (before, after) = (try map(), try map())
        try before.populate(0..<size, writing: false)
        #expect(try before.pages(.ofHugePage) == [])
        for offset in stride(from: apart.lowerBound, to: apart.upperBound, by: 2 << 20) {
            #expect(FilePages.gather(file.raw, at: offset))
        }
        for memory in [before, after] {
            memory.mapApart([apart])
            try memory.populate(0..<size, writing: false)
            unsafe #expect(memory.bytes(offset: 0, count: Int(size)).elementsEqual(bytes))
        }
        #expect(try after.pages(.ofHugePage) == [apart])
        try after.write([1], at: 3 << 20)
        #expect(try after.pages(.ofHugePage) == [4 << 20..<6 << 20])
        unsafe #expect(before.bytes(offset: 0, count: Int(size)).elementsEqual(bytes))
    }

    /// What cannot be gathered is said not to be.
    @Test func whatIsNoFileIsNotGathered() throws {
        let empty = try Descriptor.memoryFile("empty")
        #expect(!FilePages.gather(empty.raw, at: 2 << 20))
        #expect(!FilePages.gather(-1, at: 0))
    }
}

/// What the forks of a machine write first, in memory that they share.
@Suite struct ForkWorkingSetTests {
    private static let size: UInt64 = 256 << 20

    @Test(arguments: 0..<UInt64(fuzzRounds(50))) func whatIsNotedIsKnownToAll(seed: UInt64) throws {
        var generator = SeededGenerator(seed)
        let set = try ForkWorkingSet(memorySize: Self.size)
        #expect(!set.isKnown && set.read() == nil)
        var ranges: [Range<UInt64>] = []
        var page: UInt64 = 0
        while ranges.count < 20 {
            // Apart, so that none becomes part of another.
            page += UInt64.random(in: 1...2_000, using: &generator)
            let count = UInt64.random(in: 1...100, using: &generator)
            ranges.append(page * 4096..<(page + count) * 4096)
            page += count
        }
        // By a process of its own, as a fork does. It has one thread, and must need nothing that another one of this
        // process may be just making; locks and connections of other tests are not for it to keep.
        let other = try ForkWorkingSet(memorySize: Self.size, identifier: set.identifier)
        other.note(ranges)
        let bytes = try #require(other.read()).encoded()
        let kept: [Int32] = [0, 1, 2]
        let child = clinux_fork()
        if child == 0 {
            unsafe clinux_close_all_but(kept, kept.count)
            set.put(bytes)
            _exit(0)
        }
        var code: Int32 = 0
        var signaled = false
        #expect(unsafe clinux_wait(child, false, &code, &signaled) == 1 && code == 0 && !signaled)
        #expect(set.isKnown && set.ranges == ranges)
        // Once and for all.
        set.note([0..<4096])
        #expect(set.ranges == ranges)
    }

    @Test func whoeverWritesMuchHasNothingCopied() throws {
        let set = try ForkWorkingSet(memorySize: Self.size)
        set.note([0..<16 << 20])
        #expect(set.isKnown && set.ranges == [])
        // Not a multiple of 64 pages.
        let last = try ForkWorkingSet(memorySize: Self.size - 4096)
        last.note([Self.size - 8192..<Self.size - 4096])
        #expect(last.ranges == [Self.size - 8192..<Self.size - 4096])
    }

    /// A machine that has been taken over can write there what it likes.
    @Test func whatCannotBeIsNotFollowed() throws {
        let set = try ForkWorkingSet(memorySize: Self.size)
        func bytes(
            of identifier: SnapshotIdentifier, memorySize: UInt64 = Self.size, _ range: Range<UInt64> = 0..<4096
        ) -> [UInt8] {
            let stretch = WorkingSet.Stretch(range: range, isWritten: true)
            return WorkingSet(identifier: identifier, memorySize: memorySize, stretches: [stretch]).encoded()
        }
        set.put(bytes(of: set.identifier))
        #expect(set.ranges == [0..<4096])
        set.put(bytes(of: .random()))
        #expect(set.isKnown && set.read() == nil)
        set.put(bytes(of: set.identifier, memorySize: 2 * Self.size, Self.size..<Self.size + 4096))
        #expect(set.read() == nil)
        set.put(bytes(of: set.identifier, 0..<ForkWorkingSet.byteLimit + 4096))
        #expect(set.read() == nil)
        let whole = bytes(of: set.identifier)
        for index in whole.indices {
            var damaged = whole
            damaged[index] ^= 1
            set.put(damaged)
            #expect(set.read() == nil)
        }
        for length in [1, UInt64(WorkingSet.headerSize - 1), .max] {
            set.put(whole)
            set.setLength(length)
            #expect(set.read() == nil)
        }
    }
}

extension ForkWorkingSet {
    fileprivate var ranges: [Range<UInt64>]? { read()?.stretches.map(\.range) }
}

@Suite struct FileCopyTests {
    /// The same bytes, whether the file system shares them or they are copied; and holes stay holes.
    @Test func aDiskAndItsClone() throws {
        let path = "/tmp/martlet-file-copy-\(getpid())-\(monotonicNanoseconds())"
        defer {
            Files.remove(path)
            Files.remove("\(path).clone")
        }
        let source = try Descriptor.open(path, .createNew)
        let size: UInt64 = 64 << 20
        try source.truncate(to: size)
        var generator = SeededGenerator(7)
        let places: [UInt64] = [0, 1 << 20, 40 << 20, size - 8192]
        for place in places {
            let bytes = generator.bytes(8192)
            try bytes.withUnsafeBytes { try source.writeAll($0, at: place) }
        }
        let clone = try Descriptor.open("\(path).clone", .createNew)
        try FileCopy.clone(source, count: size, to: clone)
        #expect(try clone.size() == size)
        var one = [UInt8](repeating: 1, count: 8192)
        var other = [UInt8](repeating: 2, count: 8192)
        for place in places + [3 << 20] {
            #expect(try one.withUnsafeMutableBytes { try source.readFully(into: $0, at: place) } == 8192)
            #expect(try other.withUnsafeMutableBytes { try clone.readFully(into: $0, at: place) } == 8192)
            #expect(one == other, "\(place)")
        }
        var status = stat()
        #expect(fstat(clone.raw, &status) == 0 && status.st_blocks * 512 < 8 << 20)
    }
}
