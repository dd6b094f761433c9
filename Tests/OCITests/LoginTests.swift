// SPDX-License-Identifier: Apache-2.0

import NIOHTTP1
import OCI
import OCITesting
import Platform
import Synchronization
import Testing

/// Token services, TLS, and where logins come from.
@Suite struct LoginTests {
    private let image = TestImage.small(seed: 4, layers: 4)

    /// A registry that takes only the token of the latest number, and the service that gives tokens out.
    private func pullWithTokens(
        _ options: RegistryOptions, tokenAnswer: @escaping @Sendable (TestRequest, Int) -> TestAnswer
    ) async throws -> (layers: [[UInt8]], tokens: [TestRequest]) {
        let image = image
        let issued = MutexBox(0)
        let service = try await TestServer { request in
            tokenAnswer(
                request,
                issued.mutex.withLock { number in
                    number += 1
                    return number
                })
        }
        let realm = "http://\(service.host)/token"
        let server = try await TestServer { request in
            if request.uri == "/v2/" { return TestAnswer(.unauthorized) }
            let number = issued.mutex.withLock { $0 }
            // The token that the manifest was read with is not good for layers: a new one has to be asked for.
            let minimum = request.uri.hasSuffix("manifests/latest") ? 1 : 2
            guard number >= minimum, request.headers.first(name: "Authorization") == "Bearer token-\(number)" else {
                let challenge = #"Bearer realm="\#(realm)",service="registry.test",scope="repository:test/image:pull""#
                return TestAnswer(.unauthorized, ["WWW-Authenticate": challenge])
            }
            return image.answer(request)
        }
        do {
            let (_, layers) = try await pull("\(server.host)/test/image", options)
            await server.close()
            await service.close()
            return (layers, service.records)
        } catch {
            await server.close()
            await service.close()
            throw error
        }
    }

