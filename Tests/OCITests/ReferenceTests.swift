// SPDX-License-Identifier: Apache-2.0

import OCI
import OCITesting
import Testing

@testable import OCI

@Suite struct ReferenceTests {
    @Test(arguments: [
        ("alpine", "docker.io/library/alpine:latest", "registry-1.docker.io"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "registry-1.docker.io"),
        ("user/app", "docker.io/user/app:latest", "registry-1.docker.io"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "registry-1.docker.io"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "registry-1.docker.io"),
        ("localhost/app", "localhost/app:latest", "localhost"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1", "localhost:5000"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest", "127.0.0.1:5000"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000"),
        ("ghcr.io/a/b-c_d.e__f--g:V1.0_x", "ghcr.io/a/b-c_d.e__f--g:V1.0_x", "ghcr.io"),
        ("HOST/app", "HOST/app:latest", "HOST"),
        ("host:80/app", "host:80/app:latest", "host:80"),
    ])
    func readsNames(text: String, full: String, host: String) throws {
        let reference = try ImageReference(text)
        #expect(reference.description == full)
        #expect(reference.host == host)
        #expect(try ImageReference(full) == reference)
    }

    @Test func aDigestStandsForItself() throws {
        let digest = "sha256:" + String(repeating: "a1", count: 32)
        let reference = try ImageReference("alpine@\(digest)")
        #expect(reference.tag == nil)
        #expect(reference.manifestName == digest)
        let both = try ImageReference("alpine:3@\(digest)")
        #expect(both.tag == "3")
        #expect(both.manifestName == digest)
    }

    @Test(arguments: [
        "", ":", "@", "/", "a/", "/a", "a//b", "A", "alpine:", "alpine:-x", "alpine:.x", "alpine@sha256:12",
        "alpine@md5:0123", "a b", "a\u{0}b", "a_.b", "a..b", "a___b", "-a", "a-", "_a", "host:0/a", "host:99999/a",
        "host:x/a", "https://host/a", "a:b:c", "ä", "host_/a.B", "[::1/a", "[]:1/a",
        String(repeating: "a", count: 256), "alpine:" + String(repeating: "a", count: 129),
        String(repeating: "0a", count: 32), String(repeating: "x/", count: 600) + "x",
    ])
    func refusesOtherText(text: String) {
        #expect(throws: OCIError.self) { try ImageReference(text) }
    }

    @Test func aTagTellsAnIDFromAName() throws {
        let hex = String(repeating: "0a", count: 32)
        #expect(try ImageReference(hex + ":1").repository == "library/" + hex)
        #expect(try ImageSource(hex) == .stored(idPrefix: hex))
    }

    @Test func readsSources() throws {
        #expect(try ImageSource("oci:/a/b") == .layout(path: "/a/b", tag: nil))
        #expect(try ImageSource("oci:a:v1") == .layout(path: "a", tag: "v1"))
        #expect(try ImageSource("oci:a:docker.io/x:v1") == .layout(path: "a", tag: "docker.io/x:v1"))
        #expect(try ImageSource("docker-archive:x.tar") == .archive(path: "x.tar", reference: nil))
        #expect(try ImageSource("docker-archive:x.tar:a:1") == .archive(path: "x.tar", reference: "a:1"))
        #expect(try ImageSource("dir:/a:b") == .directory(path: "/a:b"))
        #expect(try ImageSource("sha256:012abc") == .stored(idPrefix: "012abc"))
        #expect(try ImageSource("docker://alpine") == .registry(try ImageReference("alpine")))
        for text in ["oci:", "oci::x", "oci:a:", "dir:", "docker-archive:", "sha256:12345", "sha256:ABCDEF", "a\u{0}"] {
            #expect(throws: OCIError.self, "\(text)") { try ImageSource(text) }
        }
    }
}

@Suite struct ChallengeTests {
    @Test func readsWhatRegistriesSend() {
        let challenges = AuthenticationChallenge.parse(
            #"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#
        )
        #expect(
            challenges == [
                AuthenticationChallenge(
                    scheme: "bearer",
                    parameters: [
                        "realm": "https://auth.docker.io/token", "service": "registry.docker.io",
                        "scope": "repository:a/b:pull,push",
                    ])
            ])
    }

    @Test(
        arguments: [
            ("Basic", [("basic", [:])]),
            ("Negotiate, Basic realm=x", [("negotiate", [:]), ("basic", ["realm": "x"])]),
            ("Negotiate abc==, BASIC Realm = \"a\\\"b\"", [("negotiate", [:]), ("basic", ["realm": "a\"b"])]),
            (
                "Basic realm=\"x\", Bearer realm=\"y\", service=z",
                [
                    ("basic", ["realm": "x"]), ("bearer", ["realm": "y", "service": "z"]),
                ]
            ),
            ("Bearer realm=\"open", [("bearer", [:])]),
            ("", []),
            (", ,", []),
        ] as [(String, [(String, [String: String])])])
    func readsLists(header: String, expected: [(String, [String: String])]) {
        let parsed = AuthenticationChallenge.parse(header)
        #expect(parsed.first?.scheme == expected.first?.0)
        #expect(parsed.first?.parameters == expected.first?.1)
        #expect(parsed.count >= expected.count)
        if expected.count == 2 { #expect(parsed.last?.parameters == expected[1].1) }
    }
}

@Suite struct ProxyTests {
    private func host(_ environment: [String], secure: Bool = true, _ host: String, _ port: Int = 443) -> String? {
        ProxySettings(environment: environment).proxy(secure: secure, host: host, port: port)?.host
    }

    @Test func choosesAsGoDoes() {
        let environment = [
            "HTTPS_PROXY=http://u:p%40@proxy:3128", "http_proxy=plain:80", "NO_PROXY=.in,ex.org,10.0.0.0/8,h:1",
        ]
        #expect(host(environment, "ghcr.io") == "proxy")
        #expect(host(environment, secure: false, "ghcr.io") == "plain")
        #expect(host(environment, "a.in") == nil)
        #expect(host(environment, "ex.org") == nil)
        #expect(host(environment, "a.ex.org") == nil)
        #expect(host(environment, "aex.org") == "proxy")
        #expect(host(environment, "10.1.2.3") == nil)
        #expect(host(environment, "11.1.2.3") == "proxy")
        #expect(host(environment, "h", 1) == nil)
        #expect(host(environment, "h", 2) == "proxy")
        #expect(host(environment, "127.0.0.1") == nil)
        #expect(host(environment + ["NO_PROXY=*"], "localhost") == nil)
        #expect(ProxySettings(environment: environment).https?.password == "p@")
    }
}
