// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import MachineAPI
internal import Virtio
internal import Wire

extension MachineState {
    /// Reads a state file. Whatever the bytes are, the result is a state whose parts fit one another and have the sizes
    /// that KVM's structures have, or an error that says what the file is instead.
    init(reading bytes: [UInt8]) throws(SnapshotFileError) {
        let sections = try SnapshotFile(reading: bytes, known: SnapshotSection.known).sections
        func one(_ kind: UInt32, _ name: String) throws(SnapshotFileError) -> [UInt8] {
            let found = sections.filter { $0.kind == kind }
            guard found.count == 1 else {
                throw .malformed("there are \(found.count) sections for \(name) instead of one")
            }
            return found[0].payload
        }
        let snapshot = try FieldTable(one(SnapshotSection.snapshot, "the snapshot"), "the snapshot")
        identifier = SnapshotIdentifier(
            bytes: try snapshot.bytes(SnapshotSection.Snapshot.identifier, count: SnapshotIdentifier.size))
        switch try snapshot.number(SnapshotSection.Snapshot.kind) {
        case 0: kind = .full
        case 1: kind = .diff
        case let other: throw .malformed("a snapshot of kind \(other)")
        }
        wallClock = try snapshot.number(SnapshotSection.Snapshot.wallClock)
        parent = nil
        if snapshot.has(SnapshotSection.Snapshot.parent) {
            parent = SnapshotIdentifier(
                bytes: try snapshot.bytes(SnapshotSection.Snapshot.parent, count: SnapshotIdentifier.size))
        }
        let text = try one(SnapshotSection.configuration, "the configuration")
        do throws(ConfigurationError) { configuration = try MachineConfiguration(parsing: text) } catch {
            throw .malformed("its configuration: \(error)")
        }
        let memory = try FieldTable(one(SnapshotSection.memory, "the memory"), "the memory")
        memoryRanges = try memory.ranges(SnapshotSection.Memory.range)
        memoryParts = try memory.ranges(SnapshotSection.Memory.part)
        host = try Self.readHost(FieldTable(one(SnapshotSection.host, "the host"), "the host"))
        chipset = try Self.readChipset(FieldTable(one(SnapshotSection.chipset, "the chipset"), "the chipset"))
        serial = try UARTRegisters(FieldTable(one(SnapshotSection.serial, "the serial port"), "the serial port"))
        if sections.contains(where: { $0.kind == SnapshotSection.keyboard }) {
            let section = try one(SnapshotSection.keyboard, "the keyboard controller")
            keyboard = try KeyboardController(FieldTable(section, "the keyboard controller"))
        }
        let slots = try FieldTable(one(SnapshotSection.slots, "the slots"), "the slots")
        slotCount = try Self.readSlots(slots)
        vcpus = []
        devices = []
        for section in sections where section.kind == SnapshotSection.vcpu {
            guard section.index == UInt32(vcpus.count) else { throw .malformed("vCPU \(section.index) is out of turn") }
            vcpus.append(try Self.readVCPU(FieldTable(section.payload, "vCPU \(section.index)")))
        }
        for section in sections where section.kind == SnapshotSection.device {
            guard section.index < UInt32(slotCount) else { throw .malformed("a device in slot \(section.index)") }
            devices.append(
                try Self.readDevice(FieldTable(section.payload, "slot \(section.index)"), slot: Int(section.index)))
        }
        try check()
    }

