// SPDX-License-Identifier: Apache-2.0

/// Why settings contradict themselves, as clients of Firecracker's API know it.
struct SettingsError: Error, Equatable {
    let text: String

    static let vcpuCount = SettingsError(
        text: "The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is "
            + "enabled.")
    static let memorySize = SettingsError(
        text: "The memory size (MiB) is either 0, or not a multiple of the configured page size.")
}

extension MachineSettings {
    /// These settings with some changed. How much memory there is to have is seen when the machine starts.
    func updated(by update: MachineUpdate) -> Result<MachineSettings, SettingsError> {
        var settings = self
        settings.vcpuCount = update.vcpuCount ?? vcpuCount
        settings.memoryInMiB = update.memoryInMiB ?? memoryInMiB
        settings.simultaneousMultithreading = update.simultaneousMultithreading ?? simultaneousMultithreading
        settings.tracksDirtyPages = update.tracksDirtyPages ?? tracksDirtyPages
        settings.hugePages = update.hugePages ?? hugePages
        settings.acpi = update.acpi ?? acpi
        guard (1...32).contains(settings.vcpuCount) else { return .failure(.vcpuCount) }
        if settings.simultaneousMultithreading, settings.vcpuCount > 1, !settings.vcpuCount.isMultiple(of: 2) {
            return .failure(.vcpuCount)
        }
        guard settings.memoryInMiB > 0 else { return .failure(.memorySize) }
        if settings.hugePages.wantsWholePages, !settings.memoryInMiB.isMultiple(of: 2) {
            return .failure(.memorySize)
        }
        return .success(settings)
    }
}

extension BootSource {
    /// What is wrong with it that can be said without the host's files.
    var problem: String? {
        guard let arguments else { return nil }
        guard arguments.utf8.count < 2048 else {
            return "The kernel command line is invalid: Command line string overruns limit."
        }
        guard arguments.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7f }) else {
            return "The kernel command line is invalid: String contains a non-printable ASCII character."
        }
        return nil
    }
}
