// SPDX-License-Identifier: Apache-2.0

package import Platform

/// Why KVM could not do what it was asked for.
package enum KVMError: Error, Equatable, Sendable {
    /// There is no KVM device at this path.
    case deviceMissing(String)
    /// The user may not open the device.
    case accessDenied(String)
    /// KVM speaks another version of its interface than 12, the only one there has been since Linux 2.6.22.
    case version(Int32)
    /// KVM lacks a capability that a machine cannot do without.
    case capabilityMissing(StaticCapability)
    /// A call failed.
    case call(SystemError)
}

/// A capability by its name in KVM's documentation.
package struct StaticCapability: Equatable, Sendable {
    package let name: StaticString
    let number: Int32

    package static func == (one: StaticCapability, other: StaticCapability) -> Bool { one.number == other.number }
}

extension KVMError: CustomStringConvertible {
    /// What failed and how to mend it, in one line.
    package var description: String {
        switch self {
        case .deviceMissing(let path):
            "\(path) does not exist: the kernel's KVM module is not loaded (modprobe kvm_intel or kvm_amd), "
                + "virtualization is off in the firmware, or this is itself a machine without nested virtualization"
        case .accessDenied(let path):
            "no permission to open \(path): add the user to the group kvm (sudo usermod -aG kvm $USER, then log in "
                + "again), or, in a container, pass the device in"
        case .version(let version):
            "KVM's interface has version \(version), but only version 12 is known"
        case .capabilityMissing(let capability):
            "this kernel's KVM lacks \(capability.name)"
        case .call(let error):
            error.description
        }
    }
}
