// SPDX-License-Identifier: Apache-2.0

import NIOCore
import OCI
import OCITesting
import Platform
import Synchronization

/// Options for tests: no login of the machine's user, short pauses.
func testOptions(_ change: (inout RegistryOptions) -> Void = { _ in }) -> RegistryOptions {
    var options = RegistryOptions(environment: [])
    options.platform = ImagePlatform(operatingSystem: "linux", architecture: "amd64")
    options.retries.firstDelayInMilliseconds = 1
    options.retries.longestDelayInMilliseconds = 5
    change(&options)
    return options
}

/// Bytes gathered by a sink.
final class Gathered: Sendable {
    private let state = Mutex<[UInt8]>([])
    var bytes: [UInt8] { state.withLock { $0 } }

    func add(_ piece: ByteBuffer) -> Bool {
        state.withLock { $0 += piece.readableBytesView }
        return true
    }

    func add(_ piece: UnsafeRawBufferPointer) -> Bool {
        state.withLock { $0 += piece }
        return true
    }
}

extension ImageContent.Layer {
    /// All of the layer's bytes as they are stored or sent.
    func allBytes() async throws -> [UInt8] {
        let gathered = Gathered()
        switch source {
        case .file(let slice, let digest):
            try slice.read(expecting: digest, what: "layer") { gathered.add($0) }
        case .registry(let blob):
            try await blob.read { gathered.add($0) }
        }
        return gathered.bytes
    }
}

/// Everything of an image, so that it can be compared.
func pull(_ name: String, _ options: RegistryOptions = testOptions()) async throws -> (ImageContent, [[UInt8]]) {
    let client = RegistryClient(options: options)
    do {
        let content = try await client.image(try ImageReference(name))
        var layers: [[UInt8]] = []
        for layer in content.layers { layers.append(try await layer.allBytes()) }
        await client.shutdown()
        return (content, layers)
    } catch {
        await client.shutdown()
        throw error
    }
}
