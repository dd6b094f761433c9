// SPDX-License-Identifier: Apache-2.0

import ImageStore
import NIOHTTP1
import OCI
import OCITesting
import Platform
import Synchronization
import Testing

@Suite struct RegistryPolicyTests {
    @Test func asksTheRegistryAsThePolicySays() async throws {
        let current = MutexBox(TestImage.small(seed: 21))
        let server = try await TestServer { request in current.mutex.withLock { $0 }.answer(request) }
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            let source = try ImageSource("\(server.host)/test/image")
            await #expect(throws: ImageStoreError.notStored("\(server.host)/test/image:latest")) {
                try await store.resolve(source, pull: .never)
            }
            #expect(server.requests.isEmpty)
            let first = try await store.resolve(source)
            let asked = server.requests.count
            #expect(try await store.resolve(source).id == first.id)
            #expect(server.requests.count == asked)
            // The same again: the manifest is asked for, and nothing else.
            #expect(try await store.resolve(source, pull: .always).id == first.id)
            #expect(!server.requests.dropFirst(asked).contains { $0.contains("/blobs/") })

            let moved = TestImage.small(seed: 22)
            current.mutex.withLock { $0 = moved }
            #expect(try await store.resolve(source).id == first.id)
            #expect(try await store.resolve(source, pull: .always).id == moved.id)
            #expect(try await store.resolve(source).id == moved.id)
        }
        await server.close()
    }

    @Test func layersAreShared() async throws {
        let base = TestImage.small(seed: 23, layers: 3)
        var tar = TarWriter()
        tar.file("top", [1, 2, 3])
        let derived = TestImage(layers: base.layers.map(\.tar) + [tar.finished()])
        let baseServer = try await TestServer { base.answer($0) }
        let derivedServer = try await TestServer { derived.answer($0) }
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            let one = try await store.resolve(try ImageSource("\(baseServer.host)/test/image"))
            let events = Events()
            let two = try await store.resolve(
                try ImageSource("\(derivedServer.host)/test/image"), progress: events.handler)
            #expect(events.stored == 1)
            #expect(events.count(.present) == 3)
            #expect(two.segments[1...3] == one.segments[1...3])
            #expect(derivedServer.requests.filter { $0.contains("/blobs/") }.count == 2)

            // A store beside this one is read, not written, and not copied.
            let other = testStore(directory + "/other", additional: [store.root])
            let found = try await other.resolve(try ImageSource("\(baseServer.host)/test/image"), pull: .never)
            #expect(found.segments == one.segments)
            #expect(!Files.exists(other.root))
        }
        await baseServer.close()
        await derivedServer.close()
    }

    /// Each kind of bad layer: an error that says so, and a store as it was.
    @Test(arguments: ["digest", "diffID", "truncated", "garbage", "tar", "stall"])
    func aBadLayerLeavesNothing(kind: String) async throws {
        let image = TestImage.small(seed: 24, layers: 2, layerSize: 100_000)
        let victim = image.layers[1]
        let bad: TestImage
        switch kind {
        case "diffID":
            bad = TestImage(layers: [image.layers[0].tar, victim.tar], lyingAboutLayer: 1)
        case "truncated":
            bad = TestImage(layers: [image.layers[0].tar, Array(victim.tar.prefix(60_000))])
        case "garbage":
            bad = TestImage(layers: [image.layers[0].tar, pseudoRandomBytes(50_000, seed: 9)])
        case "tar":
            var tar = TarWriter()
            tar.file("../../etc/passwd", [1])
            bad = TestImage(layers: [image.layers[0].tar, tar.finished()])
        default:
            bad = image
        }
        let path = "/v2/test/image/blobs/\(bad.layers[1].digest)"
        let blob = bad.layers[1].blob
        let server = try await TestServer { request in
            guard request.uri == path else { return bad.answer(request) }
            switch kind {
            case "digest": return TestAnswer(.ok, body: Array(blob.dropLast()) + [1])
            case "stall": return TestAnswer(.ok, body: blob, ending: .stallAfter(1000))
            default: return bad.answer(request)
            }
        }
        try await withTemporaryDirectory { directory in
            var store = testStore(directory)
            store.registry.idleTimeoutInSeconds = 1
            do {
                _ = try await store.resolve(try ImageSource("\(server.host)/test/image"))
                Issue.record("the image was taken")
            } catch {
                #expect(!"\(error)".isEmpty)
            }
            let left = try contents(store)
            #expect(left.allSatisfy { $0 == "layers/\(image.layers[0].diffID.hex).erofs" }, "\(left)")
        }
        await server.close()
    }
}