    /// What the sections say of one another.
    private func check() throws(SnapshotFileError) {
        let expected = GuestLayout.memoryRanges(sizeInBytes: configuration.machine.memoryInMiB << 20)
        guard memoryRanges == expected else {
            throw .malformed(
                "its memory is not laid out as that of a machine with \(configuration.machine.memoryInMiB) MiB")
        }
        var end: UInt64 = 0
        for part in memoryParts {
            guard part.lowerBound >= end, !part.isEmpty, part.upperBound <= memorySize,
                (part.lowerBound | part.upperBound) % 4096 == 0
            else { throw .malformed("the memory's parts overlap, or lie outside of it") }
            end = part.upperBound
        }
        guard kind == .diff || memoryParts.isEmpty else { throw .malformed("a full snapshot of parts of the memory") }
        guard vcpus.count == configuration.machine.vcpuCount else {
            throw .malformed("\(vcpus.count) vCPUs instead of \(configuration.machine.vcpuCount)")
        }
        for vcpu in vcpus where vcpu.parts[.extendedState]?.count != host.extendedStateSize {
            throw .malformed("a vCPU's XSAVE area is not as long as its host's")
        }
        guard Set(devices.map(\.slot)).count == devices.count,
            Set(devices.map(\.identity)).count == devices.count
        else { throw .malformed("two devices in one slot, or one in two") }
        for device in devices {
            let isThere =
                switch device.identity {
                case .drive(let name): configuration.drives.contains { $0.identifier == name }
                case .interface(let name): configuration.networkInterfaces.contains { $0.identifier == name }
                case .vsock: configuration.vsock != nil
                case .entropy: configuration.hasEntropyDevice
                }
            guard isThere else { throw .malformed("slot \(device.slot) has a device that the configuration lacks") }
        }
    }

    private static func readHost(_ fields: FieldTable) throws(SnapshotFileError) -> HostAbilities {
        var host = HostAbilities()
        host.cpuid = try fields.cpuid(SnapshotSection.Host.cpuid)
        let numbers = try fields.bytes(SnapshotSection.Host.modelSpecificRegisters, multipleOf: 4, limit: 1 << 16)
        for offset in stride(from: 0, to: numbers.count, by: 4) {
            host.modelSpecificRegisters.append(numbers.integer(at: offset) ?? 0)
        }
        host.extendedStateSize = Int(try fields.number(SnapshotSection.Host.extendedStateSize, limit: 1 << 20))
        host.timestampFrequencyInKHz = UInt32(
            try fields.number(SnapshotSection.Host.timestampFrequency, limit: UInt64(UInt32.max)))
        host.nestedStateSize = Int(try fields.number(SnapshotSection.Host.nestedStateSize, limit: 1 << 20))
        return host
    }

    private static func readChipset(_ fields: FieldTable) throws(SnapshotFileError) -> ChipsetState {
        var chipset = ChipsetState()
        chipset.interruptControllers = fields.all(SnapshotSection.Chipset.interruptController)
        guard chipset.interruptControllers.count == ChipsetState.interruptControllerCount,
            chipset.interruptControllers.allSatisfy({ $0.count == ChipsetState.interruptControllerSize })
        else { throw .malformed("the interrupt controllers") }
        chipset.timer = try fields.bytes(SnapshotSection.Chipset.timer, count: ChipsetState.timerSize)
        chipset.clock = try fields.number(SnapshotSection.Chipset.clock)
        return chipset
    }

    private static func readSlots(_ fields: FieldTable) throws(SnapshotFileError) -> Int {
        let count = Int(
            try fields.number(SnapshotSection.Slots.count, limit: UInt64(GuestLayout.maximumDeviceCount)))
        guard try fields.number(SnapshotSection.Slots.firstWindow) == GuestLayout.deviceWindows,
            try fields.bytes(SnapshotSection.Slots.interrupts, count: count)
                == GuestLayout.deviceInterrupts.prefix(count).map({ UInt8(truncatingIfNeeded: $0) })
        else { throw .malformed("its devices are where this monitor has none") }
        return count
    }

