// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform
import Testing

extension EndToEnd {
    /// Kernels other than the one that is installed.
    @Suite(.serialized) struct Kernels {
        let stage = Stage.shared

        /// The little-endian number of some bytes at a place.
        private static func number(_ bytes: [UInt8], _ place: Int, _ count: Int) -> Int {
            (0..<count).reduce(0) { $0 | Int(bytes[place + $1]) << (8 * $1) }
        }

        /// An ELF kernel without the note that names its PVH entry is entered as the 64-bit boot protocol says.
        @Test func theEntryOf64Bits() throws {
            let path = "\(stage.root)/vmlinux-without-note"
            var kernel = try Files.read("\(stage.tree)/libexec/martlet/vmlinux", limit: 256 << 20)
            let table = Self.number(kernel, 32, 8)
            var notes = 0
            for index in 0..<Self.number(kernel, 56, 2) where Self.number(kernel, table + 56 * index, 4) == 4 {
                kernel[table + 56 * index] = 0  // PT_NOTE becomes PT_NULL
                notes += 1
            }
            #expect(notes > 0)
            try Files.writeAtomically(kernel, to: path)
            defer { Files.remove(path) }
            let result = try stage.run(
                ["run", "--rm", "--cpus", "2", "--kernel", path, stage.image, "sh", "-c", "nproc; uname -s"])
            #expect(result.text == "2\nLinux\n" && result.status == 0, "\(result)")
            try stage.expectNothingLeft()
        }

        /// A kernel whose first instructions leave memory, of which there are 512 MiB: KVM has nothing to execute there,
        /// and says so.
        @Test func anInternalErrorOfKVM() throws {
            let path = "\(stage.root)/lost-kernel"
            var kernel: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1, 0] + [UInt8](repeating: 0, count: 8)
            func append(_ number: UInt64, _ count: Int) {
                for index in 0..<count { kernel.append(UInt8(truncatingIfNeeded: number >> UInt64(8 * index))) }
            }
            for (number, count) in [
                (2, 2), (62, 2), (1, 4), (0x20_0000, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2), (0, 6),
            ] as [(UInt64, Int)] { append(number, count) }
            // One segment: all of the file's second page.
            for (number, count) in [
                (1, 4), (5, 4), (4096, 8), (0x20_0000, 8), (0x20_0000, 8), (4096, 8), (4096, 8), (4096, 8),
            ] as [(UInt64, Int)] { append(number, count) }
            kernel += [UInt8](repeating: 0, count: 4096 - kernel.count)
            kernel += [0xB8, 0x00, 0x00, 0x00, 0x30, 0xFF, 0xE0]  // mov eax, 0x30000000; jmp rax
            kernel += [UInt8](repeating: 0xF4, count: 8192 - kernel.count)
            try Files.writeAtomically(kernel, to: path)
            let result = try stage.run(["run", "--rm", "--kernel", path, stage.image, "true"], seconds: 60)
            #expect(result.status == 125 && result.text == "", "\(result)")
            #expect(result.errorText.contains("internal error"), "\(result)")
            try stage.expectNothingLeft()
        }

        /// Debian's kernel for clouds: a bzImage with virtio as modules, which finds our devices by ACPI.
        @Test func theKernelOfADistribution() throws {
            let directory = "\(stage.root)/debian-kernel"
            let made = try stage.shell(
                """
                mkdir -p '\(directory)'; cd '\(directory)'
                package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2 }')
                apt-get -q download "$package" > log 2>&1 || { cat log >&2; exit 1; }
                dpkg-deb -x "$package"_*.deb root
                mkdir -p initrd/bin initrd/dev initrd/proc initrd/sys initrd/modules
                cp /bin/busybox initrd/bin/
                drivers=$(echo root/lib/modules/*/kernel/drivers)
                cp $drivers/virtio/virtio.ko $drivers/virtio/virtio_ring.ko $drivers/virtio/virtio_mmio.ko \
                    $drivers/block/virtio_blk.ko initrd/modules/
                cat > initrd/init <<'END'
                #!/bin/busybox sh
                for system in proc sysfs devtmpfs; do
                    case $system in proc) at=proc;; sysfs) at=sys;; *) at=dev;; esac
                    /bin/busybox mount -t $system none /$at
                done
                for module in virtio_ring virtio virtio_mmio virtio_blk; do /bin/busybox insmod /modules/$module.ko; done
                echo "$(/bin/busybox nproc) processors; disk: $(/bin/busybox head -c 5 /dev/vda)"
                /bin/busybox reboot -f
                END
                chmod 755 initrd/init
                (cd initrd; find . | cpio --quiet -o -H newc) > initrd.cpio
                printf hello > disk; truncate -s 1M disk
                cat > machine.json <<END
                {"boot-source": {"kernel_image_path": "$(echo "$PWD"/root/boot/vmlinuz-*)", "initrd_path": "$PWD/initrd.cpio",
                                 "boot_args": "console=ttyS0 quiet reboot=t panic=-1"},
                 "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
                 "drives": [{"drive_id": "disk", "path_on_host": "$PWD/disk", "is_root_device": false,
                             "is_read_only": true}]}
                END
                """)
            try #require(made.status == 0, "\(made)")
            let output = try stage.onHost(
                "'\(stage.tree)/libexec/martlet/martlet-vmm' --no-api --config-file '\(directory)/machine.json'")
            #expect(output.contains("2 processors; disk: hello"), "\(output)")
        }
    }
}
