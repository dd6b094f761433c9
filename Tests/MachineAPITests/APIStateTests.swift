// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing
import Wire

@testable import MachineAPI

/// The rules, played without a machine: effects succeed unless a test says otherwise.
private struct Player {
    var state: APIState
    var effects: [APIEffect] = []
    var failing: String?

    init(_ state: APIState = APIState(identifier: "m1")) { self.state = state }

    mutating func send(_ request: APIRequest) -> HTTPResponse {
        switch state.handle(request) {
        case .respond(let response): return response
        case .perform(let effect):
            effects.append(effect)
            if let failing { return state.complete(effect, .failed(failing)) }
            guard case .load(let loading) = effect else { return state.complete(effect, .done) }
            return state.complete(effect, .loaded(Self.saved, isRunning: loading.resumes))
        }
    }

    mutating func send(_ method: HTTPMethod, _ path: String, _ body: String? = nil) throws -> HTTPResponse {
        var counters = APICounters()
        let request = HTTPRequest(method, path, body: body.map { Array($0.utf8) })
        return send(try APIRequest.route(request, &counters).request)
    }

    static let saved: MachineConfiguration = {
        var configuration = MachineConfiguration(bootSource: BootSource(kernelImagePath: "/saved"))
        configuration.drives = [Drive(identifier: "d", content: .path("/d"))]
        configuration.spareSlotCount = 1
        return configuration
    }()
}

extension HTTPResponse {
    fileprivate var json: JSON { (try? JSON(parsing: body)) ?? .null }
    fileprivate var fault: String? { status == .badRequest ? json["fault_message"]?.stringValue : nil }
}

@Suite struct APIStateTests {
    static let before = "The requested operation is not supported before starting the microVM."
    static let after = "The requested operation is not supported after starting the microVM."

    @Test func aMachineIsForkedOnceItIsThere() throws {
        let body = #"{"children":[{"id":"c"}]}"#
        var player = Player()
        #expect(try player.send(.put, "/fork", body).fault == Self.before)
        player.state.didStart(Player.saved)
        #expect(try player.send(.put, "/fork", body).status == .noContent)
        #expect(player.effects == [.fork([ForkChild(identifier: "c")])])
        player.failing = "the reason"
        #expect(try player.send(.put, "/fork", body).fault == "Fork error: the reason")
        // The parent is as it was, and a child's state is its own.
        #expect(player.state.phase == .running && player.state.configuration == Player.saved)
        var configuration = Player.saved
        configuration.drives[0].content = .path("/other")
        var child = Player(player.state.forked(identifier: "c", hasMetrics: true, configuration, isRunning: false))
        #expect(
            try child.send(.get, "/").json
                == ["id": "c", "state": "Paused", "vmm_version": .string(apiVersion), "app_name": "Martlet"])
        #expect(child.state.configuration == configuration)
        _ = try child.send(.patch, "/vm", #"{"state":"Resumed"}"#)
        #expect(child.state.phase == .running && player.state.phase == .running)
    }

