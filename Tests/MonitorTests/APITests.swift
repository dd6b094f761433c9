// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

/// The API of a monitor as far as it goes without a machine.
@Suite struct APITests {
    /// What firecracker-go-sdk sends for a machine, in its order, up to the start.
    @Test func clientsConfigureAMachine() throws {
        let monitor = try WaitingMonitor()
        let disk = "\(monitor.directory)/disk"
        try Files.writeAtomically([UInt8](repeating: 0, count: 8192), to: disk)
        let requests: [(String, String, String)] = [
            ("PUT", "/logger", #"{"level":"Debug","log_path":"log","show_level":true,"show_log_origin":true}"#),
            ("PUT", "/metrics", #"{"metrics_path":"metrics"}"#),
            (
                "PUT", "/machine-config",
                #"{"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"vcpu_count":1}"#
            ),
            (
                "PUT", "/boot-source",
                #"{"boot_args":"console=ttyS0","kernel_image_path":"\#(disk)"}"#
            ),
            (
                "PUT", "/drives/root_drive",
                #"{"drive_id":"root_drive","is_read_only":false,"is_root_device":true,"path_on_host":"\#(disk)"}"#
            ),
            (
                "PUT", "/network-interfaces/1",
                #"{"guest_mac":"AA:FC:00:00:00:01","iface_id":"1","socket_path":"net.sock"}"#
            ),
            ("PUT", "/vsock", #"{"guest_cid":3,"uds_path":"v.sock","vsock_id":"root"}"#),
            ("PUT", "/entropy", "{}"), ("PUT", "/serial", #"{"serial_out_path":"console"}"#),
        ]
        for (method, path, body) in requests {
            let answer = try monitor.send(method, path, body)
            #expect(answer.status == 204, "\(path): \(answer)")
            #expect(answer.head.contains("\r\nDeprecation: true") == (path == "/vsock"))
        }
        #expect(
            try monitor.send("GET", "/").body
                == #"{"id":"test","state":"Not started","vmm_version":"1.17.0","app_name":"Martlet"}"#)
        #expect(
            try monitor.send("GET", "/machine-config").body
                == #"{"vcpu_count":1,"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"huge_pages":"None"}"#)
        let configuration = try monitor.send("GET", "/vm/config").body
        #expect(configuration.contains(#""guest_mac":"aa:fc:00:00:00:01""#))
        #expect(configuration.contains(#""vsock":{"guest_cid":3,"uds_path":"v.sock"}"#))
        let log = String(decoding: try Files.read("\(monitor.directory)/log", limit: 1 << 20), as: UTF8.self)
        #expect(
            log.contains(#"] The API server received a Put request on "/machine-config" with body "{\"mem_size_mib"#))
        #expect(log.contains("[test:api:INFO:"))
        #expect(log.contains(":WARN:") && log.contains("PUT /vsock: vsock_id field is deprecated."))
        // A kernel is wanted, and a KVM that runs it: here the kernel is none.
        let start = try monitor.send("PUT", "/actions", #"{"action_type":"InstanceStart"}"#)
        #expect(start.status == 400 && start.body.hasPrefix(#"{"fault_message":"Start microvm error: "#), "\(start)")
        #expect(try monitor.send("GET", "/").body.contains("Not started"))
        try monitor.child.send(SIGTERM)
        #expect(try monitor.wait() == .exited(0))
        #expect(!Files.exists(monitor.socketPath))
        let figures = String(decoding: try Files.read("\(monitor.directory)/metrics", limit: 1 << 20), as: UTF8.self)
        #expect(figures.contains(#""actions_count":1"#) && figures.contains(#""deprecated_http_api_calls":1"#))
    }

    @Test func failuresOfFilesAreNamed() throws {
        let monitor = try WaitingMonitor()
        let cases: [(String, String, String)] = [
            (
                "/boot-source", #"{"kernel_image_path":"foo.bar"}"#,
                "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)"
            ),
            (
                "/boot-source", #"{"kernel_image_path":"/proc/self/exe","initrd_path":"foo.bar"}"#,
                "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. "
                    + "No such file or directory (os error 2)"
            ),
            (
                "/drives/a", #"{"drive_id":"a","is_root_device":false,"path_on_host":"foo.bar"}"#,
                "Drive config error: Unable to create the virtio block device: Virtio backend error: Error "
                    + "manipulating the backing file: No such file or directory (os error 2) foo.bar"
            ),
            (
                "/vsock", #"{"guest_cid":3,"uds_path":"api.sock"}"#,
                "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix "
                    + "socket: Address already in use (os error 98)"
            ),
            (
                "/logger", #"{"log_path":"/no/such/log"}"#,
                "Logger error: Failed to open target file: No such file or directory (os error 2)"
            ),
            (
                "/metrics", #"{"metrics_path":"/no/such/metrics"}"#,
                "Metrics error: Cannot initialize the metrics system due to bad user input: "
                    + "No such file or directory (os error 2)"
            ),
        ]
        for (path, body, message) in cases {
            let answer = try monitor.send("PUT", path, body)
            #expect(answer.status == 400)
            #expect(answer.body == #"{"fault_message":"\#(message)"}"#)
        }
    }

    @Test func aFailedLoadEndsTheMonitor() throws {
        let monitor = try WaitingMonitor()
        let answer = try monitor.send(
            "PUT", "/snapshot/load", #"{"snapshot_path":"foo","mem_file_path":"bar"}"#)
        #expect(answer.status == 400 && answer.head.contains("\r\nDeprecation: true"))
        #expect(
            answer.body
                == #"{"fault_message":"Load snapshot error: Failed to restore from snapshot: Failed to get snapshot "#
                + #"state from file: Failed to open snapshot file: No such file or directory (os error 2)"}"#)
        #expect(try monitor.wait() == .exited(1))
        #expect(!Files.exists(monitor.socketPath))
    }

    // MARK: - Connections

    @Test func requestsArePipelinedAndCutAnywhere() throws {
        let monitor = try WaitingMonitor()
        let stream = try APIStream(monitor.socketPath)
        let version = APIStream.request("GET", "/version")
        let put = APIStream.request("PUT", "/entropy", "{}")
        try stream.write(version + put + version)
        #expect(try [stream.read().status, stream.read().status, stream.read().status] == [200, 204, 200])
        for byte in (put + version).utf8 { try stream.write(String(decoding: [byte], as: UTF8.self)) }
        #expect(try [stream.read().status, stream.read().status] == [204, 200])
        // Half a request on one connection holds up nobody on another.
        try stream.write("PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{")
        #expect(try monitor.send("GET", "/version").status == 200)
        try stream.write("}")
        #expect(try stream.read().status == 204)
    }

    @Test func manyAnswersToAClientThatDoesNotRead() throws {
        let monitor = try WaitingMonitor()
        let slow = try APIStream(monitor.socketPath)
        let count = 4000
        let requests = String(repeating: APIStream.request("GET", "/vm/config"), count: 100)
        try slow.socket.setNonBlocking()
        // As much as the monitor takes before it wants its answers read.
        var sent = Array(String(repeating: requests, count: count / 100).utf8)[...]
        while !sent.isEmpty {
            let piece = Array(sent)
            guard case .bytes(let written) = try piece.withUnsafeBytes({ try slow.socket.write($0) }) else { break }
            sent = sent.dropFirst(written)
        }
        #expect(try monitor.send("GET", "/version").status == 200)
        try slow.socket.setNonBlocking(false)
        let whole =
            (Array(String(repeating: requests, count: count / 100).utf8).count - sent.count)
            / APIStream.request("GET", "/vm/config").utf8.count
        #expect(whole > 0)
        for _ in 0..<whole { #expect(try slow.read().status == 200) }
    }

    @Test func leaveToSendABodyIsGiven() throws {
        let monitor = try WaitingMonitor()
        let stream = try APIStream(monitor.socketPath)
        try stream.write("PUT /entropy HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        #expect(try stream.read().status == 100)
        try stream.write("{}")
        #expect(try stream.read().status == 204)
    }

    @Test func whatIsNoRequestEndsItsConnectionOnly() throws {
        let monitor = try WaitingMonitor(["--http-api-max-payload-size", "1000"])
        let stream = try APIStream(monitor.socketPath)
        let body = String(repeating: "a", count: 1001)
        try stream.write(APIStream.request("PUT", "/logger", body))
        let answer = try stream.read()
        #expect(answer.status == 400)
        #expect(
            answer.body
                == #"{"error":"Request payload with size 1001 is larger than the limit of 1000 allowed by server.\nAll "#
                + #"previous unanswered requests will be dropped."}"#)
        #expect(try stream.isAtEnd())
        let closing = try APIStream(monitor.socketPath)
        try closing.write(APIStream.request("GET", "/version", more: "Connection: close\r\n"))
        #expect(try closing.read().head.contains("Connection: close"))
        #expect(try closing.isAtEnd())
    }

    @Test func connectionsAreBounded() throws {
        let monitor = try WaitingMonitor()
        var streams: [APIStream] = []
        for _ in 0..<64 { streams.append(try APIStream(monitor.socketPath)) }
        // Those before are taken once the last of them is answered.
        try streams[63].write(APIStream.request("GET", "/version"))
        #expect(try streams[63].read().status == 200)
        let more = try APIStream(monitor.socketPath)
        #expect(try more.read().status == 503)
        streams.removeAll()
        #expect(try monitor.send("GET", "/version").status == 200)
    }

    /// Clients that cannot be taken, for want of a descriptor, are taken when there is one again. Until then the monitor
    /// rests between its attempts, and says once that it has none.
    @Test func withoutDescriptorsItRests() throws {
        let monitor = try WaitingMonitor()
        func limitDescriptors(to count: Int) throws {
            let specification = ProcessSpecification(
                "/usr/bin/prlimit", ["prlimit", "--pid", "\(monitor.child.pid)", "--nofile=\(count):"])
            #expect(try ChildProcess(specification).wait() == .exited(0))
        }
        try limitDescriptors(to: 3)
        let stream = try APIStream(monitor.socketPath)
        try stream.write(APIStream.request("GET", "/version"))
        let problem = "a connection to the API cannot be taken"
        while monitor.log.count(of: problem) == 0 { sched_yield() }
        try limitDescriptors(to: 256)
        #expect(try stream.read().status == 200)
        #expect(monitor.log.count(of: problem) == 1)
        // The next time is another one.
        try limitDescriptors(to: 3)
        let other = try APIStream(monitor.socketPath)
        try other.write(APIStream.request("GET", "/version"))
        while monitor.log.count(of: problem) < 2 { sched_yield() }
        try limitDescriptors(to: 256)
        #expect(try other.read().status == 200)
    }

    @Test func rubbishIsSurvived() throws {
        let monitor = try WaitingMonitor()
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<50 {
            let stream = try APIStream(monitor.socketPath)
            let bytes = (0..<Int.random(in: 1...3000, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            // The monitor may have hung up on it already.
            try? stream.socket.writeAll(bytes)
        }
        #expect(try monitor.send("GET", "/version").status == 200)
    }

    @Test func curlSpeaksWithIt() throws {
        let monitor = try WaitingMonitor()
        let output = try Descriptor.open("\(monitor.directory)/curl", .append)
        var specification = ProcessSpecification(
            "/usr/bin/curl",
            [
                "curl", "-sS", "-i", "--unix-socket", monitor.socketPath, "-X", "PUT",
                "http://localhost/machine-config",
                "-H", "Content-Type: application/json", "-d", #"{"vcpu_count": 2, "mem_size_mib": 512}"#,
                "--next", "-sS", "--unix-socket", monitor.socketPath, "http://localhost/machine-config",
            ])
        specification.descriptors = [-1, output.raw, output.raw]
        #expect(try ChildProcess(specification).wait() == .exited(0))
        let text = String(decoding: try Files.read("\(monitor.directory)/curl", limit: 1 << 20), as: UTF8.self)
        #expect(text.contains("204 No Content") && text.contains(#"{"vcpu_count":2,"mem_size_mib":512,"#), "\(text)")
    }

    // MARK: - Command line

    @Test func aTakenSocketIsNamed() throws {
        let monitor = try WaitingMonitor()
        let (status, output) = try MonitorProgram().run(["--api-sock", monitor.socketPath])
        #expect(status == .exited(1))
        #expect(output.contains("Failed to open the API socket at: \(monitor.socketPath)."))
        #expect(try monitor.send("GET", "/version").status == 200)
    }

    @Test func versionsOfSnapshotsAreTold() throws {
        let (status, output) = try MonitorProgram().run(["--snapshot-version"])
        #expect(status == .exited(0) && output == "v1.0.0\n")
        let foreign = try MonitorProgram().run(["--describe-snapshot", "/proc/self/exe"])
        #expect(foreign.status == .exited(1) && foreign.output.hasPrefix("martlet-vmm: --describe-snapshot: "))
    }

    @Test func aHangupEndsIt() throws {
        let monitor = try WaitingMonitor()
        try monitor.child.send(SIGHUP)
        #expect(try monitor.wait() == .exited(156))
    }
}

extension String {
    /// How many of its lines have this in them.
    fileprivate func count(of text: String) -> Int { split(separator: "\n").filter { $0.contains(text) }.count }
}
