// SPDX-License-Identifier: Apache-2.0

/// What a guest did to the machine as a whole, told by one of the devices.
package enum MachineEvent: Equatable, Sendable {
    /// It switched itself off (ACPI S5).
    case powerOff
    /// It asked for a reset (i8042, ACPI reset register).
    case reboot
    /// Its kernel panicked (pvpanic).
    case panic
}

/// Where devices report: called on the vCPU thread whose access it was.
package typealias MachineEventHandler = @Sendable (MachineEvent) -> Void
