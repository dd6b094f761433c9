// SPDX-License-Identifier: Apache-2.0

/// The command line of the emulator. Pure.
///
/// One CPU, because more are not stable under emulation with QEMU 7.2; no firmware menus, no monitor, no display. The
/// guest reaches what is outside only by: the share (read-only, with the rights of the user who runs QEMU), its disk,
/// the port of the keeper, a network whose connections QEMU makes itself (also with the user's rights), the console and
/// a source of random numbers.
struct QEMUCommand {
    /// The share's tag, and the names under which the guest finds its port and disk.
    static let shareTag = "host"
    static let portName = "martlet"
    static let stateDevice = "/dev/vda"
    static let stateMountPoint = "/var/lib/martlet"
    /// The network between the guest and QEMU: 10.0.2.0/24, where QEMU is .2 and answers for names at .3.
    static let hardwareAddress: [UInt8] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56]
    static let guestAddress: [UInt8] = [10, 0, 2, 15]
    static let gateway: [UInt8] = [10, 0, 2, 2]
    static let nameServer = "10.0.2.3"

    var configuration: HostConfiguration
    /// QEMU's number of the socket that is the port's other side.
    var portDescriptor: Int32
    /// How fast the emulated time-stamp counter counts, which is the machine's own, in kHz; nil where that is not known.
    var counterFrequency: UInt64?

    /// The arguments, the program first.
    var arguments: [String] {
        [
            configuration.qemu,
            "-name", "martlet-host",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-M", "microvm,acpi=off,pic=on,pit=on,rtc=on,isa-serial=on",
            "-accel", "tcg", "-smp", "1", "-cpu", "max", "-m", "\(configuration.memoryInMiB)",
            "-kernel", configuration.kernel, "-initrd", configuration.initramfs,
            "-append", kernelCommandLine,
            // The console comes on QEMU's standard output, among its own messages on standard error.
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-fsdev", "local,id=share,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-device,fsdev=share,mount_tag=\(QEMUCommand.shareTag)",
            "-drive",
            "if=none,id=state,format=raw,cache=writeback,discard=unmap,file="
                + QEMUCommand.escaped(configuration.paths.disk),
            // When the disk outside is full the guest gets an error; QEMU's default is to stop the guest without a word.
            "-device", "virtio-blk-device,drive=state,werror=report,rerror=report",
            "-chardev", "socket,id=port,fd=\(portDescriptor)",
            "-device", "virtio-serial-device",
            "-device", "virtserialport,chardev=port,name=\(QEMUCommand.portName)",
            "-netdev", "user,id=network,ipv6=off",
            "-device", "virtio-net-device,netdev=network,mac=\(QEMUCommand.spelled(QEMUCommand.hardwareAddress))",
            "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-device,rng=random",
        ]
    }

    /// The kernel would measure the counter against an emulated timer, which fails on a busy machine; it then works
    /// without one, and its KVM never enters a guest.
    private var kernelCommandLine: String {
        let words = "console=ttyS0 quiet panic=-1 reboot=t martlet.mode=host"
        return counterFrequency.map { "\(words) tsc_early_khz=\($0) tsc=reliable" } ?? words
    }

    private static func spelled(_ address: [UInt8]) -> String {
        address.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }

    /// A comma within an option's value is written twice.
    static func escaped(_ value: String) -> String {
        var result = ""
        for character in value {
            result.append(character)
            if character == "," { result.append(character) }
        }
        return result
    }
}
