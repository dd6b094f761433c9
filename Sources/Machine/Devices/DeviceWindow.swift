// SPDX-License-Identifier: Apache-2.0

internal import Synchronization
internal import Virtio

/// A virtio-mmio window of the guest's, with a device behind it, or a spare one that a device may get later.
///
/// A spare one has magic number, version and vendor, and the device number 0, which tells drivers to leave it alone
/// (virtio 1.2 §4.2.2.2, §4.2.3.1.1). A device that is there stays there.
///
/// `@unchecked Sendable`: the device is written once, before `isFilled`, and read after it.
final class DeviceWindow: @unchecked Sendable {
    let slot: DeviceSlot
    private var content: VirtioMMIODevice?
    private var contentIdentity: DeviceIdentity?
    private let isFilled = Atomic(false)

    /// A spare one.
    init(_ slot: DeviceSlot) {
        self.slot = slot
    }

    /// The device behind it. For any thread.
    var device: VirtioMMIODevice? {
        isFilled.load(ordering: .acquiring) ? content : nil
    }

    /// The name of that device.
    var identity: DeviceIdentity? {
        isFilled.load(ordering: .acquiring) ? contentIdentity : nil
    }

    /// Puts a device behind a spare window. One caller at a time.
    func fill(_ device: VirtioMMIODevice, _ identity: DeviceIdentity) {
        precondition(content == nil, "a window has one device")
        content = device
        contentIdentity = identity
        isFilled.store(true, ordering: .releasing)
    }

    func read(offset: UInt64, into bytes: UnsafeMutableRawBufferPointer) {
        if let device { return unsafe device.read(offset: offset, into: bytes) }
        let value = Self.spare.read(offset, width: bytes.count, interruptStatus: 0)
        for index in 0..<bytes.count {
            unsafe bytes[index] = index < 8 ? UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) : 0
        }
    }

    func write(offset: UInt64, bytes: UnsafeRawBufferPointer) {
        unsafe device?.write(offset: offset, bytes: bytes)
    }

    private static let spare = MMIOTransport(
        deviceID: 0, features: 0, queueCount: 0, maximumQueueSize: 0, configuration: [])
}
