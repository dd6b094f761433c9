// SPDX-License-Identifier: Apache-2.0

import Glibc
import ImageStore
import NIOHTTP1
import OCI
import OCITesting
import Platform
import Synchronization
import Testing

/// Several processes at once, and processes that end in the middle of their work.
@Suite struct ProcessTests {
    /// The program of the target beside this one, where the build puts it.
    private static var probe: String {
        for argument in CommandLine.arguments {
            guard let range = argument.firstRange(of: "/martletPackageTests.xctest") else { continue }
            return argument[..<range.lowerBound] + "/ImageStoreProbe"
        }
        return ".build/debug/ImageStoreProbe"
    }

    @Test func eightProcessesConvertOnce() async throws {
        let image = TestImage.small(seed: 31, layers: 3, layerSize: 2_000_000)
        let server = try await TestServer { image.answer($0) }
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            let name = "\(server.host)/test/image"
            let outputs = try await withThrowingTaskGroup(of: (ProcessEnd, String).self) { group in
                for _ in 0..<8 { group.addTask { try await runProgram(Self.probe, [store.root, name]) } }
                var all: [(ProcessEnd, String)] = []
                for try await output in group { all.append(output) }
                return all
            }
            for (end, output) in outputs {
                #expect(end == .exited(0), "\(output)")
                #expect(output.contains("ready \(image.id) 4"), "\(output)")
            }
            let stored = outputs.reduce(0) { $0 + $1.1.split(separator: "\n").filter { $0 == "stored" }.count }
            #expect(stored == 3)
            for layer in image.layers {
                #expect(server.requests.filter { $0.hasSuffix(layer.digest.description) }.count == 1)
            }
            let wanted = image.layers.map { "layers/\($0.diffID.hex).erofs" } + ["images/\(image.id.hex)"]
            let found = try contents(store)
            #expect(found == wanted.sorted())
        }
        await server.close()
    }

    @Test func eightTasksConvertOnce() async throws {
        let image = TestImage.small(seed: 32, layers: 5, layerSize: 200_000)
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory + "/layout")
            let events = Events()
            try await withThrowingTaskGroup(of: Digest.self) { group in
                for _ in 0..<8 {
                    group.addTask {
                        let store = testStore(directory)
                        let source = try ImageSource("oci:\(directory)/layout")
                        return try await store.resolve(source, progress: events.handler).id
                    }
                }
                for try await id in group { #expect(id == image.id) }
            }
            #expect(events.stored == 5)
        }
    }

    @Test func aKilledProcessLeavesTheStoreWhole() async throws {
        let image = TestImage.small(seed: 33, layers: 2, layerSize: 3_000_000)
        let path = "/v2/test/image/blobs/\(image.layers[1].digest)"
        let (reached, signal) = AsyncStream.makeStream(of: Void.self)
        // However often it tries again: it is to be killed in the middle of it.
        let isKilled = Atomic(false)
        let server = try await TestServer { request in
            guard request.uri == path, !isKilled.load(ordering: .relaxed) else { return image.answer(request) }
            signal.yield()
            return TestAnswer(.ok, body: image.layers[1].blob, ending: .stallAfter(2_000_000))
        }
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            let name = "\(server.host)/test/image"
            let specification = ProcessSpecification(Self.probe, [Self.probe, store.root, name])
            let process = try ChildProcess(specification)
            var reachedOnce = reached.makeAsyncIterator()
            await reachedOnce.next()
            #expect(try process.killAndWait() == .signaled(SIGKILL))
            isKilled.store(true, ordering: .relaxed)

            // What it was at is to be seen in its workspace, and nowhere else.
            let left = try contents(store)
            #expect(left.contains { $0.hasPrefix("tmp/") })
            #expect(!left.contains("layers/\(image.layers[1].diffID.hex).erofs"))
            #expect(try store.lookUp(try ImageSource(name)) == nil)
            let stored = try await store.resolve(try ImageSource(name))
            #expect(stored.id == image.id)
            #expect(try contents(store).filter { $0.hasPrefix("tmp/") }.isEmpty)
        }
        await server.close()
    }

    @Test func aFullDiskIsSaid() async throws {
        let image = TestImage.small(seed: 34, layers: 2, layerSize: 3_000_000)
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory + "/layout")
            try Files.makeDirectories(directory + "/store")
            let script = """
                mount -t tmpfs -o size=1m none \(directory)/store &&
                \(Self.probe) \(directory)/store oci:\(directory)/layout
                find \(directory)/store/layers \(directory)/store/images \(directory)/store/tmp -type f
                """
            let (_, output) = try await runProgram("/usr/bin/unshare", ["-rm", "/bin/sh", "-c", script])
            let lines = output.split(separator: "\n")
            #expect(lines.count == 1 && lines.first?.hasPrefix("error the disk that holds") == true, "\(output)")
        }
    }
}
