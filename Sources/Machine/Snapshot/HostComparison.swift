// SPDX-License-Identifier: Apache-2.0

internal import KVM

/// Whether a machine that was saved under one host's KVM can go on under another's.
struct HostComparison {
    /// Time-stamp counters whose frequencies differ by less count as the same: the hosts have measured one.
    private static let toleranceInPartsPerMillion: UInt64 = 250

    let saved: MachineState
    let host: HostAbilities

    /// Fails with the first reason that there is against it.
    /// - Parameter acceptsOtherModel: family, model and stepping of the processor may differ.
    /// - Returns: whether the guest's time-stamp counter has to be scaled.
    func check(acceptsOtherModel: Bool) throws(MachineError) -> Bool {
        let vendor = Self.vendor(host.cpuid)
        let savedVendor = Self.vendor(saved.host.cpuid)
        guard vendor == savedVendor else {
            throw .incompatible("it ran on a processor by \(savedVendor), and this host's is by \(vendor)")
        }
        let model = Self.model(host.cpuid)
        let savedModel = Self.model(saved.host.cpuid)
        guard model == savedModel || acceptsOtherModel else {
            throw .incompatible("it ran on a processor of \(savedModel), and this host's is of \(model)")
        }
        guard host.extendedStateSize == saved.host.extendedStateSize else {
            throw .incompatible(
                "its XSAVE area has \(saved.host.extendedStateSize) bytes, and this host's \(host.extendedStateSize)")
        }
        try checkFeatures()
        try checkRegisters()
        return try checkFrequency()
    }

    // MARK: - Features

    /// Words of CPUID whose bits are features: function, index, which register, and bits that are not.
    private static let featureWords: [(function: UInt32, index: UInt32, register: Int, except: UInt32)] = [
        // OSXSAVE, the hypervisor's presence and the deadline timer are set by others than the processor.
        (1, 0, 2, 1 << 27 | 1 << 31 | 1 << 24), (1, 0, 3, 1 << 28),
        (7, 0, 1, 0), (7, 0, 2, 1 << 4), (7, 0, 3, 0), (7, 1, 0, 0), (7, 1, 3, 0),
        (0xd, 0, 0, 0), (0xd, 1, 0, 0),
        // Legacy multiprocessing follows from the number of vCPUs.
        (0x8000_0001, 0, 2, 1 << 1), (0x8000_0001, 0, 3, 0), (0x8000_0007, 0, 3, 0), (0x8000_0008, 0, 1, 0),
        (0x8000_000a, 0, 3, 0), (0x4000_0001, 0, 0, 0),
    ]

    private func checkFeatures() throws(MachineError) {
        guard let guest = saved.vcpus.first?.cpuid else { return }
        for word in Self.featureWords {
            let seen = Self.word(guest, word.function, word.index, word.register) & ~word.except
            let missing = seen & ~Self.word(host.cpuid, word.function, word.index, word.register)
            guard missing != 0 else { continue }
            let function = String(word.function, radix: 16)
            let register = ["EAX", "EBX", "ECX", "EDX"][word.register]
            throw .incompatible(
                "the guest was told of a feature that this host lacks: CPUID 0x\(function).\(word.index) "
                    + "\(register) bit \(missing.trailingZeroBitCount)")
        }
    }

    private static func word(_ table: CPUIDTable, _ function: UInt32, _ index: UInt32, _ register: Int) -> UInt32 {
        guard let entry = table.entries.first(where: { $0.function == function && $0.index == index }) else { return 0 }
        return [entry.eax, entry.ebx, entry.ecx, entry.edx][register]
    }

    private static func vendor(_ table: CPUIDTable) -> String {
        var bytes: [UInt8] = []
        for register in [1, 3, 2] {
            let word = word(table, 0, 0, register)
            for shift in stride(from: 0, to: 32, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> UInt32(shift)))
            }
        }
        return String(decoding: bytes.filter { $0 > 0x20 && $0 < 0x7f }, as: UTF8.self)
    }

    /// Family, model and stepping (Intel SDM volume 2, CPUID, figure 3-6).
    private static func model(_ table: CPUIDTable) -> String {
        let word = word(table, 1, 0, 0)
        let family = word >> 8 & 0xf
        let whole = family == 0xf ? family + (word >> 20 & 0xff) : family
        return "family \(whole), model \(word >> 4 & 0xf | word >> 12 & 0xf0), stepping \(word & 0xf)"
    }

    // MARK: - Registers and time

    private func checkRegisters() throws(MachineError) {
        let known = Set(host.modelSpecificRegisters)
        for register in saved.vcpus.flatMap(\.modelSpecificRegisters) where register.value != 0 {
            guard known.contains(register.number) else {
                throw .incompatible(
                    "this host's KVM does not know the model-specific register "
                        + "0x\(String(register.number, radix: 16)), which it needs")
            }
        }
    }

    private func checkFrequency() throws(MachineError) -> Bool {
        let here = UInt64(host.timestampFrequencyInKHz)
        let there = UInt64(saved.vcpus.first?.timestampFrequencyInKHz ?? 0)
        guard here > 0, there > 0 else { return false }
        let difference = max(here, there) - min(here, there)
        guard difference > there * Self.toleranceInPartsPerMillion / 1_000_000 else { return false }
        guard host.scalesTimestamps else {
            throw .incompatible(
                "its time-stamp counter counts \(there) times a millisecond, this host's \(here) times, and its "
                    + "processor cannot scale")
        }
        return true
    }
}