    private static func readVCPU(_ fields: FieldTable) throws(SnapshotFileError) -> VCPUState {
        var vcpu = VCPUState()
        for part in VCPUState.Part.allCases {
            let tag = SnapshotSection.VCPU.tag(part)
            vcpu.parts[part] =
                if let size = part.size {
                    try fields.bytes(tag, count: size)
                } else {
                    try fields.bytes(tag, multipleOf: 1, limit: 1 << 20)
                }
        }
        vcpu.multiprocessing = UInt32(try fields.number(SnapshotSection.VCPU.multiprocessing, limit: 0xffff))
        vcpu.cpuid = try fields.cpuid(SnapshotSection.VCPU.cpuid)
        let registers = try fields.bytes(SnapshotSection.VCPU.modelSpecificRegisters, multipleOf: 12, limit: 1 << 17)
        for offset in stride(from: 0, to: registers.count, by: 12) {
            vcpu.modelSpecificRegisters.append(
                ModelSpecificRegister(
                    number: registers.integer(at: offset) ?? 0, value: registers.integer(at: offset + 4) ?? 0))
        }
        vcpu.timestampFrequencyInKHz = UInt32(
            try fields.number(SnapshotSection.VCPU.timestampFrequency, limit: UInt64(UInt32.max)))
        return vcpu
    }

    /// How full the buckets of a device's limiters are. A device has at most two directions.
    private static func readLevels(
        _ fields: FieldTable, _ slot: Int
    ) throws(SnapshotFileError) -> [RateLimiter.Level] {
        var levels: [RateLimiter.Level] = []
        for bytes in fields.all(SnapshotSection.Device.level) {
            guard bytes.count == 28, let index: UInt16 = bytes.integer(at: 0), index < 2,
                let kind: UInt16 = bytes.integer(at: 2), kind < 2, let available: UInt64 = bytes.integer(at: 4),
                let debt: UInt64 = bytes.integer(at: 12), let burst: UInt64 = bytes.integer(at: 20)
            else { throw .malformed("slot \(slot): a limiter's bucket") }
            while levels.count <= Int(index) { levels.append(RateLimiter.Level()) }
            let level = TokenBucket.Level(available: available, debt: debt, burst: burst)
            if kind == 0 { levels[Int(index)].bandwidth = level } else { levels[Int(index)].operations = level }
        }
        return levels
    }

    private static func readDevice(_ fields: FieldTable, slot: Int) throws(SnapshotFileError) -> SavedDevice {
        let type = UInt32(try fields.number(SnapshotSection.Device.type, limit: UInt64(UInt32.max)))
        let name = String(
            decoding: try fields.bytes(SnapshotSection.Device.name, multipleOf: 1, limit: DeviceIdentifier.limit),
            as: UTF8.self)
        guard let identity = DeviceIdentity(type: type, name: name) else {
            throw .malformed("slot \(slot) has a device of the unknown type \(type)")
        }
        func word(_ tag: UInt16) throws(SnapshotFileError) -> UInt32 {
            UInt32(try fields.number(tag, limit: UInt64(UInt32.max)))
        }
        var record = MMIOTransport.Record()
        record.acceptedFeatures = try fields.number(SnapshotSection.Device.acceptedFeatures)
        record.status = DeviceStatus(rawValue: try word(SnapshotSection.Device.status))
        record.configurationGeneration = try word(SnapshotSection.Device.generation)
        let selectors = try fields.bytes(SnapshotSection.Device.selectors, count: 12)
        record.deviceFeaturesSelected = selectors.integer(at: 0) ?? 0
        record.driverFeaturesSelected = selectors.integer(at: 4) ?? 0
        record.queueSelected = selectors.integer(at: 8) ?? 0
        record.configuration = try fields.bytes(SnapshotSection.Device.configuration, multipleOf: 1, limit: 4096)
        for bytes in fields.all(SnapshotSection.Device.queue) {
            guard bytes.count == 34 else { throw .malformed("slot \(slot): a queue of \(bytes.count) bytes") }
            var queue = QueueState()
            queue.size = bytes.integer(at: 0) ?? 0
            queue.isReady = bytes.integer(at: 2, as: UInt16.self) == 1
            queue.nextAvailable = bytes.integer(at: 4) ?? 0
            queue.nextUsed = bytes.integer(at: 6) ?? 0
            queue.consideredUsed = bytes.integer(at: 8) ?? 0
            queue.descriptorTable = bytes.integer(at: 10) ?? 0
            queue.availableRing = bytes.integer(at: 18) ?? 0
            queue.usedRing = bytes.integer(at: 26) ?? 0
            record.queues.append(queue)
        }
        var state = VirtioDeviceState(
            record: record, interruptStatus: try word(SnapshotSection.Device.interruptStatus),
            levels: try readLevels(fields, slot))
        if fields.has(SnapshotSection.Device.queuePairs) {
            state.queuePairs = UInt16(try fields.number(SnapshotSection.Device.queuePairs, limit: UInt64(UInt16.max)))
        }
        return SavedDevice(slot: slot, identity: identity, state: state)
    }
}

