// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Platform

@Suite struct DescriptorTests {
    @Test func failureNamesCallAndSubject() {
        #expect(throws: SystemError("open", "/nowhere/at/all", code: 2)) {
            _ = try Descriptor.open("/nowhere/at/all", .readOnly)
        }
    }

    @Test func atomicWriteLeavesOnlyTheFile() throws {
        let directory = "/tmp/martlet-platform-\(monotonicNanoseconds())"
        try Files.makeDirectories(directory + "/a/b")
        try Files.writeAtomically([1, 2, 3], to: directory + "/a/b/file")
        #expect(try Files.list(directory + "/a/b") == ["file"])
        #expect(try Files.read(directory + "/a/b/file", limit: 3) == [1, 2, 3])
        #expect(throws: SystemError.self) { try Files.read(directory + "/a/b/file", limit: 2) }
        try Files.removeTree(directory)
        #expect(!Files.exists(directory))
    }

    @Test func aHiddenFileIsWholeOrNotThere() throws {
        let directory = "/tmp/martlet-platform-\(monotonicNanoseconds())"
        try Files.makeDirectory(directory)
        defer { try? Files.removeTree(directory) }
        let path = "\(directory)/file"
        for contents in [[1, 2, 3], [4]] as [[UInt8]] {
            // Given up: what was there stays.
            let before = try? Files.read(path, limit: 3)
            do {
                let abandoned = try HiddenFile(for: path, permissions: 0o600)
                try abandoned.descriptor.writeAll([9, 9])
            }
            #expect((try? Files.read(path, limit: 3)) == before)
            let file = try HiddenFile(for: path, permissions: 0o600)
            try file.descriptor.writeAll(contents)
            try file.publish()
            #expect(try Files.read(path, limit: 3) == contents)
            #expect(try Files.list(directory) == ["file"])
        }
    }

    @Test func draftsTellWhoMadeThem() {
        #expect(Files.isDraftOfTheLiving("working-set\(Files.draftSuffix())"))
        for name in ["working-set", "a.1.tmp", "a.x.1.tmp", "working-set.4194305.1.tmp", ".tmp", ""] {
            #expect(!Files.isDraftOfTheLiving(name), "\(name)")
        }
    }
}

@Suite struct ChildProcessTests {
    @Test(arguments: [(["sh", "-c", "exit 7"], ProcessEnd.exited(7)), (["sh", "-c", "kill -9 $$"], .signaled(9))])
    func endIsExact(arguments: [String], end: ProcessEnd) throws {
        let child = try ChildProcess(ProcessSpecification("/bin/sh", arguments))
        #expect(try child.wait() == end)
    }

    @Test func missingProgramIsAnErrorOfTheStart() {
        #expect(throws: SystemError("exec", "/no/such/program", code: 2)) {
            _ = try ChildProcess(ProcessSpecification("/no/such/program", ["x"])).pid
        }
    }

    @Test func descriptorsArriveInTheirPlaces() throws {
        let pipe = try Pipe()
        var specification = ProcessSpecification("/bin/sh", ["sh", "-c", "echo three >&3"])
        specification.descriptors = [-1, -1, -1, pipe.writing.raw]
        let child = try ChildProcess(specification)
        #expect(try child.wait() == .exited(0))
        var space = [UInt8](repeating: 0, count: 16)
        let got = try space.withUnsafeMutableBytes { try pipe.reading.read(into: $0) }
        #expect(got == .bytes(6))
        #expect(space.starts(with: Array("three\n".utf8)))
    }
}

@Suite struct LockTests {
    @Test func secondTakerIsTold() throws {
        let path = "/tmp/martlet-lock-\(monotonicNanoseconds())"
        let first = try FileLock(waitingAt: path)
        if try FileLock.attempt(at: path) != nil { Issue.record("the lock was given twice") }
        _ = consume first
        if try FileLock.attempt(at: path) == nil { Issue.record("the lock was not given back") }
        Files.remove(path)
    }
}

@Suite struct SocketTests {
    @Test func longPathsAreReached() throws {
        let directory = "/tmp/martlet-\(monotonicNanoseconds())-" + String(repeating: "d", count: 150)
        try Files.makeDirectories(directory)
        let listener = try UnixSocket.listen(at: directory + "/socket")
        let client = try UnixSocket.connect(to: directory + "/socket")
        guard let server = try UnixSocket.accept(on: listener, nonBlocking: false) else {
            Issue.record("no connection waits")
            return
        }
        try client.writeAll([42])
        var space: [UInt8] = [0]
        #expect(try space.withUnsafeMutableBytes { try server.read(into: $0) } == .bytes(1))
        #expect(space == [42])
        try Files.removeTree(directory)
    }
}
