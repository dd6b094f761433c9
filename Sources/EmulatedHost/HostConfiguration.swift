// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// What an emulated host is made of.
package struct HostConfiguration: Equatable, Sendable {
    package static let memoryVariable = "MARTLET_HOST_MEMORY"
    package static let idleVariable = "MARTLET_HOST_IDLE_SECONDS"
    package static let qemuVariable = "MARTLET_QEMU"
    /// Below this a guest with a kernel of its own does not fit beside the host's programs.
    package static let leastMemoryInMiB = 512

    package var paths: HostPaths
    /// An uncompressed vmlinux and the initramfs that is `martlet-init`.
    package var kernel: String
    package var initramfs: String
    /// Empty where there is none.
    package var qemu: String
    /// `martlet-fabric`, which is the host's network; empty for one of QEMU's own, which publishes nothing.
    package var fabric: String
    package var memoryInMiB: Int
    /// How long a host without work stays.
    package var idleInSeconds: Int
    /// The command that runs the keeper, without the keeper's own arguments.
    package var keeper: [String]
    /// What the host was made of and what runs in it, as one word: differs when any of the files was built anew.
    package var identity: String

    /// Takes what is not given from the environment and from the machine.
    /// - Parameters:
    ///   - programs: the files that run inside besides kernel and initramfs, for the identity.
    ///   - keeper: the command that runs `HostKeeper.run`.
    ///   - fabric: `martlet-fabric`; empty for a network of QEMU's own.
    ///   - memoryInMiB: nil for `MARTLET_HOST_MEMORY`, or half of the machine's memory, at most 8 GiB.
    package init(
        paths: HostPaths, kernel: String, initramfs: String, programs: [String], keeper: [String],
        fabric: String = "", memoryInMiB: Int? = nil, variable: (String) -> String? = { environmentVariable($0) }
    ) throws(EmulatedHostError) {
        self.paths = paths
        self.kernel = kernel
        self.initramfs = initramfs
        self.keeper = keeper
        self.fabric = fabric
        self.memoryInMiB = try HostConfiguration.memory(
            wanted: memoryInMiB, variable: variable, machine: machineMemoryInMiB())
        idleInSeconds = try HostConfiguration.idle(variable)
        let named = variable(HostConfiguration.qemuVariable) ?? ""
        qemu = named.isEmpty ? findProgram("qemu-system-x86_64", variable: variable) ?? "" : named
        identity = fingerprint(of: [kernel, initramfs] + programs)
    }

    /// Whether all that a start needs is there. What runs already can be stopped and asked without it.
    func checkFiles() throws(EmulatedHostError) {
        guard Files.exists(kernel) else {
            throw .fileMissing(what: "kernel", path: kernel, mend: "Kernel/build makes one")
        }
        guard Files.exists(initramfs) else {
            throw .fileMissing(what: "initramfs", path: initramfs, mend: "Guest/build makes it")
        }
        guard !qemu.isEmpty else {
            throw .programMissing(name: "qemu-system-x86_64", package: "qemu-system-x86")
        }
        guard Files.exists(qemu) else {
            throw .fileMissing(
                what: "QEMU", path: qemu, mend: "\(HostConfiguration.qemuVariable) names it; set it right")
        }
    }

    /// In MiB; `machine` is what the machine has.
    static func memory(
        wanted: Int?, variable: (String) -> String?, machine: Int
    ) throws(EmulatedHostError) -> Int {
        let memory: Int
        if let wanted {
            memory = wanted
        } else if let text = variable(memoryVariable), !text.isEmpty {
            guard let number = Int(text) else { throw .badSetting("\(memoryVariable) is no number of MiB: \(text)") }
            memory = number
        } else {
            return max(leastMemoryInMiB, min(machine / 2, 8192))
        }
        guard memory >= leastMemoryInMiB else {
            throw .badSetting("\(memory) MiB of memory are too few: it needs at least \(leastMemoryInMiB)")
        }
        guard memory <= machine else {
            throw .badSetting("\(memory) MiB of memory are more than the machine's \(machine)")
        }
        return memory
    }

    static func idle(_ variable: (String) -> String?) throws(EmulatedHostError) -> Int {
        guard let text = variable(idleVariable), !text.isEmpty else { return 300 }
        guard let number = Int(text), number >= 0, number <= 31_536_000 else {
            throw .badSetting("\(idleVariable) is no number of seconds: \(text)")
        }
        return number
    }
}

func machineMemoryInMiB() -> Int {
    let pages = sysconf(Int32(_SC_PHYS_PAGES))
    let size = sysconf(Int32(_SC_PAGESIZE))
    return max(0, pages) / (1_048_576 / max(4096, size))
}

/// One word for the state of some files: their places, inodes, sizes and times of change, hashed (FNV-1a, 64 bits). It
/// tells builds apart; it is no protection against who can change the files.
func fingerprint(of files: [String]) -> String {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    func mix(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    }
    for file in files {
        var status = stat()
        let isThere = unsafe stat(file, &status) == 0
        mix(file.utf8)
        let numbers: [Int] =
            isThere
            ? [
                Int(truncatingIfNeeded: status.st_ino), Int(status.st_size), status.st_mtim.tv_sec,
                status.st_mtim.tv_nsec,
            ] : [-1]
        for number in numbers { mix(" \(number)".utf8) }
        mix([0])
    }
    let digits = String(hash, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
}
