// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

extension EndToEnd {
    @Suite(.serialized) struct Sources {
        let stage = Stage.shared

        private func expectHello(_ image: String, _ options: [String] = []) throws {
            let result = try stage.run(["run", "--rm"] + options + [image, "echo", "hello"])
            #expect(result.text == "hello\n" && result.status == 0, "\(image): \(result)")
        }

        @Test func layoutAndID() throws {
            try expectHello(try stage.image)
            let pulled = try stage.run(["pull", "-q", stage.image]).text
            let id = pulled.split(separator: "\n").first.map(String.init) ?? ""
            #expect(id.hasPrefix("sha256:"), "\(pulled)")
            try expectHello(id)
            #expect(try stage.run(["images", "-q", "--no-trunc"]).text.contains(id))
        }

        @Test func directory() throws {
            let directory = "\(stage.root)/rootfs"
            let made = try stage.shell(
                """
                mkdir -p \(directory)/bin \(directory)/etc; cp /bin/busybox \(directory)/bin/
                for name in sh echo cat; do ln -sf busybox \(directory)/bin/$name; done
                """)
            #expect(made.status == 0, "\(made)")
            try expectHello("dir:\(directory)")
            // What changes is seen by the next run.
            try Files.writeAtomically(Array("new\n".utf8), to: "\(directory)/etc/news")
            let result = try stage.run(["run", "--rm", "dir:\(directory)", "cat", "/etc/news"])
            #expect(result.text == "new\n", "\(result)")
        }

        @Test func archive() throws {
            let archive = "\(stage.root)/image.tar"
            let made = try stage.shell("tar -C \(try Stage.busybox.get()) -cf \(archive) .")
            #expect(made.status == 0, "\(made)")
            try expectHello("docker-archive:\(archive)")
        }

        @Test func registry() throws {
            let registry = try Registry(stage)
            defer { registry.stop() }
            try registry.push(try Stage.busybox.get(), as: "birds/busybox", tag: "1")
            let name = "127.0.0.1:\(registry.port)/birds/busybox:1"
            try expectHello(name)
            // Stored now: the registry is not needed any more.
            registry.stop()
            try expectHello(name)
            #expect(try stage.run(["run", "--rm", "--pull", "always", name, "true"]).status == 125)
            #expect(try stage.run(["rmi", name]).status == 0)
            #expect(try stage.run(["run", "--rm", "--pull", "never", name, "true"]).status == 125)
        }

        @Test func anOrdinaryUser() throws {
            let user = try stage.asUser(61_234)
            defer { user.strike() }
            let result = try user.run(["run", "--rm", "-i", stage.image, "cat"], input: Array("as nobody".utf8))
            #expect(result.text == "as nobody" && result.status == 0, "\(result)")
            try user.expectNothingLeft()
        }
    }
}

/// Debian's docker-registry on loopback.
private final class Registry {
    let port: UInt16
    private let root: String
    private var process: RunningCommand?

    init(_ stage: Stage) throws {
        root = "\(stage.root)/registry"
        try Files.makeDirectories(root)
        port = try Registry.freePort()
        let configuration = """
            version: 0.1
            log: {level: info}
            storage: {filesystem: {rootdirectory: \(root)/data}}
            http: {addr: 127.0.0.1:\(port)}

            """
        try Files.writeAtomically(Array(configuration.utf8), to: "\(root)/config.yml")
        let process = try RunningCommand(
            "/bin/sh", ["-c", "exec docker-registry serve \(root)/config.yml 2>&1"], variables: stage.variables,
            hasInput: false, user: nil)
        self.process = process
        // It says so when it listens.
        try process.waitForOutput("listening on", seconds: 30)
    }

    /// Puts an OCI layout's image into the registry, as its upload protocol goes (OCI distribution specification).
    func push(_ layout: String, as name: String, tag: String) throws {
        let script = """
            set -e; cd \(layout); base=http://127.0.0.1:\(port)/v2/\(name)
            manifest=$(sed 's/.*"digest" *: *"sha256:\\([0-9a-f]*\\)".*/\\1/' index.json | tr -d '\\n' | head -c 64)
            for blob in blobs/sha256/*; do
                digest=${blob##*/}; [ "$digest" = "$manifest" ] && continue
                location=$(curl -fsS -X POST -D - -o /dev/null "$base/blobs/uploads/" | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p')
                case $location in *\\?*) join='&';; *) join='?';; esac
                curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary @"$blob" "$location${join}digest=sha256:$digest"
            done
            curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \\
                --data-binary @"blobs/sha256/$manifest" "$base/manifests/\(tag)"
            """
        let result = try RunningCommand(
            "/bin/sh", ["-c", script], variables: Stage.shared.variables, hasInput: false, user: nil
        ).finish(input: [], seconds: 60)
        guard result.status == 0 else { throw Trouble("push: \(result)") }
    }

    func stop() {
        process?.signal(SIGTERM)
        _ = try? process?.finish(input: [], seconds: 20)
        process = nil
    }

    private static func freePort() throws -> UInt16 {
        let raw = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        guard raw >= 0 else { throw SystemError("socket") }
        let descriptor = Descriptor(owning: raw)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                bind(descriptor.raw, generic, length) == 0 ? getsockname(descriptor.raw, generic, &length) : -1
            }
        }
        guard result == 0 else { throw SystemError("bind") }
        return UInt16(bigEndian: address.sin_port)
    }
}
