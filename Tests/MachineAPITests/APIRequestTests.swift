// SPDX-License-Identifier: Apache-2.0

import Testing
import Wire

@testable import MachineAPI

@Suite struct APIRequestTests {
    private func route(_ method: HTTPMethod, _ path: String, _ body: String? = nil) -> Result<
        RoutedRequest, RequestFault
    > {
        var counters = APICounters()
        let request = HTTPRequest(method, path, body: body.map { Array($0.utf8) })
        do throws(RequestFault) { return .success(try APIRequest.route(request, &counters)) } catch {
            return .failure(error)
        }
    }

    static let good: [(HTTPMethod, String, String?, APIRequest)] = [
        (.get, "/", nil, .describeInstance), (.get, "//version/", nil, .version),
        (.get, "/vm/config", nil, .describeConfiguration), (.get, "/machine-config", nil, .describeMachine),
        (.put, "/actions", #"{"action_type":"InstanceStart"}"#, .start),
        (.put, "/actions", #"{"action_type":"SendCtrlAltDel"}"#, .sendCtrlAltDel),
        (.put, "/actions", #"{"action_type":"FlushMetrics"}"#, .flushMetrics),
        (.patch, "/vm", #"{"state":"Paused"}"#, .pause), (.patch, "/vm", #"{"state":"Resumed"}"#, .resume),
        (.put, "/entropy", "{}", .setEntropy(nil)),
        (.put, "/entropy", #"{"rate_limiter":{"ops":{"size":0,"refill_time":5}}}"#, .setEntropy(nil)),
        (
            .put, "/entropy", #"{"rate_limiter":{"ops":{"size":4,"refill_time":5}}}"#,
            .setEntropy(RateLimit(operations: .init(size: 4, refillTime: 5)))
        ),
        (
            .put, "/boot-source", #"{"kernel_image_path":"k","boot_args":""}"#,
            .setBootSource(BootSource(kernelImagePath: "k", arguments: ""))
        ),
        (
            .put, "/vsock", #"{"guest_cid":3,"uds_path":"v"}"#, .setVsock(Vsock(guestCID: 3, socketPath: "v"))
        ),
        (.put, "/serial", #"{"serial_out_path":"o"}"#, .setSerial(Serial(outputPath: "o"))),
        (
            .patch, "/drives/a_1", #"{"drive_id":"a_1","path_on_host":"p"}"#,
            .updateDrive(id: "a_1", path: "p", limit: nil)
        ),
        (
            .patch, "/drives/a", #"{"drive_id":"a","rate_limiter":{"ops":{"size":1,"refill_time":2}}}"#,
            .updateDrive(id: "a", path: nil, limit: RateLimit(operations: .init(size: 1, refillTime: 2)))
        ),
        (
            .patch, "/network-interfaces/1", #"{"iface_id":"1"}"#,
            .updateInterface(id: "1", receive: nil, transmit: nil)
        ),
        (
            .patch, "/network-interfaces/1",
            #"{"iface_id":"1","tx_rate_limiter":{"bandwidth":{"size":1,"refill_time":2,"one_time_burst":3}}}"#,
            .updateInterface(
                id: "1", receive: nil,
                transmit: RateLimit(bandwidth: .init(size: 1, refillTime: 2, oneTimeBurst: 3)))
        ),
        (
            .put, "/network-interfaces/e", #"{"iface_id":"e","host_dev_fd":5}"#,
            .setInterface(NetworkInterface(identifier: "e", peer: .descriptor(5)))
        ),
        (.delete, "/drives/a", nil, .remove(id: "a")),
        (.delete, "/network-interfaces/e", nil, .removeInterface(id: "e")),
        (
            .put, "/snapshot/create", #"{"snapshot_path":"s","mem_file_path":"m","snapshot_type":"Diff"}"#,
            .createSnapshot(SnapshotCreation(kind: .diff, statePath: "s", memoryPath: "m"))
        ),
        (.put, "/spare-slots", #"{"count":3}"#, .setSpareSlots(3)),
    ]

    @Test(arguments: good) func requestsAreUnderstood(
        method: HTTPMethod, path: String, body: String?, request: APIRequest
    ) throws {
        #expect(try route(method, path, body).get().request == request)
    }

    @Test func devicesOfOurs() throws {
        let drive = try route(
            .put, "/drives/a",
            #"{"drive_id":"a","is_root_device":true,"extents":[{"path":"e","offset":4096}],"io_engine":"Async"}"#
        ).get()
        guard case .setDrive(let drive) = drive.request else { throw RequestFault("no drive") }
        #expect(drive.content == .extents([.init(path: "e", offset: 4096)]))
        #expect(drive.isReadOnly && drive.isRootDevice && drive.engine == .async)
        let interface = try route(
            .put, "/network-interfaces/e0",
            #"{"iface_id":"e0","socket_path":"s","guest_mac":"07:00:00:00:00:01","mtu":9000}"#
        ).get()
        guard case .setInterface(let interface) = interface.request else { throw RequestFault("no interface") }
        #expect(interface.peer == .socket("s"))
        #expect(interface.guestMAC?.description == "07:00:00:00:00:01")
    }

    @Test func snapshotsInBothWays() throws {
        let old = try route(
            .put, "/snapshot/load", #"{"snapshot_path":"s","mem_file_path":"m","enable_diff_snapshots":true}"#
        ).get()
        #expect(old.deprecation != nil)
        guard case .loadSnapshot(let loading) = old.request else { throw RequestFault("no loading") }
        #expect(loading.memory == .file("m") && loading.tracksDirtyPages && !loading.resumes)
        let new = try route(
            .put, "/snapshot/load",
            """
            {"snapshot_path":"s","mem_backend":{"backend_type":"Uffd","backend_path":"u"},"resume_vm":true,
             "network_overrides":[{"iface_id":"e0","host_dev_name":"t1"},{"iface_id":"e1","socket_path":"n",
              "guest_mac":"02:00:5e:00:53:01"}],
             "vsock_override":{"uds_path":"v"},"clock_realtime":true,"huge_pages":"Transparent",
             "drive_overrides":[{"drive_id":"d","path_on_host":"p"}]}
            """
        ).get()
        #expect(new.deprecation == nil)
        guard case .loadSnapshot(let loading) = new.request else { throw RequestFault("no loading") }
        #expect(loading.memory == .server("u") && loading.resumes && loading.advancesClock)
        #expect(loading.interfaces.map(\.peer) == [.tap("t1"), .socket("n")])
        #expect(loading.vsockPath == "v" && loading.hugePages == .transparent)
        #expect(loading.interfaces.map(\.guestMAC) == [nil, MACAddress("02:00:5e:00:53:01")])
        #expect(loading.drives == [.init(identifier: "d", content: .path("p"))])
    }

    @Test func interfacesOfForksComeFromTheirSupervisor() throws {
        let routed = try route(
            .put, "/fork",
            """
            {"children":[{"id":"a","supervisor_sock":"s",
              "supervisor_interfaces":[{"iface_id":"e","guest_mac":"02:00:5e:00:53:01"},{"iface_id":"f"}]}]}
            """
        ).get()
        guard case .fork(let children) = routed.request else { throw RequestFault("no fork") }
        #expect(
            children.first?.handedInterfaces == [
                .init(identifier: "e", guestMAC: MACAddress("02:00:5e:00:53:01")), .init(identifier: "f"),
            ])
        #expect(throws: RequestFault.self) {
            try route(.put, "/fork", #"{"children":[{"id":"a","supervisor_interfaces":[{"iface_id":"e"}]}]}"#).get()
        }
    }

    @Test func descriptorsInsteadOfPaths() throws {
        let routed = try route(
            .put, "/snapshot/load",
            """
            {"snapshot_fd":3,"mem_backend":{"backend_type":"Uffd","backend_fd":4},"huge_pages":"2M",
             "network_overrides":[{"iface_id":"e","host_dev_fd":5}],"vsock_override":{"uds_path":"v","uds_fd":6},
             "drive_overrides":[{"drive_id":"d","fd":7}]}
            """
        ).get()
        guard case .loadSnapshot(let loading) = routed.request else { throw RequestFault("no loading") }
        #expect(loading.state == .descriptor(3) && loading.memory == .server(.descriptor(4)))
        #expect(loading.interfaces.map(\.peer) == [.descriptor(5)] && loading.vsockListener == 6)
        #expect(loading.drives == [.init(identifier: "d", content: .descriptor(7))])
        #expect(loading.hugePages == .pool)
        for (path, body, words) in [
            ("/boot-source", #"{"boot_args":""}"#, "missing field `kernel_image_path` at line 1 column 16."),
            (
                "/boot-source", #"{"kernel_image_path":"k","kernel_image_fd":3}"#,
                "too many fields: either `kernel_image_path` or `kernel_image_fd` is required."
            ),
            (
                "/drives/d", #"{"drive_id":"d","is_root_device":false,"path_on_host":"p","fd":3}"#,
                "too many fields: either `path_on_host` or `fd` is required."
            ),
        ] {
            guard case .failure(let fault) = route(.put, path, body) else { throw RequestFault("\(path) is taken") }
            #expect(fault.message == "An error occurred when deserializing the json body of a request: \(words)")
        }
    }

    @Test func forks() throws {
        let routed = try route(
            .put, "/fork",
            """
            {"children":[{"id":"a"},{"id":"b-2","directory":"/d","api_sock":"s","supervisor_sock":"w","stdout_path":"o",
             "stderr_path":"e","log_path":"l","metrics_path":"m","serial_out_path":"c","vsock_override":{"uds_path":"v"},
             "network_overrides":[{"iface_id":"e0","socket_path":"n"}],
             "drive_overrides":[{"drive_id":"x","path_on_host":"p","copy":true},{"drive_id":"y","path_on_host":"/q"}]}]}
            """
        ).get()
        guard case .fork(let children) = routed.request else { throw RequestFault("no fork") }
        #expect(children.count == 2 && children[0] == ForkChild(identifier: "a"))
        let child = children[1]
        #expect(child.identifier == "b-2" && child.directory == "/d")
        #expect([child.socketPath, child.supervisorPath, child.outputPath, child.errorsPath] == ["s", "w", "o", "e"])
        #expect([child.logPath, child.metricsPath, child.serialPath, child.vsockPath] == ["l", "m", "c", "v"])
        #expect(child.interfaces == [.init(identifier: "e0", peer: .socket("n"))])
        #expect(
            child.drives == [
                .init(identifier: "x", path: "p", isCopied: true), .init(identifier: "y", path: "/q"),
            ])
        #expect(child.resolve("p") == "/d/p" && child.resolve("/q") == "/q" && children[0].resolve("p") == "p")
    }

    @Test func theMostForksAtATime() throws {
        func body(_ count: Int) -> String {
            "{\"children\":[\((0..<count).map { "{\"id\":\"m\($0)\"}" }.joined(separator: ","))]}"
        }
        #expect(throws: Never.self) { try route(.put, "/fork", body(1000)).get() }
        #expect(throws: RequestFault.self) { try route(.put, "/fork", body(1001)).get() }
    }

    static let bad: [(HTTPMethod, String, String?, String)] = [
        (.get, "/version", "{}", "GET request cannot have a body."), (.put, "/actions", nil, "Empty PUT request."),
        (.patch, "/vm", nil, "Empty PATCH request."), (.delete, "/drives/a", "{}", "Empty Delete request."),
        (.get, "/foo/bar", nil, "Invalid request method and/or path: GET foo."),
        (.get, "/vm", nil, "Invalid request method and/or path: GET vm."),
        (.patch, "/boot-source", "{}", "Invalid request method and/or path: PATCH boot-source."),
        (.put, "/snapshot", "{}", "Missing snapshot operation type."),
        (.put, "/snapshot/foo", "{}", "Invalid request method and/or path: PUT /snapshot/foo."),
        (.put, "/drives", "{}", "The ID cannot be empty."), (.put, "/drives/", "{}", "The ID cannot be empty."),
        (
            .put, "/drives/a-b", "{}",
            "API Resource IDs can only contain alphanumeric characters and underscores."
        ),
        (
            .put, "/drives/a", #"{"drive_id":"b","is_root_device":false,"path_on_host":"p"}"#,
            "The id from the path does not match the id from the body!"
        ),
        (
            .put, "/network-interfaces/a", #"{"iface_id":"b","host_dev_name":"t"}"#,
            "The id from the path [a] does not match the id from the body [b]!"
        ),
        (
            .put, "/drives/a", #"{"drive_id":"a","is_root_device":false}"#,
            "Drive config error: Unable to create the virtio block device: Invalid block config."
        ),
        (.patch, "/machine-config", "{}", "Empty PATCH request."),
        (
            .put, "/snapshot/load", #"{"snapshot_path":"s"}"#,
            "An error occurred when deserializing the json body of a request: "
                + "missing field: either `mem_backend` or `mem_file_path` is required."
        ),
        (
            .put, "/snapshot/load",
            #"{"snapshot_path":"s","mem_file_path":"m","mem_backend":{"backend_type":"File","backend_path":"b"}}"#,
            "An error occurred when deserializing the json body of a request: "
                + "too many fields: either `mem_backend` or `mem_file_path` exclusively is required."
        ),
        (
            .put, "/network-interfaces/a", #"{"iface_id":"a"}"#,
            "An error occurred when deserializing the json body of a request: missing field `host_dev_name`."
        ),
        (.put, "/fork", #"{"children":[]}"#, "Fork error: 1 to 1000 children can be made at a time"),
        (
            .put, "/fork", #"{"children":[{"id":"a/b"}]}"#,
            "Fork error: id 'a/b': 1 to 64 letters, digits and - are wanted"
        ),
        (
            .put, "/fork", #"{"children":[{"id":"a","directory":"d"}]}"#,
            "Fork error: directory 'd': an absolute path is wanted"
        ),
        (
            .put, "/network-interfaces/a", #"{"iface_id":"a","host_dev_name":"t","host_dev_fd":5}"#,
            "An error occurred when deserializing the json body of a request: too many fields: either "
                + "`host_dev_name`, `socket_path` or `host_dev_fd` is required."
        ),
    ]

    @Test(arguments: bad) func refusalsAsClientsKnowThem(
        method: HTTPMethod, path: String, body: String?, message: String
    ) {
        #expect(route(method, path, body) == .failure(RequestFault(message)))
    }

    @Test func countsAndDeprecations() throws {
        var counters = APICounters()
        func send(_ method: HTTPMethod, _ path: String, _ body: String? = nil) -> RoutedRequest? {
            try? APIRequest.route(HTTPRequest(method, path, body: body.map { Array($0.utf8) }), &counters)
        }
        #expect(
            send(.put, "/machine-config", #"{"vcpu_count":1,"mem_size_mib":64,"cpu_template":"None"}"#)?.deprecation
                == "PUT /machine-config: cpu_template field is deprecated.")
        #expect(
            send(.put, "/vsock", #"{"vsock_id":"x","guest_cid":3,"uds_path":"v"}"#)?.deprecation
                == "PUT /vsock: vsock_id field is deprecated.")
        _ = send(.put, "/vsock", "{}")
        _ = send(.get, "/")
        #expect(counters["deprecated_api", "deprecated_http_api_calls"] == 2)
        #expect(counters["put_api_requests", "vsock_count"] == 2)
        #expect(counters["put_api_requests", "vsock_fails"] == 1)
        #expect(counters["get_api_requests", "instance_info_count"] == 1)
    }
}
