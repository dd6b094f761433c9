// SPDX-License-Identifier: Apache-2.0

import OCI
import OCITesting
import Platform
import Testing

/// Pulls from Debian's docker-registry, filled by skopeo.
@Suite struct RealRegistryTests {
    private func push(_ layout: String, to target: String, _ options: [String] = []) async throws {
        let (end, output) = try await runProgram(
            "/usr/bin/skopeo",
            ["copy", "--insecure-policy", "--dest-tls-verify=false"] + options
                + ["oci:\(layout):latest", "docker://\(target)"])
        try #require(end == .exited(0), "\(output)")
    }

    @Test func pullsByTagAndByDigest() async throws {
        try await withTemporaryDirectory { directory in
            let image = TestImage.small(seed: 7, layers: 5, layerSize: 200_000)
            try image.writeLayout(directory + "/layout")
            let registry = try DockerRegistry(directory: directory)
            defer { registry.stop() }
            try await push(directory + "/layout", to: "\(registry.host)/team/app:v1")

            let (content, layers) = try await pull("\(registry.host)/team/app:v1")
            #expect(content.configurationBytes == image.configuration)
            #expect(content.id == image.id)
            #expect(content.configuration.config.environment == ["PATH=/bin", "A=1"])
            #expect(content.layers.map(\.diffID) == image.layers.map(\.diffID))
            #expect(layers.count == 5)
            // skopeo compresses what was plain; what was gzip already comes as it is.
            #expect(layers[0] == image.layers[0].blob)

            let digest = try #require(content.manifestDigest)
            let (again, _) = try await pull("\(registry.host)/team/app@\(digest)")
            #expect(again.id == content.id)
        }
    }

    @Test func pullsDockersOwnManifests() async throws {
        try await withTemporaryDirectory { directory in
            let image = TestImage.small(seed: 8)
            try image.writeLayout(directory + "/layout")
            let registry = try DockerRegistry(directory: directory)
            defer { registry.stop() }
            try await push(directory + "/layout", to: "\(registry.host)/app", ["--format", "v2s2"])
            let (content, layers) = try await pull("\(registry.host)/app")
            #expect(content.layers.map(\.diffID) == image.layers.map(\.diffID))
            #expect(layers.count == 3)
        }
    }

    @Test func saysWhatIsNotThere() async throws {
        try await withTemporaryDirectory { directory in
            let registry = try DockerRegistry(directory: directory)
            defer { registry.stop() }
            let name = "\(registry.host)/no/such:thing"
            await #expect(throws: OCIError.notFound(image: name, registry: registry.host)) {
                try await pull(name)
            }
        }
    }

    @Test func logsInWithAPassword() async throws {
        try await withTemporaryDirectory { directory in
            let image = TestImage.small(seed: 9)
            try image.writeLayout(directory + "/layout")
            // htpasswd -Bbn alice secret
            let registry = try DockerRegistry(
                directory: directory, htpasswd: "alice:$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n")
            defer { registry.stop() }
            try await push(directory + "/layout", to: "\(registry.host)/app", ["--dest-creds", "alice:secret"])
            let name = "\(registry.host)/app:latest"
            await #expect(
                throws: OCIError.loginNeeded(image: name, registry: registry.host, hadCredentials: false, detail: "")
            ) { try await pull(name) }

            func options(_ auth: String) throws -> RegistryOptions {
                let path = directory + "/config.json"
                try Files.writeAtomically(Array(#"{"auths":{"\#(registry.host)":{"auth":"\#(auth)"}}}"#.utf8), to: path)
                return testOptions { $0.credentials = CredentialStore(files: [path], environment: []) }
            }
            let (content, _) = try await pull(name, try options("YWxpY2U6c2VjcmV0"))
            #expect(content.id == image.id)
            await #expect(
                throws: OCIError.loginNeeded(image: name, registry: registry.host, hadCredentials: true, detail: "")
            ) { try await pull(name, try options("YWxpY2U6d3Jvbmc=")) }
        }
    }
}
