// SPDX-License-Identifier: Apache-2.0

import Testing
import Wire

@testable import MachineAPI

@Suite struct MachineConfigurationTests {
    static let full = """
        {"boot-source": {"kernel_image_path": "/k", "initrd_path": "/i", "boot_args": "quiet"},
         "machine-config": {"vcpu_count": 4, "mem_size_mib": 6144, "smt": true, "track_dirty_pages": true,
                            "huge_pages": "None", "acpi": false},
         "drives": [{"drive_id": "root", "path_on_host": "/d", "is_root_device": true, "is_read_only": true,
                     "cache_type": "Writeback", "io_engine": "Async", "partuuid": "0eaa91a0-01",
                     "rate_limiter": {"ops": {"size": 10, "refill_time": 11}, "bandwidth": {"size": 0, "refill_time": 1}}},
                    {"drive_id": "layers", "extents": [{"path": "/a"}, {"path": "/b", "offset": 4096, "length": 10}]}],
         "network-interfaces": [{"iface_id": "eth0", "socket_path": "/s", "guest_mac": "06:00:ac:10:00:02",
                                 "mtu": 9000},
                                {"iface_id": "eth1", "host_dev_name": "tap0",
                                 "rx_rate_limiter": {"bandwidth": {"size": 1, "refill_time": 2, "one_time_burst": 3}},
                                 "tx_rate_limiter": {"ops": {"size": 4, "refill_time": 5}, "bandwidth": null}},
                                {"iface_id": "eth2", "host_dev_fd": 7}],
         "vsock": {"guest_cid": 3, "uds_path": "/v"},
         "entropy": {"rate_limiter": {"bandwidth": {"size": 6, "refill_time": 7}}},
         "serial": {"serial_out_path": "/o", "rate_limiter": {"size": 8, "refill_time": 9}},
         "logger": {"log_path": "/l", "level": "debug"}, "balloon": null, "pmem": [],
         "metrics": {"metrics_path": "/m", "emit_id": true, "properties": {"host": "h1"}}}
        """

