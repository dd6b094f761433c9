// SPDX-License-Identifier: Apache-2.0

internal import Packet

/// The command line of the emulator. Pure.
///
/// One CPU, because more are not stable under emulation with QEMU 7.2; no firmware menus, no monitor, no display. The
/// guest reaches what is outside only by: the share (read-only, with the rights of the user who runs QEMU), its disk,
/// the port of the keeper, a network (whose connections a fabric or QEMU makes, also with the user's rights), the console and
/// a source of random numbers.
struct QEMUCommand {
    /// The share's tag, and the names under which the guest finds its port and disk.
    static let shareTag = "host"
    static let portName = "martlet"
    static let stateDevice = "/dev/vda"
    static let stateMountPoint = "/var/lib/martlet"
    /// The network of the guest's: 10.0.2.0/24, whose gateway is .2. Where that is QEMU's own, names are answered at .3.
    static let hardwareAddress = MACAddress(0x5254_0012_3456)
    static let guestAddress = IPv4Address(10, 0, 2, 15)
    static let gateway = IPv4Address(10, 0, 2, 2)
    static let emulatorsNameServer = IPv4Address(10, 0, 2, 3)
    /// Where a fabric has this machine's loopback.
    static let loopbackAddress = IPv4Address(198, 19, 255, 254)
    /// Of the guest's interface, where a fabric is behind it: nothing is cut on the way that need not be.
    static let fabricMTU: UInt32 = 65_520

    var configuration: HostConfiguration
    /// QEMU's number of the socket that is the port's other side.
    var portDescriptor: Int32
    /// QEMU's number of the socket whose other side is the guest's network; nil for a network of QEMU's own.
    var networkDescriptor: Int32?
    /// How fast the emulated time-stamp counter counts, which is the machine's own, in kHz; nil where that is not known.
    var counterFrequency: UInt64?

    /// All that is emulated, but for ERMS: a kernel that sees it copies and clears pages by `rep movsb` and `rep stosb`,
    /// which are emulated byte by byte. Without it a microVM in there boots in two thirds of the time.
    private static let processor = "max,-erms"

    /// The arguments, the program first.
    var arguments: [String] {
        [
            configuration.qemu,
            "-name", "martlet-host",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-M", "microvm,acpi=off,pic=on,pit=on,rtc=on,isa-serial=on",
            "-accel", "tcg", "-smp", "1", "-cpu", Self.processor, "-m", "\(configuration.memoryInMiB)",
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
            "-netdev", networkDescriptor.map { "socket,id=network,fd=\($0)" } ?? "user,id=network,ipv6=off",
            "-device", "virtio-net-device,netdev=network,mac=\(QEMUCommand.hardwareAddress)",
            "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-device,rng=random",
        ]
    }

    /// The kernel would measure the counter against an emulated timer, which fails on a busy machine; it then works
    /// without one, and its KVM never enters a guest.
    private var kernelCommandLine: String {
        // An emulated processor does not run ahead, and has nothing to be mitigated; its kernel would still do it, at each
        // switch and each exit of a guest.
        let words = "console=ttyS0 quiet panic=-1 reboot=t mitigations=off kvm.nx_huge_pages=never martlet.mode=host"
        return counterFrequency.map { "\(words) tsc_early_khz=\($0) tsc=reliable" } ?? words
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
