// SPDX-License-Identifier: Apache-2.0

/// The registers of virtio over MMIO, version 2 (virtio 1.2 §4.2.2).
package enum MMIORegister {
    package static let magicValue: UInt64 = 0x000
    package static let version: UInt64 = 0x004
    package static let deviceID: UInt64 = 0x008
    package static let vendorID: UInt64 = 0x00c
    package static let deviceFeatures: UInt64 = 0x010
    package static let deviceFeaturesSel: UInt64 = 0x014
    package static let driverFeatures: UInt64 = 0x020
    package static let driverFeaturesSel: UInt64 = 0x024
    package static let queueSel: UInt64 = 0x030
    package static let queueNumMax: UInt64 = 0x034
    package static let queueNum: UInt64 = 0x038
    package static let queueReady: UInt64 = 0x044
    package static let queueNotify: UInt64 = 0x050
    package static let interruptStatus: UInt64 = 0x060
    package static let interruptACK: UInt64 = 0x064
    package static let status: UInt64 = 0x070
    package static let queueDescLow: UInt64 = 0x080
    package static let queueDescHigh: UInt64 = 0x084
    package static let queueDriverLow: UInt64 = 0x090
    package static let queueDriverHigh: UInt64 = 0x094
    package static let queueDeviceLow: UInt64 = 0x0a0
    package static let queueDeviceHigh: UInt64 = 0x0a4
    package static let shmLenLow: UInt64 = 0x0b0
    package static let shmBaseHigh: UInt64 = 0x0bc
    package static let configGeneration: UInt64 = 0x0fc
    /// The device's own configuration starts here.
    package static let config: UInt64 = 0x100
}

/// The bits of the device status field (virtio 1.2 §2.1).
package struct DeviceStatus: OptionSet, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }
    package static let acknowledge = DeviceStatus(rawValue: 1)
    package static let driver = DeviceStatus(rawValue: 2)
    package static let driverOK = DeviceStatus(rawValue: 4)
    package static let featuresOK = DeviceStatus(rawValue: 8)
    /// Set by the device: it met something it cannot go on from.
    package static let needsReset = DeviceStatus(rawValue: 64)
    package static let failed = DeviceStatus(rawValue: 128)
}

