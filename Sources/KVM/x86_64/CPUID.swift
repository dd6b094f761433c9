// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform

/// One answer of the CPUID instruction.
package struct CPUIDEntry: Equatable, Sendable {
    /// EAX of the question.
    package var function: UInt32
    /// ECX of the question, where `flags` has bit 0 (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
    package var index: UInt32
    package var flags: UInt32
    package var eax: UInt32
    package var ebx: UInt32
    package var ecx: UInt32
    package var edx: UInt32

    package init(
        function: UInt32, index: UInt32 = 0, flags: UInt32 = 0, eax: UInt32 = 0, ebx: UInt32 = 0, ecx: UInt32 = 0,
        edx: UInt32 = 0
    ) {
        self.function = function
        self.index = index
        self.flags = flags
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }
}

/// How the vCPUs of a machine are arranged: one package, cores with one or two threads each. A vCPU's APIC id is its
/// index, so the lowest bit tells the two threads of a core apart.
package struct CPUTopology: Equatable, Sendable {
    package let vcpuCount: Int
    package let threadsPerCore: Int

    package init(vcpuCount: Int, threadsPerCore: Int) {
        self.vcpuCount = vcpuCount
        self.threadsPerCore = threadsPerCore
    }

    /// How many low bits of an APIC id number the threads of a core, and of the package.
    var threadBits: UInt32 { threadsPerCore > 1 ? 1 : 0 }
    var packageBits: UInt32 {
        var bits: UInt32 = 0
        while 1 << bits < vcpuCount { bits += 1 }
        return bits
    }
}

/// What CPUID tells a guest: the host's and KVM's common features, with the topology of the machine.
package struct CPUIDTable: Equatable, Sendable {
    package var entries: [CPUIDEntry]

    package init(entries: [CPUIDEntry]) { self.entries = entries }

    /// The table for one vCPU (Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E). One pass.
    /// - Parameter deadlineTimer: the local APIC has the TSC-deadline mode (KVM_CAP_TSC_DEADLINE_TIMER).
    package func adjusted(for vcpu: Int, topology: CPUTopology, deadlineTimer: Bool) -> CPUIDTable {
        let identifier = UInt32(vcpu)
        let count = UInt32(topology.vcpuCount)
        let threads = UInt32(topology.threadsPerCore)
        var result: [CPUIDEntry] = []
        result.reserveCapacity(entries.count + 4)
        for entry in entries {
            var entry = entry
            switch entry.function {
            case 0x1:
                entry.ebx = entry.ebx & 0xff00 | identifier << 24 | (1 << topology.packageBits) << 16
                entry.ecx |= 1 << 31  // a hypervisor is present
                if deadlineTimer { entry.ecx |= 1 << 24 }
                if count > 1 { entry.edx |= 1 << 28 } else { entry.edx &= ~(1 << 28) }
            case 0x4, 0x8000_001d:
                guard entry.eax & 0x1f != 0 else { break }
                // Caches of level 1 and 2 belong to a core, those above to the package.
                let sharing = entry.eax >> 5 & 7 < 3 ? threads : count
                entry.eax = entry.eax & 0x3fff | (sharing - 1) << 14
                if entry.function == 0x4 { entry.eax |= min(63, count / threads - 1) << 26 }
            case 0xb, 0x1f:
                // Levels: 0 the threads of a core, 1 the cores of the package, 2 the end of the list.
                guard entry.index == 0 else { continue }
                let shift = [topology.threadBits, topology.packageBits, 0]
                let processors = [threads, count, 0]
                let kind: [UInt32] = [1, 2, 0]
                for level in 0..<3 {
                    result.append(
                        CPUIDEntry(
                            function: entry.function, index: UInt32(level), flags: 1, eax: shift[level],
                            ebx: processors[level], ecx: UInt32(level) | kind[level] << 8, edx: identifier))
                }
                continue
            case 0x8000_0008:
                entry.ecx = entry.ecx & ~0xf0ff | (count - 1) | topology.packageBits << 12
            case 0x8000_001e:
                entry.eax = identifier
                entry.ebx = identifier >> topology.threadBits | (threads - 1) << 8
                entry.ecx = 0
            case 0x8000_0026:
                // AMD's later form of leaf 0xb: without it a guest asks that one.
                continue
            default:
                break
            }
            result.append(entry)
        }
        return CPUIDTable(entries: result)
    }
}

extension CPUIDTable {
    /// struct kvm_cpuid2: the count, then 40 bytes an entry.
    private static let wordsAnEntry = 5

    var words: [UInt64] {
        var words: [UInt64] = []
        words.reserveCapacity(1 + entries.count * Self.wordsAnEntry)
        words.append(UInt64(entries.count))
        for entry in entries {
            words.append(UInt64(entry.function) | UInt64(entry.index) << 32)
            words.append(UInt64(entry.flags) | UInt64(entry.eax) << 32)
            words.append(UInt64(entry.ebx) | UInt64(entry.ecx) << 32)
            words.append(UInt64(entry.edx))
            words.append(0)
        }
        return words
    }

    init(words: [UInt64]) {
        let room = (words.count - 1) / Self.wordsAnEntry
        let count = min(room, Int(UInt32(truncatingIfNeeded: words[0])))
        var entries: [CPUIDEntry] = []
        entries.reserveCapacity(count)
        for index in 0..<count {
            let start = 1 + index * Self.wordsAnEntry
            func low(_ word: Int) -> UInt32 { UInt32(truncatingIfNeeded: words[start + word]) }
            func high(_ word: Int) -> UInt32 { UInt32(truncatingIfNeeded: words[start + word] >> 32) }
            entries.append(
                CPUIDEntry(
                    function: low(0), index: high(0), flags: low(1), eax: high(1), ebx: low(2), ecx: high(2),
                    edx: low(3)))
        }
        self.init(entries: entries)
    }
}

extension KVMSystem {
    /// What CPUID may tell a guest on this host.
    package borrowing func supportedCPUID() throws(KVMError) -> CPUIDTable {
        let capacity = 256  // KVM_MAX_CPUID_ENTRIES
        var words = [UInt64](repeating: 0, count: 1 + capacity * 5)
        words[0] = UInt64(capacity)
        try control(descriptor, CLINUX_KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", words: &words)
        return CPUIDTable(words: words)
    }
}

extension VCPU {
    package borrowing func setCPUID(_ table: CPUIDTable) throws(KVMError) {
        var words = table.words
        try control(descriptor, CLINUX_KVM_SET_CPUID2, "KVM_SET_CPUID2", words: &words)
    }
}
