// SPDX-License-Identifier: Apache-2.0
//
// Conversion computes and blocks: it has a thread of its own, to which a download hands its chunks.

internal import DiskImage
internal import NIOCore
internal import OCI
internal import Platform
internal import Synchronization

/// Why a conversion ended without a layer.
enum LayerFailure: Error {
    case source(OCIError)
    case conversion(DiskImageError)
}

enum LayerConversion {
    /// Fetches a layer and converts it on the way.
    /// - Parameters:
    ///   - output: the descriptor of an empty file.
    ///   - what: the layer's name, for errors.
    ///   - progress: is told how many bytes have been fetched.
    static func run(
        _ layer: ImageContent.Layer, output: Int32, what: String, progress: @escaping @Sendable (Int64) -> Void
    ) async throws(LayerFailure) -> ConvertedLayer {
        switch layer.source {
        case .file(let slice, let digest):
            return try await onOwnThread {
                Result { () throws(LayerFailure) in
                    try convert(slice, digest: digest, output: output, what: what, progress: progress)
                }
            }.get()
        case .registry(let blob):
            return try await convert(blob, output: output, progress: progress)
        }
    }

    private static func convert(
        _ slice: FileSlice, digest: Digest?, output: Int32, what: String, progress: (Int64) -> Void
    ) throws(LayerFailure) -> ConvertedLayer {
        let converter = try converting { () throws(DiskImageError) in try LayerConverter(output: output) }
        var failure: DiskImageError?
        var count: Int64 = 0
        do throws(OCIError) {
            try slice.read(expecting: digest, what: what) { bytes in
                do throws(DiskImageError) { try converter.feed(bytes) } catch {
                    failure = error
                    return false
                }
                count += Int64(bytes.count)
                progress(count)
                return true
            }
        } catch {
            throw failure.map { .conversion($0) } ?? .source(error)
        }
        return try converting { () throws(DiskImageError) in try converter.finish() }
    }

    private static func converting<Value>(
        _ body: () throws(DiskImageError) -> Value
    ) throws(LayerFailure) -> Value {
        do { return try body() } catch { throw .conversion(error) }
    }

    private static func convert(
        _ blob: RegistryBlob, output: Int32, progress: @escaping @Sendable (Int64) -> Void
    ) async throws(LayerFailure) -> ConvertedLayer {
        let queue = ChunkQueue()
        async let conversion = onOwnThread { drain(queue, output: output) }
        let received = MutexBox<Int64>(0)
        var downloadFailure: OCIError?
        do throws(OCIError) {
            try await blob.read { chunk in
                let total = received.mutex.withLock { total in
                    total += Int64(chunk.readableBytes)
                    return total
                }
                progress(total)
                return await queue.push(chunk)
            }
            queue.end(complete: true)
        } catch {
            queue.end(complete: false)
            downloadFailure = error
        }
        let result = await conversion
        switch (result, downloadFailure) {
        // The download was stopped because the conversion had failed.
        case (.failure(let error), nil), (.failure(let error), .cancelled): throw .conversion(error)
        case (_, .some(let error)): throw .source(error)
        case (.success(let converted?), nil): return converted
        case (.success(nil), nil): throw .source(.cancelled)
        }
    }

    /// Feeds a converter from a queue to its end; nil when the giver gave up.
    private static func drain(_ queue: ChunkQueue, output: Int32) -> Result<ConvertedLayer?, DiskImageError> {
        do throws(DiskImageError) {
            let converter = try LayerConverter(output: output)
            while let chunk = queue.next() {
                var failure: DiskImageError?
                chunk.withUnsafeReadableBytes { bytes in
                    do throws(DiskImageError) { try converter.feed(bytes) } catch { failure = error }
                }
                if let failure { throw failure }
            }
            guard queue.isComplete else { return .success(nil) }
            return .success(try converter.finish())
        } catch {
            queue.abandon()
            return .failure(error)
        }
    }
}
