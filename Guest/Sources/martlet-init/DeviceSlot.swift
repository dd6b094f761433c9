// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
#else
import CGuest
#endif

/// A place among the machine's virtio devices that was empty when the kernel looked, and has a device in it now.
enum DeviceSlot {
    /// Has the kernel look again. When this returns the device is there, with its node in /dev.
    static func find(_ slot: UInt8) throws(SystemFailure) {
        try tell("bind", slot, "find the device in slot")
    }

    /// Has the kernel let go of the device. When this returns nothing uses it any more.
    static func release(_ slot: UInt8) throws(SystemFailure) {
        try tell("unbind", slot, "let go of the device in slot")
    }

    private static func tell(
        _ file: StaticString, _ slot: UInt8, _ what: StaticString
    ) throws(SystemFailure) {
        let driver = try System.open(
            text("/sys/bus/platform/drivers/virtio-mmio/") + text(file), guest_write_only)
        // As the kernel names what ACPI announces, and what its command line does.
        let names = [text("LNRO0005:") + hexadecimal(slot), text("virtio-mmio.") + text(slot)]
        var outcome = 0
        for name in names {
            outcome = guest_write(driver.raw, name, name.count)
            if outcome >= 0 || outcome != -Int(guest_enodev) { break }
        }
        try System.check(outcome, what, text(slot))
    }

    private static func hexadecimal(_ number: UInt8) -> [UInt8] {
        let digits = text("0123456789abcdef")
        return [digits[Int(number >> 4)], digits[Int(number & 15)]]
    }
}
