// SPDX-License-Identifier: Apache-2.0

import NIOCore
import NIOHTTP1
import OCI
import OCITesting
import Synchronization
import Testing

/// Registries that misbehave, each in its way; what the user is told is part of the contract.
@Suite struct HostileRegistryTests {
    private let image = TestImage.small(seed: 3, layers: 2, layerSize: 300_000)

    /// Pulls from a server that answers as the script says, or as a good registry where it says nothing.
    private func pull(
        _ options: RegistryOptions = testOptions(), tls: Bool = false,
        _ script: @escaping @Sendable (TestRequest) -> TestAnswer?
    ) async throws -> (content: ImageContent, layers: [[UInt8]], requests: [String]) {
        let image = image
        let server = try await TestServer(tls: tls) { script($0) ?? image.answer($0) }
        do {
            let (content, layers) = try await OCITests.pull("\(server.host)/test/image", options)
            await server.close()
            return (content, layers, server.requests)
        } catch {
            await server.close()
            throw error
        }
    }

    private func failure(
        _ options: RegistryOptions = testOptions(), _ script: @escaping @Sendable (TestRequest) -> TestAnswer?
    ) async -> OCIError? {
        do {
            _ = try await pull(options, script)
            return nil
        } catch {
            return error as? OCIError
        }
    }

    private var firstLayer: String { "/v2/test/image/blobs/\(image.layers[0].digest)" }

    @Test func pullsFromAGoodOne() async throws {
        let (content, layers, _) = try await pull { _ in nil }
        #expect(content.id == image.id)
        #expect(content.manifestDigest == image.indexDigest)
        #expect(layers == image.layers.map(\.blob))
    }

    @Test func takesUpABrokenDownloadWhereItBroke() async throws {
        let layer = firstLayer
        let blob = image.layers[0].blob
        let ranges = MutexBox<[String]>([])
        let (_, layers, _) = try await pull { request in
            guard request.uri == layer else { return nil }
            if let range = request.headers.first(name: "Range") { ranges.mutex.withLock { $0.append(range) } }
            if request.repetition == 0 { return TestAnswer(.ok, body: blob, ending: .dropAfter(100_000)) }
            if request.repetition == 1 { return TestAnswer(.ok, body: blob, ending: .hangUp) }
            return nil
        }
        #expect(layers[0] == blob)
        let asked = ranges.mutex.withLock { $0 }
        #expect(asked.count == 2)
        #expect(asked.allSatisfy { $0.hasPrefix("bytes=") && $0 != "bytes=0-" })
    }

    @Test func startsOverWhereRangesAreIgnored() async throws {
        let layer = firstLayer
        let blob = image.layers[0].blob
        let (_, layers, _) = try await pull { request in
            guard request.uri == layer else { return nil }
            return TestAnswer(.ok, body: blob, ending: request.repetition == 0 ? .dropAfter(100_000) : .complete)
        }
        #expect(layers[0] == blob)
    }

    @Test func givesUpOnAConnectionThatAlwaysBreaks() async {
        let layer = firstLayer
        let count = MutexBox(0)
        let error = await failure { request in
            guard request.uri == layer else { return nil }
            count.mutex.withLock { $0 += 1 }
            return TestAnswer(.ok, body: [], ending: .hangUp)
        }
        guard case .unreachable = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(count.mutex.withLock { $0 } == 5)
    }

    @Test(arguments: [429, 500, 502, 503, 504])
    func asksAgainLater(status: Int) async throws {
        let (_, layers, _) = try await pull { request in
            guard request.uri.contains("/test/"), request.repetition < 2 else { return nil }
            return TestAnswer(.init(statusCode: status), request.repetition == 0 ? ["Retry-After": "0"] : [:])
        }
        #expect(layers.count == 2)
    }

