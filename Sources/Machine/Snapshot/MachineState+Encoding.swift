// SPDX-License-Identifier: Apache-2.0

internal import KVM
internal import MachineAPI
internal import Virtio
internal import Wire

/// The kinds of sections, and the fields in them. Docs/SNAPSHOT-FORMAT.md has the same numbers.
enum SnapshotSection {
    static let snapshot: UInt32 = 1
    static let configuration: UInt32 = 2
    static let memory: UInt32 = 3
    static let host: UInt32 = 4
    static let chipset: UInt32 = 5
    static let vcpu: UInt32 = 6
    static let serial: UInt32 = 7
    static let slots: UInt32 = 8
    static let device: UInt32 = 9
    static let keyboard: UInt32 = 10

    static let known: Set<UInt32> = [
        snapshot, configuration, memory, host, chipset, vcpu, serial, slots, device, keyboard,
    ]

    enum Snapshot {
        static let identifier: UInt16 = 1
        static let kind: UInt16 = 2
        static let wallClock: UInt16 = 3
        static let parent: UInt16 = 4
    }

    enum Memory {
        static let range: UInt16 = 1
        static let part: UInt16 = 2
    }

    enum Host {
        static let cpuid: UInt16 = 1
        static let modelSpecificRegisters: UInt16 = 2
        static let extendedStateSize: UInt16 = 3
        static let timestampFrequency: UInt16 = 4
        static let nestedStateSize: UInt16 = 5
    }

    enum Chipset {
        static let interruptController: UInt16 = 1
        static let timer: UInt16 = 2
        static let clock: UInt16 = 3
    }

    enum VCPU {
        static let multiprocessing: UInt16 = 16
        static let cpuid: UInt16 = 17
        static let modelSpecificRegisters: UInt16 = 18
        static let timestampFrequency: UInt16 = 19

        static func tag(_ part: VCPUState.Part) -> UInt16 {
            switch part {
            case .registers: 1
            case .specialRegisters: 2
            case .extendedControlRegisters: 3
            case .debugRegisters: 4
            case .localAPIC: 5
            case .events: 6
            case .extendedState: 7
            case .nested: 8
            }
        }
    }

    enum Serial {
        static let registers: UInt16 = 1
        static let received: UInt16 = 2
    }

    enum Keyboard {
        static let registers: UInt16 = 1
        static let output: UInt16 = 2
    }

    enum Slots {
        static let count: UInt16 = 1
        static let firstWindow: UInt16 = 2
        static let interrupts: UInt16 = 3
    }

    enum Device {
        static let type: UInt16 = 1
        static let name: UInt16 = 2
        static let acceptedFeatures: UInt16 = 3
        static let status: UInt16 = 4
        static let interruptStatus: UInt16 = 5
        static let generation: UInt16 = 6
        static let selectors: UInt16 = 7
        static let configuration: UInt16 = 8
        static let queue: UInt16 = 9
        static let level: UInt16 = 10
        static let queuePairs: UInt16 = 11
    }
}

extension MachineState {
    func encoded() -> [UInt8] {
        var sections = [
            section(SnapshotSection.snapshot, encodeSnapshot()),
            SnapshotFile.Section(kind: SnapshotSection.configuration, payload: configuration.json.encoded()),
            section(SnapshotSection.memory, encodeMemory()),
            section(SnapshotSection.host, encodeHost()),
            section(SnapshotSection.chipset, encodeChipset()),
            section(SnapshotSection.serial, serial.fields),
            section(SnapshotSection.slots, encodeSlots()),
            // Monitors before it did without, and still can.
            SnapshotFile.Section(kind: SnapshotSection.keyboard, isRequired: false, payload: keyboard.fields.bytes),
        ]
        for (index, vcpu) in vcpus.enumerated() {
            sections.append(section(SnapshotSection.vcpu, encode(vcpu), index: index))
        }
        for device in devices {
            sections.append(section(SnapshotSection.device, encode(device), index: device.slot))
        }
        return SnapshotFile(monitor: monitorVersion, sections: sections).encoded()
    }

    private func section(_ kind: UInt32, _ fields: FieldWriter, index: Int = 0) -> SnapshotFile.Section {
        SnapshotFile.Section(kind: kind, index: UInt32(index), payload: fields.bytes)
    }

    private func encodeSnapshot() -> FieldWriter {
        var fields = FieldWriter()
        fields.append(SnapshotSection.Snapshot.identifier, identifier.bytes)
        fields.append(SnapshotSection.Snapshot.kind, number: kind == .full ? 0 : 1 as UInt8)
        fields.append(SnapshotSection.Snapshot.wallClock, number: wallClock)
        if let parent { fields.append(SnapshotSection.Snapshot.parent, parent.bytes) }
        return fields
    }

    private func encodeMemory() -> FieldWriter {
        var fields = FieldWriter()
        for range in memoryRanges { fields.append(SnapshotSection.Memory.range, Self.encode(range)) }
        for part in memoryParts { fields.append(SnapshotSection.Memory.part, Self.encode(part)) }
        return fields
    }

