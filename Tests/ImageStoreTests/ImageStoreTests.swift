// SPDX-License-Identifier: Apache-2.0

import ImageStore
import OCI
import OCITesting
import Platform
import Synchronization
import Testing

/// A store in a test's directory that asks registries without any login.
func testStore(_ directory: String, additional: [String] = []) -> ImageStore {
    var options = RegistryOptions(environment: [])
    options.platform = ImagePlatform(operatingSystem: "linux", architecture: "amd64")
    options.retries.firstDelayInMilliseconds = 1
    return ImageStore(root: directory + "/store", additional: additional, registry: options)
}

/// Events of a resolution, gathered.
final class Events: Sendable {
    private let state = Mutex<[ImageProgress]>([])
    var all: [ImageProgress] { state.withLock { $0 } }
    var stored: Int { count(.stored) }

    func count(_ state: LayerState) -> Int {
        all.filter { event in
            if case .layer(_, state) = event { true } else { false }
        }.count
    }

    var handler: ImageProgressHandler { { event in self.state.withLock { $0.append(event) } } }
}

/// What a store holds, besides names and locks, as sorted paths.
func contents(_ store: ImageStore) throws -> [String] {
    var all: [String] = []
    for directory in ["images", "layers", "tmp"] {
        for name in (try? Files.list("\(store.root)/\(directory)")) ?? [] { all.append("\(directory)/\(name)") }
    }
    return all.sorted()
}

@Suite struct SourceTests {
    private let image = TestImage.small(seed: 11, layers: 4, layerSize: 50_000)

    private func check(_ stored: StoredImage) async throws {
        #expect(stored.id == image.id)
        #expect(stored.configuration.config.command == ["/bin/sh"])
        #expect(stored.segments.count == 5)
        for segment in stored.segments {
            #expect(segment.length % 4096 == 0)
            #expect(try Descriptor.open(segment.path, .readOnly).size() == segment.length)
        }
        for segment in stored.segments.dropFirst() {
            let (end, output) = try await runProgram("/usr/bin/fsck.erofs", [segment.path])
            #expect(end == .exited(0), "\(output)")
        }
    }

    @Test func storesLayouts() async throws {
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory + "/layout")
            let store = testStore(directory)
            let source = try ImageSource("oci:\(directory)/layout")
            let events = Events()
            let stored = try await store.resolve(source, progress: events.handler)
            try await check(stored)
            #expect(events.stored == 4)
            #expect(events.all.last == .ready(image.id.description))
            let again = Events()
            #expect(try await store.resolve(source, progress: again.handler).segments == stored.segments)
            #expect(again.stored == 0)
            // By its id, and by the beginning of it, in no time and without a word.
            let silent = Events()
            for id in [image.id.hex, String(image.id.hex.prefix(6))] {
                let byID = try await store.resolve(try ImageSource("sha256:\(id)"), progress: silent.handler)
                #expect(byID.segments == stored.segments)
            }
            #expect(silent.all.isEmpty)
            #expect(try contents(store).filter { $0.hasPrefix("tmp") }.isEmpty)
        }
    }

    @Test func storesArchives() async throws {
        try await withTemporaryDirectory { directory in
            let archives = [image.legacyArchive(), image.modernArchive(), gzipStored(image.legacyArchive())]
            for (number, bytes) in archives.enumerated() {
                let path = "\(directory)/\(number).tar"
                try Files.writeAtomically(bytes, to: path)
                let store = testStore(directory + "/\(number)")
                try await check(try await store.resolve(try ImageSource("docker-archive:\(path)")))
                #expect(try contents(store).filter { $0.hasPrefix("tmp") }.isEmpty)
            }
        }
    }

    @Test func storesFromARegistry() async throws {
        let image = image
        try await withTemporaryDirectory { directory in
            try image.writeLayout(directory + "/layout")
            let registry = try DockerRegistry(directory: directory)
            defer { registry.stop() }
            let (end, output) = try await runProgram(
                "/usr/bin/skopeo",
                [
                    "copy", "--insecure-policy", "--dest-tls-verify=false", "oci:\(directory)/layout:latest",
                    "docker://\(registry.host)/app:1",
                ])
            try #require(end == .exited(0), "\(output)")
            let store = testStore(directory)
            let source = try ImageSource("\(registry.host)/app:1")
            let stored = try await store.resolve(source)
            try await check(stored)
            #expect(stored.names == ["\(registry.host)/app:1"])
            registry.stop()
            // Nothing of the network is needed any more.
            let again = Events()
            let found = try await store.resolve(source, pull: .never, progress: again.handler)
            #expect(found.segments == stored.segments)
            #expect(again.all.isEmpty)
        }
    }

    @Test func storesDirectories() async throws {
        try await withTemporaryDirectory { directory in
            try Files.makeDirectories(directory + "/root/etc")
            try Files.writeAtomically(Array("one".utf8), to: directory + "/root/etc/name")
            let store = testStore(directory)
            let source = try ImageSource("dir:\(directory)/root")
            let first = try await store.resolve(source)
            #expect(first.segments.count == 2)
            #expect(first.configuration.config == ImageConfiguration.Runtime())
            // What changed within the clock's tick of a look is looked at again; this is no wait for anybody's work.
            try await Task.sleep(nanoseconds: 60_000_000)
            #expect(try await store.resolve(source).id == first.id)
            let events = Events()
            #expect(try await store.resolve(source, progress: events.handler).id == first.id)
            #expect(events.stored == 0)
            try Files.writeAtomically(Array("two".utf8), to: directory + "/root/etc/name")
            let second = try await store.resolve(source)
            #expect(second.id != first.id)
            for path in ["dir:\(directory)/none", "dir:\(directory)/root/etc/name"] {
                await #expect(throws: ImageStoreError.self) { try await store.resolve(try ImageSource(path)) }
            }
        }
    }

    @Test func anImageOf127LayersIsFoundQuickly() async throws {
        try await withTemporaryDirectory { directory in
            let image = TestImage.small(seed: 12, layers: 127, layerSize: 100)
            try image.writeLayout(directory + "/layout")
            let store = testStore(directory)
            let stored = try await store.resolve(try ImageSource("oci:\(directory)/layout"))
            #expect(stored.segments.count == 128)
            let source = try ImageSource("sha256:\(image.id.hex)")
            var best = UInt64.max
            for _ in 0..<5 {
                let start = monotonicNanoseconds()
                _ = try await store.resolve(source)
                best = min(best, monotonicNanoseconds() - start)
            }
            #expect(best < 50_000_000)
            print("look-up of an image of 127 layers: \(best / 1000) µs")
        }
    }
}
