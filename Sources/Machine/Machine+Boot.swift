// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import MachineAPI
internal import Platform
internal import Virtio

/// A kernel with its command line and initrd, put into a guest's memory.
struct BootLoader {
    let source: BootSource
    let memory: GuestMemory
    let sizeInBytes: UInt64
    let vcpuCount: Int
    let devices: [DeviceSlot]
    let acpi: Bool
    /// What the configuration's arguments are followed by.
    let additionalArguments: String

    private var lowMemoryEnd: UInt64 { min(sizeInBytes, GuestLayout.holeStart) }

    /// Loads everything; gives the boot processor's state.
    func load() throws(MachineError) -> ProcessorState {
        let field = source.kernel.descriptor == nil ? "boot-source.kernel_image_path" : "boot-source.kernel_image_fd"
        let file = try open(source.kernel, field)
        let size = try system("\(field) \(source.kernel)") { () throws(SystemError) in try file.size() }
        let kernel = try parse(file, size, field)
        for segment in kernel.segments {
            let isWhole = try system("\(field) \(source.kernel)") { () throws(SystemError) in
                try memory.load(
                    file, fileOffset: segment.fileOffset, count: segment.fileCount, at: segment.guestAddress)
            }
            guard isWhole else {
                throw .configuration(field: field, problem: "\(source.kernel) shrank while it was read")
            }
        }
        let arguments = try commandLine(limit: kernel.commandLineLimit)
        let initrd = try loadInitrd(above: kernel.highestAddress)
        let information = BootInformation(
            memoryMap: GuestLayout.memoryMap(sizeInBytes: sizeInBytes), initrd: initrd, hasACPI: acpi)
        let processor = ProcessorState(entry: kernel.entry)
        store(arguments + [0], at: GuestLayout.commandLine)
        store(processor.descriptorTable(), at: GuestLayout.descriptorTable)
        switch kernel.entry {
        case .pvh:
            store(information.startInformation(), at: GuestLayout.startInformation)
        case .linux64:
            store(information.zeroPage(setupHeader: kernel.setupHeader), at: GuestLayout.zeroPage)
            store(processor.pageTables(), at: GuestLayout.pageTables)
        }
        store(
            MPTable.bytes(vcpuCount: vcpuCount, address: GuestLayout.multiprocessorTable),
            at: GuestLayout.multiprocessorTable)
        if acpi {
            let tables = ACPITables(vcpuCount: vcpuCount, devices: devices)
            store(tables.bytes(at: GuestLayout.acpiTables), at: GuestLayout.acpiTables)
        }
        return processor
    }

    private func open(_ file: HostFile, _ field: String) throws(MachineError) -> Descriptor {
        if let path = file.path, Files.isDirectory(path) {
            throw .configuration(field: field, problem: "\(path) is a directory")
        }
        return try file.open(isReadOnly: true, field)
    }

    private func parse(
        _ file: borrowing Descriptor, _ size: UInt64, _ field: String
    ) throws(MachineError) -> KernelImage {
        let raw = file.raw
        do throws(KernelImageError) {
            return try KernelImage.parse(fileSize: size, lowMemoryEnd: lowMemoryEnd) {
                (offset, count) throws(KernelImageError) in
                var bytes = [UInt8](repeating: 0, count: count)
                guard let start = off_t(exactly: offset) else { return [] }
                let got = unsafe bytes.withUnsafeMutableBytes { space in
                    retryingInterrupts { unsafe pread(raw, space.baseAddress, space.count, start) }
                }
                guard got >= 0 else { throw .unreadable(SystemError("pread").reason) }
                bytes.removeSubrange(got...)
                return bytes
            }
        } catch {
            let path = source.kernel
            switch error {
            case .notAKernel(let reason):
                throw .configuration(field: field, problem: "\(path) is not a kernel that can be booted: \(reason)")
            case .memoryTooSmall(let needed):
                throw .configuration(
                    field: "machine-config.mem_size_mib",
                    problem: "the kernel \(path) needs memory up to \(needed >> 20) MiB, the machine has "
                        + "\(lowMemoryEnd >> 20) MiB there; give it more")
            case .unreadable(let reason):
                throw .configuration(field: field, problem: "cannot read \(path): \(reason)")
            }
        }
    }

    private func commandLine(limit: Int) throws(MachineError) -> [UInt8] {
        var text = source.arguments ?? BootSource.defaultArguments
        if !additionalArguments.isEmpty { text += text.isEmpty ? additionalArguments : " " + additionalArguments }
        if !acpi {
            for device in devices {
                text += " virtio_mmio.device=4K@0x\(String(device.address, radix: 16)):\(device.interrupt)"
            }
        }
        let bytes = Array(text.utf8)
        guard bytes.count <= limit else {
            throw .configuration(
                field: "boot-source.boot_args",
                problem: "with what the monitor adds it has \(bytes.count) bytes; this kernel takes \(limit)")
        }
        return bytes
    }

    private func loadInitrd(above lowest: UInt64) throws(MachineError) -> Range<UInt64>? {
        guard let path = source.initrd else { return nil }
        let field = path.descriptor == nil ? "boot-source.initrd_path" : "boot-source.initrd_fd"
        let file = try open(path, field)
        let size = try system("\(field) \(path)") { () throws(SystemError) in try file.size() }
        guard size > 0 else { throw .configuration(field: field, problem: "\(path) is empty") }
        guard
            let address = GuestLayout.initrdAddress(countInBytes: size, sizeInBytes: sizeInBytes, lowest: lowest)
        else {
            throw .configuration(
                field: "machine-config.mem_size_mib",
                problem: "the initrd \(path) of \(size >> 20) MiB does not fit beside the kernel; "
                    + "the machine has \(lowMemoryEnd >> 20) MiB there")
        }
        let isWhole = try system("\(field) \(path)") { () throws(SystemError) in
            try memory.load(file, fileOffset: 0, count: size, at: address)
        }
        guard isWhole else { throw .configuration(field: field, problem: "\(path) shrank while it was read") }
        return address..<(address + size)
    }

    private func store(_ bytes: [UInt8], at address: UInt64) {
        do throws(VirtioError) { try memory.write(bytes, at: address) } catch {
            preconditionFailure("the low 640 KiB are memory in every machine")
        }
    }
}