/// A section's fields by their tags. Every look says what is missing, or has a length that cannot be.
struct FieldTable {
    private let place: String
    private var fields: [UInt16: [[UInt8]]] = [:]

    init(_ payload: [UInt8], _ place: String) throws(SnapshotFileError) {
        self.place = place
        var reader = FieldReader(payload)
        while let field = reader.next() { fields[field.tag, default: []].append(field.bytes) }
        guard !reader.isMalformed else { throw .malformed("\(place): a field is longer than its section") }
    }

    func has(_ tag: UInt16) -> Bool { fields[tag] != nil }

    func all(_ tag: UInt16) -> [[UInt8]] { fields[tag] ?? [] }

    private func one(_ tag: UInt16) throws(SnapshotFileError) -> [UInt8] {
        guard let found = fields[tag], found.count == 1 else {
            throw .malformed("\(place): field \(tag) is there \(fields[tag]?.count ?? 0) times")
        }
        return found[0]
    }

    func bytes(_ tag: UInt16, count: Int) throws(SnapshotFileError) -> [UInt8] {
        let bytes = try one(tag)
        guard bytes.count == count else {
            throw .malformed("\(place): field \(tag) has \(bytes.count) bytes instead of \(count)")
        }
        return bytes
    }

    func bytes(_ tag: UInt16, multipleOf unit: Int, limit: Int) throws(SnapshotFileError) -> [UInt8] {
        let bytes = try one(tag)
        guard bytes.count % unit == 0, bytes.count <= limit else {
            throw .malformed("\(place): field \(tag) has \(bytes.count) bytes")
        }
        return bytes
    }

    func number(_ tag: UInt16, limit: UInt64 = .max) throws(SnapshotFileError) -> UInt64 {
        let bytes = try one(tag)
        guard (1...8).contains(bytes.count) else {
            throw .malformed("\(place): field \(tag) is a number of \(bytes.count) bytes")
        }
        var value: UInt64 = 0
        for (index, byte) in bytes.enumerated() { value |= UInt64(byte) << UInt64(8 * index) }
        guard value <= limit else { throw .malformed("\(place): field \(tag) is \(value)") }
        return value
    }

    /// Starts and counts; nothing beyond 2⁶³.
    func ranges(_ tag: UInt16) throws(SnapshotFileError) -> [Range<UInt64>] {
        var result: [Range<UInt64>] = []
        for bytes in all(tag) {
            guard bytes.count == 16, let start: UInt64 = bytes.integer(at: 0), let count: UInt64 = bytes.integer(at: 8),
                start <= UInt64(Int64.max), count <= UInt64(Int64.max) - start
            else { throw .malformed("\(place): field \(tag) is no range") }
            result.append(start..<(start + count))
        }
        return result
    }

    func cpuid(_ tag: UInt16) throws(SnapshotFileError) -> CPUIDTable {
        let bytes = try bytes(tag, multipleOf: 28, limit: 256 * 28)
        var entries: [CPUIDEntry] = []
        for start in stride(from: 0, to: bytes.count, by: 28) {
            func word(_ index: Int) -> UInt32 { bytes.integer(at: start + 4 * index) ?? 0 }
            entries.append(
                CPUIDEntry(
                    function: word(0), index: word(1), flags: word(2), eax: word(3), ebx: word(4), ecx: word(5),
                    edx: word(6)))
        }
        return CPUIDTable(entries: entries)
    }
}