    private static func encode(_ range: Range<UInt64>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendInteger(range.lowerBound)
        bytes.appendInteger(range.upperBound - range.lowerBound)
        return bytes
    }

    private func encodeHost() -> FieldWriter {
        var fields = FieldWriter()
        fields.append(SnapshotSection.Host.cpuid, Self.encode(host.cpuid))
        var numbers: [UInt8] = []
        for number in host.modelSpecificRegisters { numbers.appendInteger(number) }
        fields.append(SnapshotSection.Host.modelSpecificRegisters, numbers)
        fields.append(SnapshotSection.Host.extendedStateSize, number: UInt32(host.extendedStateSize))
        fields.append(SnapshotSection.Host.timestampFrequency, number: host.timestampFrequencyInKHz)
        fields.append(SnapshotSection.Host.nestedStateSize, number: UInt32(host.nestedStateSize))
        return fields
    }

    private func encodeChipset() -> FieldWriter {
        var fields = FieldWriter()
        for controller in chipset.interruptControllers {
            fields.append(SnapshotSection.Chipset.interruptController, controller)
        }
        fields.append(SnapshotSection.Chipset.timer, chipset.timer)
        fields.append(SnapshotSection.Chipset.clock, number: chipset.clock)
        return fields
    }

    private func encodeSlots() -> FieldWriter {
        var fields = FieldWriter()
        fields.append(SnapshotSection.Slots.count, number: UInt32(slotCount))
        fields.append(SnapshotSection.Slots.firstWindow, number: GuestLayout.deviceWindows)
        fields.append(
            SnapshotSection.Slots.interrupts,
            GuestLayout.deviceInterrupts.prefix(slotCount).map { UInt8(truncatingIfNeeded: $0) })
        return fields
    }

    private func encode(_ vcpu: VCPUState) -> FieldWriter {
        var fields = FieldWriter()
        for part in VCPUState.Part.allCases {
            if let bytes = vcpu.parts[part] { fields.append(SnapshotSection.VCPU.tag(part), bytes) }
        }
        fields.append(SnapshotSection.VCPU.multiprocessing, number: vcpu.multiprocessing)
        fields.append(SnapshotSection.VCPU.cpuid, Self.encode(vcpu.cpuid))
        var registers: [UInt8] = []
        for register in vcpu.modelSpecificRegisters {
            registers.appendInteger(register.number)
            registers.appendInteger(register.value)
        }
        fields.append(SnapshotSection.VCPU.modelSpecificRegisters, registers)
        fields.append(SnapshotSection.VCPU.timestampFrequency, number: vcpu.timestampFrequencyInKHz)
        return fields
    }

    /// Function, index, flags, EAX, EBX, ECX, EDX.
    private static func encode(_ table: CPUIDTable) -> [UInt8] {
        var bytes: [UInt8] = []
        for entry in table.entries {
            for word in [entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx] {
                bytes.appendInteger(word)
            }
        }
        return bytes
    }

    private func encode(_ device: SavedDevice) -> FieldWriter {
        var fields = FieldWriter()
        let record = device.state.record
        fields.append(SnapshotSection.Device.type, number: device.identity.type)
        fields.append(SnapshotSection.Device.name, Array(device.identity.name.utf8))
        fields.append(SnapshotSection.Device.acceptedFeatures, number: record.acceptedFeatures)
        fields.append(SnapshotSection.Device.status, number: record.status.rawValue)
        fields.append(SnapshotSection.Device.interruptStatus, number: device.state.interruptStatus)
        fields.append(SnapshotSection.Device.generation, number: record.configurationGeneration)
        var selectors: [UInt8] = []
        for selector in [record.deviceFeaturesSelected, record.driverFeaturesSelected, record.queueSelected] {
            selectors.appendInteger(selector)
        }
        fields.append(SnapshotSection.Device.selectors, selectors)
        fields.append(SnapshotSection.Device.configuration, record.configuration)
        for queue in record.queues {
            var bytes: [UInt8] = []
            bytes.appendInteger(queue.size)
            bytes.appendInteger(queue.isReady ? 1 : 0 as UInt16)
            bytes.appendInteger(queue.nextAvailable)
            bytes.appendInteger(queue.nextUsed)
            bytes.appendInteger(queue.consideredUsed)
            bytes.appendInteger(queue.descriptorTable)
            bytes.appendInteger(queue.availableRing)
            bytes.appendInteger(queue.usedRing)
            fields.append(SnapshotSection.Device.queue, bytes)
        }
        if let pairs = device.state.queuePairs { fields.append(SnapshotSection.Device.queuePairs, number: pairs) }
        for (index, levels) in device.state.levels.enumerated() {
            for (kind, level) in [levels.bandwidth, levels.operations].enumerated() {
                guard let level else { continue }
                var bytes: [UInt8] = []
                bytes.appendInteger(UInt16(truncatingIfNeeded: index))
                bytes.appendInteger(UInt16(truncatingIfNeeded: kind))
                for tokens in [level.available, level.debt, level.burst] { bytes.appendInteger(tokens) }
                fields.append(SnapshotSection.Device.level, bytes)
            }
        }
        return fields
    }
}