    @Test func everyFieldIsRead() throws {
        let configuration = try MachineConfiguration(parsing: Array(Self.full.utf8))
        #expect(configuration.bootSource == BootSource(kernelImagePath: "/k", initrdPath: "/i", arguments: "quiet"))
        #expect(configuration.machine.vcpuCount == 4)
        #expect(configuration.machine.memoryInMiB == 6144)
        #expect(configuration.machine.simultaneousMultithreading)
        #expect(configuration.machine.tracksDirtyPages)
        #expect(configuration.machine.hugePages == MachineSettings.HugePages.none)
        #expect(!configuration.machine.acpi)
        #expect(configuration.drives[0].isRootDevice && configuration.drives[0].isReadOnly)
        #expect(configuration.drives[0].cache == .writeback)
        #expect(
            configuration.drives[1].content
                == .extents([.init(path: "/a"), .init(path: "/b", offset: 4096, length: 10)]))
        #expect(configuration.drives[1].isReadOnly)
        #expect(configuration.networkInterfaces[0].peer == .socket("/s"))
        #expect(configuration.networkInterfaces[0].guestMAC?.description == "06:00:ac:10:00:02")
        #expect(configuration.networkInterfaces[1].peer == .tap("tap0"))
        #expect(configuration.networkInterfaces[2].peer == .descriptor(7))
        #expect(
            configuration.networkInterfaces[1].receiveLimit
                == RateLimit(bandwidth: .init(size: 1, refillTime: 2, oneTimeBurst: 3)))
        #expect(
            configuration.networkInterfaces[1].transmitLimit == RateLimit(operations: .init(size: 4, refillTime: 5)))
        #expect(configuration.drives[0].limit == RateLimit(operations: .init(size: 10, refillTime: 11)))
        #expect(configuration.entropyLimit == RateLimit(bandwidth: .init(size: 6, refillTime: 7)))
        #expect(configuration.serial.limit == .init(size: 8, refillTime: 9))
        #expect(configuration.vsock == Vsock(guestCID: 3, socketPath: "/v"))
        #expect(configuration.hasEntropyDevice)
        #expect(configuration.serial.outputPath == "/o")
        #expect(configuration.logger.level == .debug)
        #expect(configuration.metrics?.path == "/m" && configuration.metrics?.emitsIdentifier == true)
        #expect(configuration.metrics?.properties?.map(\.name) == ["host"])
    }

    @Test func writtenIsReadAgain() throws {
        let configuration = try MachineConfiguration(parsing: Array(Self.full.utf8))
        #expect(try MachineConfiguration(parsing: configuration.json.encoded(indented: true)) == configuration)
        let least = MachineConfiguration(bootSource: BootSource(kernelImagePath: "/k"))
        #expect(try MachineConfiguration(parsing: least.json.encoded()) == least)
    }

    static let boot = #""boot-source":{"kernel_image_path":"/k"}"#
    static let bad: [(String, String, String)] = [
        ("[]", "", "an object is wanted"),
        ("{}", "", "boot-source is missing"),
        (#"{"boot-source":{}}"#, "boot-source", "kernel_image_path is missing"),
        (#"{"boot-source":{"kernel_image_path":""}}"#, "boot-source.kernel_image_path", "a path is wanted"),
        (#"{"boot-source":{"kernel_image_path":7}}"#, "boot-source.kernel_image_path", "a string is wanted"),
        (#"{"boot-source":{"kernel_image_path":"/k","x":1}}"#, "boot-source.x", "no such field"),
        (#"{"boot-source":{"kernel_image_path":"/k","boot_args":"a\nb"}}"#, "boot-source.boot_args", "control"),
        ("{\(boot),\"machine-config\":{\"vcpu_count\":0,\"mem_size_mib\":128}}", "machine-config.vcpu_count", "1 is"),
        ("{\(boot),\"machine-config\":{\"vcpu_count\":33,\"mem_size_mib\":128}}", "machine-config.vcpu_count", "32 is"),
        ("{\(boot),\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":0}}", "machine-config.mem_size_mib", "64 is"),
        (
            "{\(boot),\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":-1}}", "machine-config.mem_size_mib",
            "negative"
        ),
        (
            "{\(boot),\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":1.5}}", "machine-config.mem_size_mib",
            "integer"
        ),
        (
            "{\(boot),\"machine-config\":{\"vcpu_count\":3,\"mem_size_mib\":128,\"smt\":true}}",
            "machine-config.vcpu_count", "even"
        ),
        (
            "{\(boot),\"machine-config\":{\"vcpu_count\":1,\"mem_size_mib\":129,\"huge_pages\":\"2M\"}}",
            "machine-config.mem_size_mib", "pages of 2 MiB"
        ),
        ("{\"boot-source\":{}}", "boot-source", "kernel_image_fd"),
        (
            "{\"boot-source\":{\"kernel_image_path\":\"k\",\"kernel_image_fd\":3}}", "boot-source.kernel_image_fd",
            "not both"
        ),
        (
            "{\"boot-source\":{\"kernel_image_fd\":3,\"initrd_fd\":3}}", "",
            "descriptor 3 is the kernel already, and cannot be the initrd too"
        ),
        (
            "{\(boot),\"drives\":[{\"drive_id\":\"a\",\"fd\":4}],\"vsock\":{\"guest_cid\":3,\"uds_path\":\"v\",\"uds_fd\":4}}",
            "", "descriptor 4 is the drive a already"
        ),
        ("{\(boot),\"drives\":[{\"drive_id\":\"a\"}]}", "drives[0]", "path_on_host is missing"),
        (
            "{\(boot),\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"extents\":[]}]}", "drives[0].extents",
            "not both"
        ),
        ("{\(boot),\"drives\":[{\"drive_id\":\"a\",\"extents\":[]}]}", "drives[0].extents", "at least one"),
        ("{\(boot),\"drives\":[{\"drive_id\":\"a/b\",\"path_on_host\":\"/x\"}]}", "drives[0].drive_id", "letters"),
        (
            "{\(boot),\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/x\"},{\"drive_id\":\"a\",\"path_on_host\":\"/y\"}]}",
            "drives[1].drive_id", "earlier one"
        ),
        (
            "{\(boot),\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"rate_limiter\":{\"ops\":{\"size\":1}}}]}",
            "drives[0].rate_limiter.ops", "refill_time is missing"
        ),
        (
            "{\(boot),\"network-interfaces\":[{\"iface_id\":\"e\"}]}", "network-interfaces[0]",
            "host_dev_name is missing"
        ),
        (
            "{\(boot),\"network-interfaces\":[{\"iface_id\":\"e\",\"socket_path\":\"/s\",\"guest_mac\":\"06:00:00:00:00\"}]}",
            "network-interfaces[0].guest_mac", "06:00:ac:10:00:02"
        ),
        ("{\(boot),\"vsock\":{\"guest_cid\":2,\"uds_path\":\"/v\"}}", "vsock.guest_cid", "3 is the least"),
        ("{\(boot),\"balloon\":{}}", "balloon", "leave it out"),
        ("{\(boot),\"pmem\":[{}]}", "pmem", "leave it out"),
        (
            "{\(boot),\"drives\":[{\"drive_id\":\"a\",\"path_on_host\":\"/x\",\"socket\":\"/s\"}]}", "drives[0].socket",
            "vhost-user"
        ),
        ("{\(boot),\"metrics\":{}}", "metrics", "metrics_path is missing"),
        ("{\(boot),\"metrics\":{\"metrics_path\":\"m\",\"properties\":{\"a\":1}}}", "metrics.properties.a", "a string"),
        ("{\(boot),\"nonsense\":{}}", "nonsense", "no such field"),
        ("{\(boot),\"logger\":{\"level\":\"loud\"}}", "logger.level", "Warning"),
    ]

    @Test(arguments: bad) func errorsSayWhereAndWhat(text: String, field: String, problem: String) {
        do throws(ConfigurationError) {
            _ = try MachineConfiguration(parsing: Array(text.utf8))
            Issue.record("\(text) was taken")
        } catch {
            #expect(error.field == field, "\(error)")
            #expect(error.problem.contains(problem), "\(error)")
        }
    }

    @Test func errorsHaveLineAndColumn() {
        let text =
            "{\n  \"boot-source\": {\"kernel_image_path\": \"/k\"},\n  \"vsock\": {\"guest_cid\": 1, \"uds_path\": \"\"}\n}"
        do throws(ConfigurationError) {
            _ = try MachineConfiguration(parsing: Array(text.utf8))
        } catch {
            #expect(error.description == "vsock.guest_cid (line 3, column 26): 1 is too small; 3 is the least")
        }
    }

    @Test func mutatedConfigurationsNeverTrap() {
        var state: UInt64 = 42
        func below(_ limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % limit
        }
        let words = ["0", "-1", "18446744073709551615", "null", "{}", "[]", "\"\"", "1e300", "true"].map {
            Array($0.utf8)
        }
        for _ in 0..<5_000 {
            var bytes = Array(Self.full.utf8)
            for _ in 0..<(1 + below(3)) {
                let place = below(bytes.count)
                if below(2) == 0 {
                    bytes[place] = UInt8(below(256))
                } else {
                    bytes.replaceSubrange(place..<min(bytes.count, place + below(12)), with: words[below(words.count)])
                }
            }
            guard let configuration = try? MachineConfiguration(parsing: bytes) else { continue }
            #expect((try? MachineConfiguration(parsing: configuration.json.encoded())) == configuration)
        }
    }

    /// What is named by descriptors reads, is written and reads again as the same.
    @Test func descriptorsInsteadOfPaths() throws {
        let configuration = try MachineConfiguration(
            parsing: Array(
                """
                {"boot-source": {"kernel_image_fd": 3, "initrd_fd": 4},
                 "machine-config": {"vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "2M"},
                 "drives": [{"drive_id": "a", "fd": 5, "is_read_only": true},
                            {"drive_id": "b", "extents": [{"fd": 6, "length": 4096}, {"fd": 6, "offset": 4096}, {"path": "x"}]}],
                 "network-interfaces": [{"iface_id": "n", "host_dev_fd": 7}],
                 "vsock": {"guest_cid": 3, "uds_path": "v", "uds_fd": 8}}
                """.utf8))
        #expect(configuration.bootSource == BootSource(kernel: .descriptor(3), initrd: .descriptor(4)))
        #expect(configuration.drives[0].content == .descriptor(5))
        #expect(configuration.vsock?.listener == 8)
        #expect(configuration.descriptors.map(\.number) == [3, 4, 5, 6, 7, 8])
        #expect(try MachineConfiguration(parsing: configuration.json.encoded()) == configuration)
    }
}