    @Test func doesNotWaitForHours() async {
        let error = await failure {
            $0.uri.contains("manifests") ? TestAnswer(.tooManyRequests, ["Retry-After": "9999"]) : nil
        }
        guard case .refused(_, _, 429, _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func tellsAStall() async {
        let layer = firstLayer
        let blob = image.layers[0].blob
        let error = await failure(testOptions { $0.idleTimeoutInSeconds = 1 }) { request in
            request.uri == layer ? TestAnswer(.ok, body: blob, ending: .stallAfter(50_000)) : nil
        }
        guard case .stalled(_, _, 1) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func tellsSilence() async {
        let options = testOptions {
            $0.connectTimeoutInSeconds = 1
            $0.answerTimeoutInSeconds = 1
        }
        let error = await failure(options) { $0.uri.contains("manifests") ? TestAnswer(.ok, ending: .silence) : nil }
        guard case .stalled = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func aSlowConsumerIsNoStall() async throws {
        let image = image
        let server = try await TestServer { image.answer($0) }
        let client = RegistryClient(options: testOptions { $0.idleTimeoutInSeconds = 1 })
        let content = try await client.image(try ImageReference("\(server.host)/test/image"))
        let gathered = Gathered()
        let first = MutexBox(true)
        guard case .registry(let blob) = content.layers[0].source else { return }
        try await blob.read { piece in
            // Longer than the registry may be silent: the time is the consumer's own.
            let isFirst = first.mutex.withLock { first in
                defer { first = false }
                return first
            }
            if isFirst { try? await Task.sleep(nanoseconds: 1_500_000_000) }
            return gathered.add(piece)
        }
        #expect(gathered.bytes == image.layers[0].blob)
        await client.shutdown()
        await server.close()
    }

    @Test func theConsumerCanStop() async throws {
        let image = image
        let server = try await TestServer { image.answer($0) }
        let client = RegistryClient(options: testOptions())
        let content = try await client.image(try ImageReference("\(server.host)/test/image"))
        guard case .registry(let blob) = content.layers[0].source else { return }
        await #expect(throws: OCIError.cancelled) { try await blob.read { _ in false } }
        await client.shutdown()
        await server.close()
    }

    @Test func saysWhenAPageComesInsteadOfAnImage() async {
        let page = Array("<html><head><title>Please log in\u{1b}[31m</title></head></html>".utf8)
        for part in ["manifests", "blobs"] {
            let error = await failure { request in
                request.uri.contains(part)
                    ? TestAnswer(.ok, ["Content-Type": "text/html; charset=utf-8"], body: page) : nil
            }
            guard case .notRegistry(_, _, let came) = error else {
                Issue.record("\(String(describing: error))")
                return
            }
            #expect(came == #"an HTML page titled "please log in [31m""#)
        }
    }

    @Test func refusesGarbage() async throws {
        let error = await failure { $0.uri.contains("manifests") ? TestAnswer(.ok, body: [0xff, 0x00, 0x7b]) : nil }
        guard case .malformed = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        let server = try await TestServer(rawAnswer: Array("220 mail.example.org ESMTP\r\n".utf8)) { _ in
            TestAnswer(.ok)
        }
        await #expect(throws: OCIError.self) { try await OCITests.pull("\(server.host)/a") }
        await server.close()
    }

    @Test func refusesAWrongDigest() async {
        let layer = firstLayer
        var wrong = image.layers[0].blob
        wrong[1000] ^= 1
        let body = wrong
        let error = await failure { $0.uri == layer ? TestAnswer(.ok, body: body) : nil }
        guard case .wrongDigest(_, image.layers[0].digest.description, _) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        let byIndex = "/v2/test/image/manifests/\(image.manifestDigest)"
        let manifest = image.manifest + [0x20]
        let other = await failure { $0.uri == byIndex ? TestAnswer(.ok, body: manifest) : nil }
        guard case .wrongDigest = other else {
            Issue.record("\(String(describing: other))")
            return
        }
    }

    @Test func refusesAWrongSize() async {
        let layer = firstLayer
        let blob = image.layers[0].blob
        for body in [Array(blob.dropLast(1)), blob + [0]] {
            let error = await failure { $0.uri == layer ? TestAnswer(.ok, body: body) : nil }
            #expect(
                error
                    == .wrongSize(
                        what: "layer \(image.layers[0].digest.hex.prefix(12)) of \(nameOf(error))",
                        expected: Int64(blob.count), found: Int64(body.count)))
        }
        // Without a length in the head the size is seen at the end, or on the way.
        let error = await failure {
            $0.uri == layer ? TestAnswer(.ok, ["Content-Length": "-", "Connection": "close"], body: blob) : nil
        }
        #expect(error != nil)
    }

    /// The image's name in an error's text: it has the server's port in it.
    private func nameOf(_ error: OCIError?) -> String {
        guard case .wrongSize(let what, _, _) = error else { return "" }
        return String(what.split(separator: " ").last ?? "")
    }

    @Test func refusesAHugeManifest() async {
        let body = [UInt8](repeating: 0x20, count: ImageLimits.manifestSize + 1)
        let error = await failure { $0.uri.contains("manifests") ? TestAnswer(.ok, body: body) : nil }
        guard case .tooLarge = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func refusesRedirectsWithoutEnd() async {
        let error = await failure { $0.uri.contains("blobs") ? TestAnswer(.found, ["Location": $0.uri]) : nil }
        guard case .notRegistry = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func doesNotCarryLoginsToOtherHosts() async throws {
        let image = image
        let store = try await TestServer { request in
            image.answer(request, name: "elsewhere")
        }
        let (_, layers, _) = try await pull(loginOptions) { request in
            guard request.headers.first(name: "Authorization") == "Basic dTpw" else {
                return TestAnswer(.unauthorized, ["WWW-Authenticate": "Basic realm=\"x\""])
            }
            guard request.uri.contains("blobs") else { return nil }
            let name = request.uri.split(separator: "/").last ?? ""
            return TestAnswer(.temporaryRedirect, ["Location": "http://\(store.host)/v2/elsewhere/blobs/\(name)"])
        }
        #expect(layers == image.layers.map(\.blob))
        #expect(store.records.count == 3)
        #expect(store.records.allSatisfy { $0.headers.first(name: "Authorization") == nil })
        await store.close()
    }

    private var loginOptions: RegistryOptions {
        testOptions { $0.credentials = CredentialStore(fixed: .password(user: "u", password: "p")) }
    }

    @Test func tellsWhatAnotherPlatformHas() async {
        let index = TestImage.index(of: [(image.manifest, "arm64", nil), (image.manifest, "s390x", nil)])
        let error = await failure { $0.uri.hasSuffix("manifests/latest") ? TestAnswer(.ok, body: index) : nil }
        guard case .noPlatform(_, "linux/amd64", let available) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(available == ["linux/arm64", "linux/s390x"])
    }

    @Test func asksTheProxyForATunnel() async throws {
        let proxy = try await TestServer { _ in TestAnswer(.forbidden) }
        let options = testOptions {
            $0.proxies = ProxySettings(environment: ["HTTPS_PROXY=http://u:p@\(proxy.host)"])
        }
        do {
            _ = try await OCITests.pull("registry.test/image", options)
            Issue.record("the proxy was passed by")
        } catch {
            guard case .unreachable("registry.test", let reason) = error as? OCIError else {
                Issue.record("\(error)")
                return
            }
            #expect(reason.contains("the proxy refuses"))
        }
        #expect(proxy.requests == ["CONNECT registry.test:443"])
        #expect(proxy.records.first?.headers.first(name: "Proxy-Authorization") == "Basic dTpw")
        await proxy.close()
    }

    @Test func saysWhenNobodyListens() async throws {
        let server = try await TestServer { _ in TestAnswer(.ok) }
        let host = server.host
        await server.close()
        await #expect(throws: OCIError.unreachable(host: host, reason: "Connection refused")) {
            try await OCITests.pull("\(host)/a")
        }
    }
}