    @Test func aMachineIsConfiguredAndStarted() throws {
        var player = Player()
        #expect(
            try player.send(.get, "/").json
                == ["id": "m1", "state": "Not started", "vmm_version": .string(apiVersion), "app_name": "Martlet"])
        _ = try player.send(.put, "/machine-config", #"{"vcpu_count":2,"mem_size_mib":256}"#)
        _ = try player.send(.put, "/boot-source", #"{"kernel_image_path":"/k","boot_args":"quiet"}"#)
        _ = try player.send(.put, "/drives/data", #"{"drive_id":"data","is_root_device":false,"path_on_host":"/b"}"#)
        _ = try player.send(
            .put, "/drives/root", #"{"drive_id":"root","is_root_device":true,"path_on_host":"/a","is_read_only":true}"#)
        _ = try player.send(.put, "/vsock", #"{"guest_cid":3,"uds_path":"/v"}"#)
        _ = try player.send(.put, "/entropy", "{}")
        let configuration = try player.send(.get, "/vm/config").json
        #expect(
            configuration["drives"]
                == [
                    [
                        "drive_id": "root", "partuuid": .null, "is_root_device": true, "cache_type": "Unsafe",
                        "is_read_only": true, "path_on_host": "/a", "rate_limiter": .null, "io_engine": "Sync",
                        "socket": .null,
                    ],
                    [
                        "drive_id": "data", "partuuid": .null, "is_root_device": false, "cache_type": "Unsafe",
                        "is_read_only": false, "path_on_host": "/b", "rate_limiter": .null, "io_engine": "Sync",
                        "socket": .null,
                    ],
                ])
        #expect(configuration["vsock"] == ["guest_cid": 3, "uds_path": "/v"])
        #expect(configuration["entropy"] == ["rate_limiter": .null])
        #expect(configuration["balloon"] == .null)
        #expect(configuration["mmds-config"] == .null)
        let start = try player.send(.put, "/actions", #"{"action_type":"InstanceStart"}"#)
        #expect(start == HTTPResponse(.noContent))
        #expect(player.effects.last == .start(player.state.configuration))
        #expect(player.state.phase == .running)
        #expect(try player.send(.get, "/vm/config").json == configuration)
        _ = try player.send(.patch, "/vm", #"{"state":"Paused"}"#)
        #expect(try player.send(.get, "/").json["state"] == "Paused")
        _ = try player.send(.patch, "/vm", #"{"state":"Resumed"}"#)
        #expect(try player.send(.get, "/").json["state"] == "Running")
    }

    static let onlyBefore: [APIRequest] = [
        .setMachine(MachineUpdate()), .setBootSource(BootSource(kernelImagePath: "k")), .setEntropy(nil), .start,
        .setVsock(Vsock(guestCID: 3, socketPath: "v")), .setSerial(Serial()), .setLogger(Logger()),
        .setMetrics(MetricsSettings(path: "m")), .setSpareSlots(1),
        .loadSnapshot(SnapshotLoading(state: "s", memory: .file("m"))),
    ]
    static let onlyAfter: [APIRequest] = [
        .pause, .resume, .flushMetrics, .sendCtrlAltDel, .updateDrive(id: "d", path: nil, limit: nil),
        .updateInterface(id: "e", receive: nil, transmit: RateLimit()),
        .remove(id: "d"), .removeInterface(id: "e"), .createSnapshot(SnapshotCreation(statePath: "s", memoryPath: "m")),
    ]

    @Test func requestsBelongToAPhase() {
        for request in Self.onlyAfter {
            var player = Player()
            #expect(player.send(request).fault == Self.before)
            #expect(player.effects.isEmpty)
        }
        for request in Self.onlyBefore {
            var player = Player()
            player.state.didStart(Player.saved)
            #expect(player.send(request).fault == Self.after)
            #expect(player.effects.isEmpty)
        }
    }

    @Test func snapshotsAreLoadedIntoFreshProcessesOnly() throws {
        let load = APIRequest.loadSnapshot(SnapshotLoading(state: "s", memory: .file("m")))
        var used = Player()
        _ = try used.send(.put, "/entropy", "{}")
        #expect(
            used.send(load).fault
                == "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific "
                + "resources.")
        #expect(!used.state.isUseless)
        var fresh = Player()
        _ = try fresh.send(.put, "/logger", "{}")
        _ = try fresh.send(.put, "/metrics", #"{"metrics_path":"m"}"#)
        #expect(fresh.send(load).status == .noContent)
        #expect(fresh.state.phase == .paused && fresh.state.configuration == Player.saved)
        var failed = Player()
        failed.failing = "no such file"
        #expect(failed.send(load).fault == "Load snapshot error: Failed to restore from snapshot: no such file")
        #expect(failed.state.isUseless)
        var resuming = Player()
        var loading = SnapshotLoading(state: "s", memory: .file("m"))
        loading.resumes = true
        _ = resuming.send(.loadSnapshot(loading))
        #expect(resuming.state.phase == .running)
    }

    @Test func snapshotsAreTakenOfPausedMachinesOnly() throws {
        var player = Player()
        player.state.didStart(Player.saved)
        let create = APIRequest.createSnapshot(SnapshotCreation(statePath: "s", memoryPath: "m"))
        #expect(player.send(create).fault?.hasPrefix("Create snapshot error: ") == true)
        var live = SnapshotCreation(statePath: "s", memoryPath: "m")
        live.isLive = true
        #expect(player.send(.createSnapshot(live)).status == .noContent)
        _ = player.send(.pause)
        #expect(player.send(.createSnapshot(live)).fault?.hasPrefix("Create snapshot error: a live") == true)
        #expect(player.send(create).status == .noContent)
        #expect(player.state.phase == .paused)
    }

    @Test func settingsContradictThemselves() throws {
        var player = Player()
        let count =
            "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even "
            + "number if SMT is enabled."
        let memory =
            "Machine config error: The memory size (MiB) is either 0, or not a multiple of the configured page size."
        #expect(try player.send(.patch, "/machine-config", #"{"vcpu_count":0}"#).fault == count)
        #expect(try player.send(.patch, "/machine-config", #"{"vcpu_count":33}"#).fault == count)
        #expect(try player.send(.patch, "/machine-config", #"{"vcpu_count":3,"smt":true}"#).fault == count)
        #expect(try player.send(.patch, "/machine-config", #"{"mem_size_mib":0}"#).fault == memory)
        #expect(
            try player.send(.patch, "/machine-config", #"{"mem_size_mib":129,"huge_pages":"Transparent"}"#).fault
                == memory)
        #expect(try player.send(.patch, "/machine-config", #"{"mem_size_mib":129,"huge_pages":"2M"}"#).fault == memory)
        #expect(player.state.configuration.machine == MachineSettings())
        #expect(try player.send(.patch, "/machine-config", #"{"vcpu_count":3}"#).status == .noContent)
        #expect(try player.send(.patch, "/machine-config", #"{"smt":true}"#).fault == count)
        // A PUT sets what it does not say to its default.
        _ = try player.send(.patch, "/machine-config", #"{"track_dirty_pages":true}"#)
        _ = try player.send(.put, "/machine-config", #"{"vcpu_count":1,"mem_size_mib":128}"#)
        #expect(player.state.configuration.machine == MachineSettings())
    }

    @Test func devicesContradictEachOther() throws {
        var player = Player()
        _ = try player.send(.put, "/drives/a", #"{"drive_id":"a","is_root_device":true,"path_on_host":"/a"}"#)
        #expect(
            try player.send(.put, "/drives/b", #"{"drive_id":"b","is_root_device":true,"path_on_host":"/b"}"#).fault
                == "Drive config error: A root block device already exists!")
        _ = try player.send(.put, "/drives/a", #"{"drive_id":"a","is_root_device":false,"path_on_host":"/c"}"#)
        _ = try player.send(.put, "/drives/b", #"{"drive_id":"b","is_root_device":true,"path_on_host":"/b"}"#)
        #expect(player.state.configuration.drives.map(\.identifier) == ["b", "a"])
        let body = #","socket_path":"s","guest_mac":"06:00:00:00:00:01"}"#
        _ = try player.send(.put, "/network-interfaces/1", #"{"iface_id":"1""# + body)
        #expect(
            try player.send(.put, "/network-interfaces/2", #"{"iface_id":"2""# + body).fault
                == "Network config error: The MAC address is already in use: 06:00:00:00:00:01")
        _ = try player.send(.put, "/network-interfaces/1", #"{"iface_id":"1""# + body)
        #expect(player.state.configuration.networkInterfaces.count == 1)
        // One TAP device, two interfaces.
        let tap = #","host_dev_name":"tap0"}"#
        #expect(try player.send(.put, "/network-interfaces/3", #"{"iface_id":"3""# + tap).status == .noContent)
        #expect(try player.send(.put, "/network-interfaces/3", #"{"iface_id":"3""# + tap).status == .noContent)
        #expect(
            try player.send(.put, "/network-interfaces/4", #"{"iface_id":"4""# + tap).fault
                == "Network config error: Could not create the network device: Open tap device failed: Error while "
                + "creating ifreq structure: Device or resource busy (os error 16). Invalid TUN/TAP Backend provided by "
                + "tap0. Check our documentation on setting up the network devices.")
    }

    /// The order of the disks is that in which the guest sees them.
    @Test func theRootDeviceComesFirst() throws {
        var player = Player()
        func put(_ name: String, isRoot: Bool = false, _ path: String = "/d") throws -> [String] {
            let body = #"{"drive_id":"\#(name)","is_root_device":\#(isRoot),"path_on_host":"\#(path)"}"#
            #expect(try player.send(.put, "/drives/\(name)", body).status == .noContent)
            return player.state.configuration.drives.map(\.identifier)
        }
        #expect(try put("a") == ["a"])
        #expect(try put("b") == ["a", "b"])
        #expect(try put("r", isRoot: true) == ["r", "a", "b"])
        // What is there already keeps its place.
        #expect(try put("r", isRoot: true, "/other") == ["r", "a", "b"])
        #expect(try put("a", "/other") == ["r", "a", "b"])
        #expect(try put("c") == ["r", "a", "b", "c"])
        // Another one becomes the root device.
        _ = try put("r")
        #expect(try put("b", isRoot: true) == ["b", "a", "r", "c"])
    }

    /// Whatever the API takes, a saved state may say again, and a configuration file.
    @Test func whatIsTakenIsReadAgain() throws {
        var player = Player()
        _ = try player.send(.put, "/boot-source", #"{"kernel_image_path":"/k"}"#)
        let long = String(repeating: "a", count: 255)
        let body = #"","is_root_device":false,"path_on_host":"/d"}"#
        #expect(try player.send(.put, "/drives/\(long)", #"{"drive_id":""# + long + body).status == .noContent)
        do {
            _ = try player.send(.put, "/drives/\(long)a", #"{"drive_id":""# + long + "a" + body)
            Issue.record("a name of 256 characters was taken")
        } catch let fault as RequestFault {
            #expect(fault.message == "The ID has more than 255 characters.")
        }
        let interface = #"{"iface_id":"\#(long)","socket_path":"s","guest_mac":"01:00:5e:00:00:01"}"#
        #expect(try player.send(.put, "/network-interfaces/\(long)", interface).status == .noContent)
        let configuration = player.state.configuration
        #expect(configuration.drives.count == 1 && configuration.networkInterfaces.count == 1)
        #expect(try MachineConfiguration(parsing: configuration.json.encoded()) == configuration)
        // What the monitor says of its machine describes it.
        let shown = try player.send(.get, "/vm/config").json.encoded()
        #expect(try MachineConfiguration(parsing: shown) == configuration)
    }

    @Test func failuresChangeNothing() throws {
        var player = Player()
        player.failing = "The kernel file cannot be opened: No such file or directory (os error 2)"
        #expect(
            try player.send(.put, "/boot-source", #"{"kernel_image_path":"foo.bar"}"#).fault
                == "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)")
        #expect(
            try player.send(.put, "/actions", #"{"action_type":"InstanceStart"}"#).fault
                == "Start microvm error: Cannot start microvm without kernel configuration.")
        #expect(
            try player.send(.put, "/drives/a", #"{"drive_id":"a","is_root_device":false,"path_on_host":"/a"}"#).fault?
                .hasPrefix("Drive config error: Unable to create the virtio block device: ") == true)
        #expect(player.state.configuration.drives.isEmpty)
        let arguments = String(repeating: "a", count: 2048)
        #expect(
            try player.send(.put, "/boot-source", #"{"kernel_image_path":"k","boot_args":""# + arguments + #""}"#)
                .fault?.hasPrefix("Boot source error: The kernel command line is invalid") == true)
    }

    @Test func drivesOfRunningMachines() throws {
        var player = Player()
        player.state.didStart(Player.saved)
        #expect(
            try player.send(.patch, "/drives/d", #"{"drive_id":"d"}"#).fault
                == "Drive config error: Unable to patch the block device: Block: Running method expected different "
                + "backend. Please verify the request arguments.")
        #expect(
            try player.send(.patch, "/drives/x", #"{"drive_id":"x","path_on_host":"/p"}"#).fault?
                .contains("Device not found") == true)
        _ = try player.send(.patch, "/drives/d", #"{"drive_id":"d","path_on_host":"/p"}"#)
        #expect(player.effects == [.updateDrive(id: "d", path: "/p", limit: nil)])
        #expect(player.state.configuration.drives[0].content == .path("/p"))
        // Limits change bucket by bucket; one of no size goes.
        let limits: [(String, UInt64?, UInt64?)] = [
            (#"{"bandwidth":{"size":5,"refill_time":6},"ops":{"size":7,"refill_time":8}}"#, 5, 7),
            (#"{"ops":{"size":9,"refill_time":8,"one_time_burst":0}}"#, 5, 9), ("{}", 5, 9),
            (#"{"bandwidth":{"size":0,"refill_time":0}}"#, nil, 9), (#"{"ops":{"size":9,"refill_time":0}}"#, nil, nil),
        ]
        for (limit, bytes, operations) in limits {
            let body = #"{"drive_id":"d","rate_limiter":\#(limit)}"#
            #expect(try player.send(.patch, "/drives/d", body).status == .noContent)
            let now = player.state.configuration.drives[0].limit
            #expect(now?.bandwidth?.size == bytes && now?.operations?.size == operations)
            #expect((now == nil) == (bytes == nil && operations == nil))
        }
        // One slot is spare.
        let more = #","is_root_device":false,"path_on_host":"/q"}"#
        #expect(try player.send(.put, "/drives/d", #"{"drive_id":"d""# + more).fault == "Device ID in use")
        #expect(try player.send(.put, "/drives/e", #"{"drive_id":"e""# + more).status == .noContent)
        let fault = try player.send(.put, "/drives/f", #"{"drive_id":"f""# + more).fault
        #expect(fault?.hasPrefix(Self.after) == true && fault?.contains("PCI is not enabled") == true)
    }

    @Test func anInterfaceThatGoesLeavesItsSlot() throws {
        var player = Player()
        player.state.didStart(Player.saved)
        let spare = player.state.configuration.spareSlotCount
        #expect(spare > 0)
        let more = #","host_dev_name":"tap9"}"#
        #expect(try player.send(.delete, "/network-interfaces/e9").fault?.contains("Device not found") == true)
        for _ in 0...spare {
            #expect(try player.send(.put, "/network-interfaces/e9", #"{"iface_id":"e9""# + more).status == .noContent)
            #expect(player.state.configuration.spareSlotCount == spare - 1)
            #expect(try player.send(.delete, "/network-interfaces/e9").status == .noContent)
            #expect(player.effects.last == .detachInterface("e9"))
            #expect(player.state.configuration.spareSlotCount == spare)
            #expect(!player.state.configuration.networkInterfaces.contains { $0.identifier == "e9" })
        }
        // A drive has no such way.
        #expect(try player.send(.delete, "/drives/d").fault == "PCI is not enabled")
    }

    @Test func whatComesLaterIsRefusedByItsPhase() throws {
        let cases: [(HTTPMethod, String, String?, String?, String?)] = [
            (.put, "/balloon", "{}", "balloon device", nil), (.patch, "/balloon", "{}", nil, "balloon device"),
            (.get, "/balloon", nil, "balloon device", "balloon device"),
            (.get, "/balloon/statistics", nil, nil, "balloon device"),
            (.put, "/mmds/config", "{}", "metadata service", nil),
            (.get, "/mmds", nil, "metadata service", "metadata service"),
            (.patch, "/pmem/a", "{}", nil, "persistent memory device"),
            (.put, "/cpu-config", "{}", "CPU templates", nil),
            (.put, "/hotplug/memory", "{}", "hotplug of memory", nil),
            (.get, "/hotplug/memory", nil, nil, "hotplug of memory"),
        ]
        for (method, path, body, before, after) in cases {
            var player = Player()
            func expected(_ what: String?, _ other: String) -> String {
                what.map { "The requested operation is not supported: this monitor has no \($0) yet." } ?? other
            }
            #expect(try player.send(method, path, body).fault == expected(before, Self.before))
            player.state.didStart(Player.saved)
            #expect(try player.send(method, path, body).fault == expected(after, Self.after))
        }
    }

    @Test func templatesAreRefusedAtTheStart() throws {
        var player = Player()
        _ = try player.send(.put, "/boot-source", #"{"kernel_image_path":"/k"}"#)
        #expect(try player.send(.patch, "/machine-config", #"{"cpu_template":"T2"}"#).status == .noContent)
        #expect(try player.send(.get, "/machine-config").json["cpu_template"] == "T2")
        #expect(player.send(.start).fault?.hasPrefix("Start microvm error: Failed to get CPU template") == true)
        _ = try player.send(.patch, "/machine-config", #"{"cpu_template":"None"}"#)
        #expect(try player.send(.get, "/machine-config").json["cpu_template"] == nil)
        #expect(player.send(.start).status == .noContent)
    }

    @Test func metricsAreInitialisedOnce() throws {
        var player = Player()
        #expect(try player.send(.put, "/metrics", #"{"metrics_path":"m"}"#).status == .noContent)
        #expect(
            try player.send(.put, "/metrics", #"{"metrics_path":"m"}"#).fault
                == "Metrics error: Cannot initialize the metrics system due to bad user input: Reinitialization of "
                + "metrics not allowed.")
    }

    /// What the machine has already cannot be something else too, before the start and after it.
    @Test func aDescriptorIsOneThing() throws {
        var player = Player()
        func fault(_ path: String, _ body: String) throws -> String? { try player.send(.put, path, body).fault }
        #expect(try fault("/boot-source", #"{"kernel_image_fd":3,"initrd_fd":4}"#) == nil)
        #expect(try fault("/spare-slots", #"{"count":2}"#) == nil)
        #expect(try fault("/drives/a", #"{"drive_id":"a","is_root_device":false,"fd":5}"#) == nil)
        // Once more the same drive.
        #expect(try fault("/drives/a", #"{"drive_id":"a","is_root_device":false,"fd":5}"#) == nil)
        let drive = "Drive config error: descriptor 5 is the drive a already, and cannot be the drive b too"
        #expect(try fault("/drives/b", #"{"drive_id":"b","is_root_device":false,"fd":5}"#) == drive)
        #expect(
            try fault("/network-interfaces/n", #"{"iface_id":"n","host_dev_fd":3}"#)
                == "Network config error: descriptor 3 is the kernel already, and cannot be the interface n too")
        #expect(
            try fault("/vsock", #"{"guest_cid":3,"uds_path":"v","uds_fd":4}"#)
                == "Vsock config error: descriptor 4 is the initrd already, and cannot be the vsock device too")
        #expect(try fault("/actions", #"{"action_type":"InstanceStart"}"#) == nil)
        #expect(try fault("/drives/b", #"{"drive_id":"b","is_root_device":false,"fd":5}"#) == drive)
        var other = Player()
        #expect(
            try other.send(
                .put, "/snapshot/load",
                #"{"snapshot_fd":6,"mem_backend":{"backend_type":"File","backend_fd":6}}"#
            ).fault == "Load snapshot error: descriptor 6 is the state already, and cannot be the memory too")
    }

    /// Whatever is asked in whatever order: a refusal changes nothing, a machine never goes back, and only the effects
    /// of its phase are wanted.
    @Test func anyOrderOfRequestsKeepsTheRules() throws {
        var generator = SeededGenerator(3)
        let others: [APIRequest] = [
            .describeInstance, .version, .describeConfiguration, .describeMachine,
            .setDrive(Drive(identifier: "d", content: .path("/d"))),
            .setDrive(Drive(identifier: "e", content: .path("/e"))),
            .setInterface(NetworkInterface(identifier: "e", peer: .socket("s"))),
            .updateDrive(id: "e", path: "/f", limit: RateLimit(operations: .init(size: 1, refillTime: 1))),
        ]
        let all = Self.onlyBefore + Self.onlyAfter + others
        for _ in 0..<400 {
            var player = Player()
            for _ in 0..<40 {
                guard let request = all.randomElement(using: &generator) else { continue }
                player.failing = Int.random(in: 0..<5, using: &generator) == 0 ? "failed" : nil
                let before = player.state
                let count = player.effects.count
                let response = player.send(request)
                if response.status == .badRequest {
                    #expect(player.state.phase == before.phase)
                    #expect(player.state.configuration == before.configuration)
                }
                #expect(before.phase == .notStarted || player.state.phase != .notStarted)
                if before.phase != .notStarted { #expect(!Self.onlyBefore.contains(request) || response.fault != nil) }
                #expect(player.effects.count - count <= 1)
                if player.state.isUseless { break }
            }
        }
    }
}
