// SPDX-License-Identifier: Apache-2.0

import ImageStore
import NIOHTTP1
import OCI
import OCITesting
import Platform
import Testing

@Suite struct UpkeepTests {
    @Test func listsRemovesAndSweeps() async throws {
        let one = TestImage.small(seed: 41, layers: 2)
        var tar = TarWriter()
        tar.file("x", [1])
        let two = TestImage(layers: [one.layers[0].tar, tar.finished()])
        let server = try await TestServer { one.answer($0) }
        let other = try await TestServer { two.answer($0) }
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            #expect(try store.list().isEmpty)
            #expect(try await store.sweep() == SweepResult())
            let first = try ImageSource("\(server.host)/test/image")
            let second = try ImageSource("\(other.host)/test/image")
            _ = try await store.resolve(first)
            _ = try await store.resolve(second)
            #expect(try Set(store.list().map(\.id)) == [one.id, two.id])
            #expect(try store.list().flatMap(\.names).count == 2)
            #expect(try await store.sweep().layers == 0)

            #expect(try store.remove(first))
            #expect(try !store.remove(first))
            #expect(try store.list().map(\.id) == [two.id])
            let swept = try await store.sweep()
            #expect(swept.layers == 1)
            #expect(swept.bytes > 0)
            #expect(try await store.resolve(second, pull: .never).id == two.id)
            #expect(try contents(store).count == 3)
        }
        await server.close()
        await other.close()
    }

    @Test func whatIsDamagedIsMadeAgain() async throws {
        let image = TestImage.small(seed: 42)
        let server = try await TestServer { image.answer($0) }
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            let source = try ImageSource("\(server.host)/test/image")
            let stored = try await store.resolve(source)
            let imageDirectory = "\(store.root)/images/\(image.id.hex)"
            let damages: [() throws -> Void] = [
                { Files.remove(stored.segments[2].path) },
                { try Descriptor.open(stored.segments[0].path, .readWrite).truncate(to: 4096) },
                { Files.remove(imageDirectory + "/record.json") },
                { try Files.writeAtomically(Array("{".utf8), to: imageDirectory + "/record.json") },
                { try Files.writeAtomically(Array("{}".utf8), to: imageDirectory + "/config.json") },
                { try Files.removeTree(store.root + "/names") },
            ]
            for damage in damages {
                try damage()
                #expect(try store.lookUp(source) == nil)
                #expect(try await store.resolve(source).segments == stored.segments)
            }
            #expect(try contents(store).count == 4)
        }
        await server.close()
    }

    @Test func idsAreToBeUnique() async throws {
        try await withTemporaryDirectory { directory in
            let store = testStore(directory)
            for ending in ["0", "1"] {
                try Files.makeDirectories("\(store.root)/images/abcdef" + String(repeating: "0", count: 57) + ending)
            }
            await #expect(throws: ImageStoreError.self) { try await store.resolve(try ImageSource("sha256:abcdef")) }
            await #expect(throws: ImageStoreError.notStored("sha256:123456")) {
                try await store.resolve(try ImageSource("sha256:123456"))
            }
        }
    }
}
