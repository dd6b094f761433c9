// SPDX-License-Identifier: Apache-2.0

package import MachineAPI
internal import Platform
internal import Synchronization

/// What the monitor's figures say of a machine.
package struct MachineFigures {
    /// The names of the devices that have figures of their own.
    package let drives: [String]
    package let interfaces: [String]
    private let machine: Machine

    package init(_ machine: Machine) {
        self.machine = machine
        let configuration = machine.configuration
        drives = configuration.drives.map(\.identifier)
        interfaces = configuration.networkInterfaces.map(\.identifier)
    }

    /// Adds what the devices have counted since the machine was made.
    package func add(to values: inout MetricsValues) {
        for runner in machine.runners {
            values["vcpu", "exit_io_in"] &+= runner.exits.portReads.load(ordering: .relaxed)
            values["vcpu", "exit_io_out"] &+= runner.exits.portWrites.load(ordering: .relaxed)
            values["vcpu", "exit_mmio_read"] &+= runner.exits.memoryReads.load(ordering: .relaxed)
            values["vcpu", "exit_mmio_write"] &+= runner.exits.memoryWrites.load(ordering: .relaxed)
        }
        let ports = machine.devices.ports
        values["uart", "read_count"] = ports.serial.reads.load(ordering: .relaxed)
        values["uart", "write_count"] = ports.serial.writes.load(ordering: .relaxed)
        values["uart", "rate_limiter_dropped_bytes"] = ports.serial.limitedByteCount
        values["i8042", "read_count"] = ports.keyboard.reads.load(ordering: .relaxed)
        values["i8042", "write_count"] = ports.keyboard.writes.load(ordering: .relaxed)
        var counted = machine.deviceCounters()
        var nextInterface = interfaces.makeIterator()
        while let device = counted.popFirst() {
            switch device {
            case .block(let name, let counters, let throttle): values.add(counters, throttle, "block_\(name)")
            case .net(let counters, let receive, let transmit):
                if let name = nextInterface.next() { values.add(counters, receive, transmit, "net_\(name)") }
            case .vsock(let counters):
                values["vsock", "tx_packets_count"] = counters.packetsFromGuest
                values["vsock", "tx_bytes_count"] = counters.bytesFromGuest
                values["vsock", "rx_packets_count"] = counters.packetsToGuest
                values["vsock", "rx_bytes_count"] = counters.bytesToGuest
            case .entropy(let counters, let throttle):
                values["entropy", "entropy_event_count"] = counters.requests
                values["entropy", "entropy_bytes"] = counters.bytes
                values["entropy", "entropy_rate_limiter_throttled"] = throttle.holds
                values["entropy", "rate_limiter_event_count"] = throttle.releases
            }
        }
    }
}

extension MetricsValues {
    fileprivate mutating func add(_ counters: BlockCounters, _ throttle: ThrottleCounters, _ group: String) {
        self[group, "queue_event_count"] = counters.notifications
        self[group, "read_count"] = counters.reads
        self[group, "read_bytes"] = counters.readBytes
        self[group, "write_count"] = counters.writes
        self[group, "write_bytes"] = counters.writtenBytes
        self[group, "flush_count"] = counters.flushes
        self[group, "execute_fails"] = counters.failures
        self[group, "invalid_reqs_count"] = counters.invalidRequests
        self[group, "update_count"] = counters.replacements
        self[group, "rate_limiter_throttled_events"] = throttle.holds
        self[group, "rate_limiter_event_count"] = throttle.releases
    }

    fileprivate mutating func add(
        _ counters: NetCounters, _ receive: ThrottleCounters, _ transmit: ThrottleCounters, _ group: String
    ) {
        self[group, "rx_count"] = counters.toGuest
        self[group, "rx_packets_count"] = counters.toGuest
        self[group, "rx_bytes_count"] = counters.bytesToGuest
        self[group, "rx_fails"] = counters.droppedToGuest
        self[group, "tx_count"] = counters.fromGuest
        self[group, "tx_packets_count"] = counters.fromGuest
        self[group, "tx_bytes_count"] = counters.bytesFromGuest
        self[group, "tx_fails"] = counters.droppedFromGuest
        self[group, "rx_queue_event_count"] = counters.receiveNotifications
        self[group, "tx_queue_event_count"] = counters.transmitNotifications
        self[group, "rx_tap_event_count"] = counters.linkEvents
        self[group, "tap_read_fails"] = counters.readFailures
        self[group, "tap_write_fails"] = counters.writeFailures
        self[group, "no_rx_avail_buffer"] = counters.waitsForBuffers
        self[group, "rx_rate_limiter_throttled"] = receive.holds
        self[group, "rx_event_rate_limiter_count"] = receive.releases
        self[group, "tx_rate_limiter_throttled"] = transmit.holds
        self[group, "tx_rate_limiter_event_count"] = transmit.releases
    }
}

/// What one device has counted.
enum CountedDevice: Sendable {
    case block(String, BlockCounters, ThrottleCounters)
    /// The throttles of what goes to the guest, and of what comes from it.
    case net(NetCounters, ThrottleCounters, ThrottleCounters)
    case vsock(VsockCounters)
    case entropy(EntropyCounters, ThrottleCounters)

    init?(_ device: VirtioMMIODevice) {
        switch device {
        case let block as BlockDevice:
            self = .block(block.name, block.counters, ThrottleCounters(block.throttles[0]))
        case let net as NetDevice:
            self = .net(
                net.counters, ThrottleCounters(net.throttles[NetDevice.Queue.receive]),
                ThrottleCounters(net.throttles[NetDevice.Queue.transmit]))
        case let vsock as VsockDevice: self = .vsock(vsock.counters)
        case let entropy as EntropyDevice:
            self = .entropy(entropy.counters, ThrottleCounters(entropy.throttles[0]))
        default: return nil
        }
    }
}

extension Machine {
    /// What the virtio devices have counted, in the order of their windows: read on the thread that counts, or while it
    /// stands still.
    fileprivate func deviceCounters() -> ArraySlice<CountedDevice> {
        let (devices, loop) = (devices, loop)
        return life.withLock { life in
            guard life.phase == .running else { return devices.virtio.compactMap(CountedDevice.init)[...] }
            let counted = Mutex<[CountedDevice]>([])
            try? loop.performAndWait {
                let all = devices.virtio.compactMap(CountedDevice.init)
                counted.withLock { $0 = all }
            }
            return counted.withLock { $0 }[...]
        }
    }
}
