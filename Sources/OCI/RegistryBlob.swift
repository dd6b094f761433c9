// SPDX-License-Identifier: Apache-2.0
//
// Zone: Swift concurrency. The hashing is done on its threads, piece by piece.

internal import AsyncHTTPClient
package import NIOCore
internal import NIOHTTP1
internal import Synchronization

/// A layer in a registry, yet to be read.
package struct RegistryBlob: Sendable {
    let client: RegistryClient
    let reference: ImageReference
    let endpoint: RegistryEndpoint
    package let descriptor: ContentDescriptor

    /// Hands the layer's bytes to a sink, in order, and checks them: only when this returns are they what they
    /// should be. A connection that breaks is taken up again where it broke.
    /// - Parameter sink: takes its time as it needs; false ends the reading (`OCIError.cancelled`).
    package func read(into sink: @escaping @Sendable (ByteBuffer) async -> Bool) async throws(OCIError) {
        let progress = MutexBox(BlobProgress(hasher: DigestHasher(descriptor.digest.algorithm)))
        let what = "layer \(descriptor.digest.hex.prefix(12)) of \(reference)"
        try await client.withRetries(host: reference.registry) { () async throws(AttemptFailure) in
            try await attempt(progress, what, sink)
        }
        let (received, digest) = progress.mutex.withLock { ($0.received, $0.hasher.finish()) }
        guard received == descriptor.size else {
            throw .wrongSize(what: what, expected: descriptor.size, found: received)
        }
        guard digest == descriptor.digest else {
            throw .wrongDigest(what: what, expected: descriptor.digest.description, found: digest.description)
        }
    }

    private func attempt(
        _ progress: MutexBox<BlobProgress>, _ what: String, _ sink: @escaping @Sendable (ByteBuffer) async -> Bool
    ) async throws(AttemptFailure) {
        let start = progress.mutex.withLock { $0.received }
        if start == descriptor.size && start > 0 { return }
        var headers = client.headers()
        if start > 0 { headers.add(name: "Range", value: "bytes=\(start)-") }
        let request = RegistryRequest(
            url: endpoint.url(reference.repository, "blobs/\(descriptor.digest)"), headers: headers,
            reference: reference, endpoint: endpoint, what: what)
        let answer = try await client.answer(to: request)
        let host = reference.registry
        let skipped = try await bytesToSkip(answer, start: start, request)
        progress.mutex.withLock { $0.toSkip = skipped }
        let size = descriptor.size
        let end = await answer.readBody(idleTimeoutInSeconds: client.options.idleTimeoutInSeconds) { piece in
            guard let fresh = progress.mutex.withLock({ $0.take(piece, size: size) }) else { return false }
            return fresh.readableBytes == 0 ? true : await sink(fresh)
        }
        let (received, tooMuch) = progress.mutex.withLock { ($0.received, $0.tooMuch) }
        switch end {
        case .complete where received < size:
            let error = OCIError.wrongSize(what: what, expected: size, found: received)
            throw .transient(error, after: nil, progressed: received - start >= 1 << 20)
        case .complete: return
        case .stopped where tooMuch:
            throw .final(.wrongSize(what: what, expected: size, found: received + 1))
        case .stopped: throw .final(.cancelled)
        case .stalled:
            throw .final(.stalled(host: host, what: what, seconds: client.options.idleTimeoutInSeconds))
        case .failed(let failure):
            if failure.kind == .broken {
                throw .transient(
                    .unreachable(host: host, reason: "\(failure.reason) (after \(received) of \(size) bytes)"),
                    after: nil,
                    progressed: received - start >= 1 << 20)
            }
            throw client.attemptFailure(failure, host: host, what: what)
        }
    }

    /// How many bytes at the answer's beginning are there already; refuses answers that are not the rest of the blob.
    private func bytesToSkip(
        _ answer: HTTPClientResponse, start: Int64, _ request: RegistryRequest
    ) async throws(AttemptFailure) -> Int64 {
        let host = reference.registry
        let what = request.what
        let length = answer.headers.first(name: "Content-Length").flatMap { Int64($0) }
        let type = answer.headers.first(name: "Content-Type").map(MediaType.essence)
        let isPage = type == "text/html"
        switch answer.status {
        case .ok:
            if let length, length != descriptor.size {
                if isPage {
                    let (bytes, _) = await answer.collectBody(limit: 64 * 1024, idleTimeoutInSeconds: 10)
                    throw .final(.notRegistry(host: host, what: what, came: describePage(bytes ?? [])))
                }
                throw .final(.wrongSize(what: what, expected: descriptor.size, found: length))
            }
            return start
        case .partialContent:
            let range = answer.headers.first(name: "Content-Range") ?? ""
            guard let first = BlobProgress.firstByte(ofContentRange: range), first <= start else {
                throw .final(.notRegistry(host: host, what: what, came: "the range \"\(printable(range))\""))
            }
            return start - first
        default:
            throw await client.refusal(answer, host: host, what: what, image: request)
        }
    }
}

/// How far a blob has come.
private struct BlobProgress: Sendable {
    var hasher: DigestHasher
    var received: Int64 = 0
    /// Bytes at the beginning of the current answer that are there already.
    var toSkip: Int64 = 0
    var tooMuch = false

    /// The part of a piece that is new, counted and hashed; nil if the blob grows beyond its size.
    mutating func take(_ piece: ByteBuffer, size: Int64) -> ByteBuffer? {
        var fresh = piece
        let skipped = min(toSkip, Int64(fresh.readableBytes))
        fresh.moveReaderIndex(forwardBy: Int(skipped))
        toSkip -= skipped
        guard Int64(fresh.readableBytes) <= size - received else {
            tooMuch = true
            return nil
        }
        hasher.update(fresh)
        received += Int64(fresh.readableBytes)
        return fresh
    }

    /// The first byte's number in `bytes 100-199/200` (RFC 9110, section 14.4).
    static func firstByte(ofContentRange text: String) -> Int64? {
        let lowered = text.lowercased()
        guard lowered.hasPrefix("bytes ") else { return nil }
        let digits = lowered.dropFirst(6).prefix { $0 != "-" }
        guard let value = Int64(digits), value >= 0 else { return nil }
        return value
    }
}
