// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform

/// The host's KVM: what `/dev/kvm` gives (KVM API documentation, section 4, "System ioctls").
package struct KVMSystem: ~Copyable, Sendable {
    package static let defaultPath = "/dev/kvm"

    let descriptor: Descriptor
    /// The size of the page that a vCPU shares with its monitor, in bytes.
    let sharedSizeInBytes: Int

    /// Opens the device and checks its version.
    package init(path: String = KVMSystem.defaultPath) throws(KVMError) {
        let device = try Self.open(path)
        let version = try Self.version(device, path)
        guard version == 12 else { throw .version(version) }
        let size = try control(device, CLINUX_KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE")
        descriptor = device
        sharedSizeInBytes = Int(size)
    }

    private static func version(_ device: borrowing Descriptor, _ path: String) throws(KVMError) -> Int32 {
        do throws(KVMError) {
            return try control(device, CLINUX_KVM_GET_API_VERSION, "KVM_GET_API_VERSION")
        } catch {
            // ENOTTY: some other device or file.
            throw .deviceMissing(path)
        }
    }

    private static func open(_ path: String) throws(KVMError) -> Descriptor {
        do throws(SystemError) {
            return try Descriptor.open(path, .readWrite)
        } catch {
            switch error.code {
            case ENOENT, ENODEV, ENXIO: throw .deviceMissing(path)
            case EACCES, EPERM: throw .accessDenied(path)
            default: throw .call(error)
            }
        }
    }

    /// What KVM answers for a capability: 0 where it is missing, else 1 or a number that the capability defines.
    package borrowing func value(of capability: StaticCapability) -> Int32 {
        max(0, clinux_ioctl(descriptor.raw, CLINUX_KVM_CHECK_EXTENSION, UInt(capability.number)))
    }

    /// Fails with the first of the capabilities that is missing.
    package borrowing func require(_ capabilities: [StaticCapability]) throws(KVMError) {
        for capability in capabilities where value(of: capability) == 0 { throw .capabilityMissing(capability) }
    }

    /// A new VM without memory, devices or vCPUs.
    package borrowing func createVM() throws(KVMError) -> VM {
        let raw = try control(descriptor, CLINUX_KVM_CREATE_VM, "KVM_CREATE_VM")
        return VM(descriptor: Descriptor(owning: raw), sharedSizeInBytes: sharedSizeInBytes)
    }
}

extension StaticCapability {
    package static let irqchip = StaticCapability(name: "KVM_CAP_IRQCHIP", number: KVM_CAP_IRQCHIP)
    package static let userMemory = StaticCapability(name: "KVM_CAP_USER_MEMORY", number: KVM_CAP_USER_MEMORY)
    package static let irqfd = StaticCapability(name: "KVM_CAP_IRQFD", number: KVM_CAP_IRQFD)
    package static let ioeventfd = StaticCapability(name: "KVM_CAP_IOEVENTFD", number: KVM_CAP_IOEVENTFD)
    package static let immediateExit = StaticCapability(
        name: "KVM_CAP_IMMEDIATE_EXIT", number: KVM_CAP_IMMEDIATE_EXIT)
    package static let memorySlots = StaticCapability(name: "KVM_CAP_NR_MEMSLOTS", number: KVM_CAP_NR_MEMSLOTS)
    /// Its value is the largest number of vCPUs of a VM.
    package static let maximumVCPUs = StaticCapability(name: "KVM_CAP_MAX_VCPUS", number: KVM_CAP_MAX_VCPUS)
}
