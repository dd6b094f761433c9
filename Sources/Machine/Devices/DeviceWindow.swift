// SPDX-License-Identifier: Apache-2.0

internal import Synchronization
internal import Virtio

/// A virtio-mmio window of the guest's, with a device behind it, or a spare one that a device may get later.
///
/// A spare one has magic number, version and vendor, and the device number 0, which tells drivers to leave it alone
/// (virtio 1.2 §4.2.2.2, §4.2.3.1.1). So has one whose device was taken away.
///
/// Its lock is held to look up the device, not while that does what it is asked. Notifications of queues do not come
/// this way.
final class DeviceWindow: Sendable {
    let slot: DeviceSlot
    private let content = Mutex<(device: VirtioMMIODevice, identity: DeviceIdentity)?>(nil)

    /// A spare one.
    init(_ slot: DeviceSlot) {
        self.slot = slot
    }

    /// The device behind it. For any thread.
    var device: VirtioMMIODevice? { content.withLock { $0?.device } }

    /// The name of that device.
    var identity: DeviceIdentity? { content.withLock { $0?.identity } }

    /// Puts a device behind a spare window. One caller at a time.
    func fill(_ device: VirtioMMIODevice, _ identity: DeviceIdentity) {
        content.withLock { content in
            precondition(content == nil, "a window has one device")
            content = (device, identity)
        }
    }

    /// Takes the device away; the window is a spare one again.
    func empty() {
        content.withLock { $0 = nil }
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