/// The registers of one device and what driver and device have agreed on, as a value: no memory, no descriptors, no
/// threads.
///
/// The status runs 0 → ACKNOWLEDGE → DRIVER → FEATURES_OK → DRIVER_OK (§3.1.1); bits are only added, until a write of 0
/// resets. Illegal input is of three kinds, and none of it does anything:
/// - registers that do not exist, are read-only, or are accessed in another width than §4.2.2.2 allows;
/// - registers written at the wrong time: features after FEATURES_OK, a queue's layout while it is ready, any layout
///   after DRIVER_OK;
/// - status bits that skip a step: FEATURES_OK with features that were not offered or without VERSION_1 is not taken,
///   which the driver sees when it reads the status again; DRIVER_OK needs FEATURES_OK.
package struct MMIOTransport: Equatable, Sendable {
    /// VIRTIO_F_VERSION_1: without it there is no agreement with this device.
    package static let version1: UInt64 = 1 << 32

    /// What a write asks of the device behind the registers.
    package enum Effect: Equatable, Sendable {
        case none
        /// The driver is ready: start.
        case activate
        /// The driver wants the device as it was in the beginning. The registers still show the time before; call
        /// `reset` once the device has let go of guest memory.
        case reset
        /// There are chains in this queue.
        case notify(queue: Int)
        /// These bits of the interrupt status were seen.
        case acknowledge(UInt32)
    }

    package let deviceID: UInt32
    /// What the device offers; VERSION_1 always.
    package let offeredFeatures: UInt64
    /// The limit of every queue's size.
    package let maximumQueueSize: UInt16
    /// What the driver accepts: in force from FEATURES_OK on.
    package private(set) var acceptedFeatures: UInt64 = 0
    package private(set) var status: DeviceStatus = []
    package internal(set) var queues: [QueueState]
    /// The device's own configuration, read-only to the driver.
    package private(set) var configuration: [UInt8]
    package private(set) var configurationGeneration: UInt32 = 0
    private var deviceFeaturesSelected: UInt32 = 0
    private var driverFeaturesSelected: UInt32 = 0
    private var queueSelected: UInt32 = 0

    package init(
        deviceID: UInt32, features: UInt64, queueCount: Int, maximumQueueSize: UInt16, configuration: [UInt8]
    ) {
        self.deviceID = deviceID
        offeredFeatures = features | Self.version1
        self.maximumQueueSize = maximumQueueSize
        self.configuration = configuration
        queues = Array(repeating: QueueState(), count: queueCount)
    }

    /// Whether the driver uses the device.
    package var isActive: Bool { status.contains(.driverOK) && !status.contains(.needsReset) }

    // MARK: - Reading

    /// Reads up to 8 bytes, little-endian. Registers answer 4 bytes, the device's configuration 1, 2, 4 or 8; anything
    /// else reads as 0.
    package func read(_ offset: UInt64, width: Int, interruptStatus: UInt32) -> UInt64 {
        if offset >= MMIORegister.config { return readConfiguration(offset - MMIORegister.config, width) }
        guard width == 4, offset % 4 == 0 else { return 0 }
        return UInt64(register(offset, interruptStatus))
    }

    private func register(_ offset: UInt64, _ interruptStatus: UInt32) -> UInt32 {
        switch offset {
        case MMIORegister.magicValue: 0x7472_6976
        case MMIORegister.version: 2
        case MMIORegister.deviceID: deviceID
        case MMIORegister.vendorID: 0x544c_524d
        case MMIORegister.deviceFeatures: Self.half(offeredFeatures, deviceFeaturesSelected)
        case MMIORegister.queueNumMax: selectedQueue == nil ? 0 : UInt32(maximumQueueSize)
        case MMIORegister.queueReady: selectedQueue.map { queues[$0].isReady ? 1 : 0 } ?? 0
        case MMIORegister.interruptStatus: interruptStatus
        case MMIORegister.status: status.rawValue
        // A shared memory region that does not exist has length and base -1 (§4.2.2).
        case MMIORegister.shmLenLow...MMIORegister.shmBaseHigh: .max
        case MMIORegister.configGeneration: configurationGeneration
        default: 0
        }
    }

    private func readConfiguration(_ offset: UInt64, _ width: Int) -> UInt64 {
        guard width > 0, width <= 8, offset < UInt64(configuration.count) else { return 0 }
        var value: UInt64 = 0
        for index in 0..<width where Int(offset) + index < configuration.count {
            value |= UInt64(configuration[Int(offset) + index]) << UInt64(8 * index)
        }
        return value
    }

    private static func half(_ features: UInt64, _ selector: UInt32) -> UInt32 {
        switch selector {
        case 0: UInt32(truncatingIfNeeded: features)
        case 1: UInt32(truncatingIfNeeded: features >> 32)
        default: 0
        }
    }

    private var selectedQueue: Int? {
        queueSelected < UInt32(queues.count) ? Int(queueSelected) : nil
    }

    // MARK: - Writing

    /// Writes a register; anything but 4 aligned bytes is ignored, as are writes to the device's configuration, of
    /// which the driver may write nothing.
    package mutating func write(_ offset: UInt64, width: Int, value: UInt64) -> Effect {
        guard width == 4, offset % 4 == 0, offset < MMIORegister.config else { return .none }
        let value = UInt32(truncatingIfNeeded: value)
        switch offset {
        case MMIORegister.deviceFeaturesSel: deviceFeaturesSelected = value
        case MMIORegister.driverFeaturesSel: driverFeaturesSelected = value
        case MMIORegister.driverFeatures: acceptFeatures(value)
        case MMIORegister.queueSel: queueSelected = value
        case MMIORegister.queueNotify: return value < UInt32(queues.count) ? .notify(queue: Int(value)) : .none
        case MMIORegister.interruptACK: return .acknowledge(value)
        case MMIORegister.status: return changeStatus(DeviceStatus(rawValue: value))
        default: layOutQueue(offset, value)
        }
        return .none
    }

    private mutating func acceptFeatures(_ value: UInt32) {
        guard status.contains(.driver), !status.contains(.featuresOK) else { return }
        switch driverFeaturesSelected {
        case 0: acceptedFeatures = acceptedFeatures & ~0xffff_ffff | UInt64(value)
        case 1: acceptedFeatures = acceptedFeatures & 0xffff_ffff | UInt64(value) << 32
        default: break
        }
    }

    private mutating func layOutQueue(_ offset: UInt64, _ value: UInt32) {
        guard let index = selectedQueue, !status.contains(.driverOK) else { return }
        if offset == MMIORegister.queueReady {
            // Queues are laid out after the features are agreed on (§3.1.1).
            queues[index].isReady = value == 1 && status.contains(.featuresOK)
            return
        }
        guard !queues[index].isReady else { return }
        let low = UInt64(value)
        let high = UInt64(value) << 32
        switch offset {
        case MMIORegister.queueNum: queues[index].size = UInt16(clamping: value)
        case MMIORegister.queueDescLow: Self.setLow(&queues[index].descriptorTable, low)
        case MMIORegister.queueDescHigh: Self.setHigh(&queues[index].descriptorTable, high)
        case MMIORegister.queueDriverLow: Self.setLow(&queues[index].availableRing, low)
        case MMIORegister.queueDriverHigh: Self.setHigh(&queues[index].availableRing, high)
        case MMIORegister.queueDeviceLow: Self.setLow(&queues[index].usedRing, low)
        case MMIORegister.queueDeviceHigh: Self.setHigh(&queues[index].usedRing, high)
        default: break
        }
    }

    private static func setLow(_ address: inout UInt64, _ low: UInt64) { address = address & ~0xffff_ffff | low }
    private static func setHigh(_ address: inout UInt64, _ high: UInt64) { address = address & 0xffff_ffff | high }

    private mutating func changeStatus(_ wanted: DeviceStatus) -> Effect {
        guard wanted != [] else { return .reset }
        let before = status
        var after = wanted.intersection([.acknowledge, .driver, .featuresOK, .driverOK, .failed])
        // Bits are never cleared one by one; NEEDS_RESET is ours alone.
        after.formUnion(before)
        if after.contains(.driver), !after.contains(.acknowledge) { return .none }
        if after.contains(.featuresOK), !before.contains(.featuresOK) {
            let agreed =
                after.contains(.driver) && acceptedFeatures & ~offeredFeatures == 0
                && acceptedFeatures & Self.version1 != 0
            if !agreed { after.remove(.featuresOK) }
        }
        if after.contains(.driverOK), !after.contains(.featuresOK) { after.remove(.driverOK) }
        status = after
        return after.contains(.driverOK) && !before.contains(.driverOK) ? .activate : .none
    }

    // MARK: - The device's side

    /// Everything as in the beginning, but for the configuration and its generation.
    package mutating func reset() {
        acceptedFeatures = 0
        status = []
        deviceFeaturesSelected = 0
        driverFeaturesSelected = 0
        queueSelected = 0
        for index in queues.indices { queues[index] = QueueState() }
    }

    /// What driver and device have made of the registers: with the kind of device, all of their state.
    package struct Record: Equatable, Sendable {
        package var acceptedFeatures: UInt64 = 0
        package var status: DeviceStatus = []
        package var queues: [QueueState] = []
        package var configuration: [UInt8] = []
        package var configurationGeneration: UInt32 = 0
        package var deviceFeaturesSelected: UInt32 = 0
        package var driverFeaturesSelected: UInt32 = 0
        package var queueSelected: UInt32 = 0

        package init() {}
    }

    package var record: Record {
        var record = Record()
        record.acceptedFeatures = acceptedFeatures
        record.status = status
        record.queues = queues
        record.configuration = configuration
        record.configurationGeneration = configurationGeneration
        record.deviceFeaturesSelected = deviceFeaturesSelected
        record.driverFeaturesSelected = driverFeaturesSelected
        record.queueSelected = queueSelected
        return record
    }

    /// Goes on from a record. The device's own configuration stays what it is here; where the record's is another, its
    /// generation is a new one.
    /// - Returns: false, and nothing is changed, when the record is not of such a device: it has other queues, or its
    ///   driver accepted what this device does not offer.
    package mutating func resume(_ record: Record) -> Bool {
        guard record.queues.count == queues.count, record.acceptedFeatures & ~offeredFeatures == 0,
            record.queues.allSatisfy({ !$0.isReady || $0.size <= maximumQueueSize })
        else { return false }
        acceptedFeatures = record.acceptedFeatures
        status = record.status
        queues = record.queues
        configurationGeneration = record.configurationGeneration &+ (record.configuration == configuration ? 0 : 1)
        deviceFeaturesSelected = record.deviceFeaturesSelected
        driverFeaturesSelected = record.driverFeaturesSelected
        queueSelected = record.queueSelected
        return true
    }

    /// The device cannot go on; the driver has to reset it.
    package mutating func failDevice() {
        status.insert(.needsReset)
    }

    /// Changes the device's configuration, which gets a new generation.
    package mutating func setConfiguration(_ bytes: [UInt8]) {
        configuration = bytes
        configurationGeneration &+= 1
    }

    /// Notes where a queue stands, for a state that is to be kept.
    package mutating func setQueue(_ index: Int, _ state: QueueState) {
        queues[index] = state
    }
}