    @Test func fetchesTokensAndRenewsThem() async throws {
        let (layers, tokens) = try await pullWithTokens(testOptions()) { _, number in
            TestAnswer(.ok, body: Array(#"{"token":"token-\#(number)","expires_in":60}"#.utf8))
        }
        #expect(layers == image.layers.map(\.blob))
        #expect(tokens.count == 2)
        #expect(tokens[0].uri == "/token?service=registry.test&scope=repository%3Atest%2Fimage%3Apull")
        #expect(tokens[0].headers.first(name: "Authorization") == nil)
    }

    @Test func logsInAtTheTokenService() async throws {
        let options = testOptions { $0.credentials = CredentialStore(fixed: .password(user: "u", password: "p")) }
        let (_, tokens) = try await pullWithTokens(options) { _, number in
            TestAnswer(.ok, body: Array(#"{"access_token":"token-\#(number)"}"#.utf8))
        }
        #expect(tokens[0].headers.first(name: "Authorization") == "Basic dTpw")
    }

    @Test func exchangesIdentityTokens() async throws {
        let options = testOptions { $0.credentials = CredentialStore(fixed: .identityToken("refresh me")) }
        let (_, tokens) = try await pullWithTokens(options) { _, number in
            TestAnswer(.ok, body: Array(#"{"access_token":"token-\#(number)"}"#.utf8))
        }
        #expect(tokens[0].method == .POST)
        let form = String(decoding: tokens[0].body, as: UTF8.self)
        #expect(form.contains("grant_type=refresh_token"))
        #expect(form.contains("refresh_token=refresh%20me"))
    }

    @Test(arguments: [
        (TestAnswer(.unauthorized), "loginNeeded"),
        (TestAnswer(.ok, body: Array("{}".utf8)), "malformed"),
        (TestAnswer(.ok, body: Array(#"{"token":"a\r\nX: y"}"#.utf8)), "malformed"),
        (TestAnswer(.ok, body: [UInt8](repeating: 0x20, count: 300_000)), "tooLarge"),
        (TestAnswer(.ok, ["Content-Type": "text/html"], body: Array("<title>hm</title>".utf8)), "notRegistry"),
        (TestAnswer(.ok, body: Array(#"{"token":"never right"}"#.utf8)), "malformed"),
        (TestAnswer(.ok, body: Array(#"{"token":"neverRight"}"#.utf8)), "loginNeeded"),
    ])
    func tellsWhatATokenServiceDoesWrong(answer: TestAnswer, kind: String) async {
        do {
            _ = try await pullWithTokens(testOptions()) { _, _ in answer }
            Issue.record("no error")
        } catch {
            let label = Mirror(reflecting: error).children.first?.label
            #expect(label == kind, "\(error)")
        }
    }

    @Test func trustsACertificateOnlyWhereToldTo() async throws {
        let image = image
        let server = try await TestServer(tls: true) { image.answer($0) }
        let name = "\(server.host)/test/image"
        do {
            _ = try await pull(name)
            Issue.record("the certificate was trusted")
        } catch {
            guard case .untrusted(server.host, _) = error as? OCIError else {
                Issue.record("\(error)")
                return
            }
        }
        #expect(server.requests.isEmpty)
        let (content, _) = try await pull(name, testOptions { $0.insecureRegistries = [server.host] })
        #expect(content.id == image.id)
        try await withTemporaryDirectory { directory in
            try Files.writeAtomically(Array(testCertificate.utf8), to: directory + "/ca.pem")
            let trusting = testOptions { $0.trustRootsFile = directory + "/ca.pem" }
            let (trusted, _) = try await pull(name, trusting)
            #expect(trusted.id == image.id)
        }
        await server.close()
    }

    @Test func findsLoginsInFiles() async throws {
        try await withTemporaryDirectory { directory in
            let path = directory + "/config.json"
            func find(_ json: String, _ registry: String, _ repository: String = "a/b") async throws -> Credentials? {
                try Files.writeAtomically(Array(json.utf8), to: path)
                let store = CredentialStore(files: [directory + "/none.json", path], environment: [])
                return try await store.credentials(registry: registry, repository: repository)
            }
            let user = Credentials.password(user: "u", password: "p:q")
            let auth = #"{"auth":"dTpwOnE="}"#
            try await expect(find(#"{"auths":{"https://index.docker.io/v1/":\#(auth)}}"#, "docker.io"), user)
            try await expect(find(#"{"auths":{"https://h:1/v1/":\#(auth)}}"#, "h:1"), user)
            try await expect(find(#"{"auths":{"h":\#(auth)}}"#, "h"), user)
            try await expect(find(#"{"auths":{"h":\#(auth)}}"#, "h2"), nil)
            try await expect(find(#"{"auths":{"h/a":\#(auth),"h":{}}}"#, "h"), user)
            try await expect(find(#"{"auths":{"h/c":\#(auth)}}"#, "h"), nil)
            try await expect(find(#"{"auths":{"h":{"identitytoken":"t"}}}"#, "h"), .identityToken("t"))
            try await expect(find("{}", "h"), nil)
            await #expect(throws: OCIError.self) { try await find("{", "h") }
            await #expect(throws: OCIError.self) { try await find(#"{"auths":{"h":{"auth":"%%"}}}"#, "h") }
        }
    }

    @Test func asksHelpers() async throws {
        try await withTemporaryDirectory { directory in
            func find(_ script: String, seconds: Int = 20) async throws -> Credentials? {
                let helper = directory + "/docker-credential-test"
                try Files.writeAtomically(Array("#!/bin/sh\n\(script)\n".utf8), to: helper, permissions: 0o755)
                try Files.writeAtomically(
                    Array(#"{"credHelpers":{"h":"test"},"auths":{"h":{"username":"file","password":"p"}}}"#.utf8),
                    to: directory + "/config.json")
                let store = CredentialStore(
                    files: [directory + "/config.json"], environment: ["PATH=\(directory):/bin:/usr/bin"],
                    helperTimeoutInSeconds: seconds)
                return try await store.credentials(registry: "h", repository: "a")
            }
            try await expect(
                find(#"read server; echo "{\"Username\":\"$1\",\"Secret\":\"$server\"}""#),
                .password(user: "get", password: "h"))
            try await expect(find(#"echo '{"Username":"<token>","Secret":"s"}'"#), .identityToken("s"))
            try await expect(
                find("echo credentials not found in native keychain; exit 1"), .password(user: "file", password: "p"))
            for script in ["echo broken; exit 3", "echo '{'", "exec sleep 1000", "exec cat /dev/zero", "kill -9 $$"] {
                await #expect(throws: OCIError.self, "\(script)") { try await find(script, seconds: 1) }
            }
        }
    }

    private func expect(_ found: Credentials?, _ wanted: Credentials?) {
        #expect(found == wanted)
    }
}
