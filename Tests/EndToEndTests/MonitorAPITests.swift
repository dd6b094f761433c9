// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

extension EndToEnd {
    /// The monitor's REST API with real guests, spoken by curl.
    @Suite struct MonitorAPI {
        private var stage: Stage { Stage.shared }

        /// An initrd with a busybox whose init does what it is told, then says that it is ready, and stays.
        private func makeInitrd(_ directory: String, _ lines: String) throws {
            let made = try stage.shell(
                """
                mkdir -p '\(directory)/initrd/bin' '\(directory)/initrd/proc' '\(directory)/initrd/dev'
                cd '\(directory)'
                cp /bin/busybox initrd/bin/
                cat > initrd/init <<'END'
                #!/bin/busybox sh
                /bin/busybox mount -t proc none /proc
                \(lines)
                echo ready
                while :; do /bin/busybox sleep 1; echo tick; done
                END
                chmod 755 initrd/init
                (cd initrd; find . | cpio --quiet -o -H newc) > initrd.cpio
                """)
            try #require(made.status == 0, "\(made)")
        }

        /// Functions for scripts: `monitor NAME` starts one in a directory of its own, `ask METHOD PATH BODY` prints
        /// the answer's status and body, `await TEXT` waits for a line of the console.
        private func prelude(_ directory: String, kernel: String) -> String {
            """
            cd "$(mktemp -d)"
            monitor() {
                socket=$1.sock console=$1.console
                mkfifo $1.status
                '\(stage.tree)/libexec/martlet/martlet-vmm' --api-sock $socket --metrics-path $1.metrics --log-path $1.log \
                    --status-fd 3 3>$1.status >$console 2>$1.errors </dev/null &
                pid=$!
                read -r line <$1.status
            }
            ask() {
                curl -sS --unix-socket $socket -X "$1" -w ' %{http_code}\\n' "http://localhost/$2" ${3:+-d "$3"}
            }
            await() { timeout 150 sh -c "tail -n +1 -f $console | grep -q -m 1 '$1'"; }
            boot() {
                ask PUT machine-config '{"vcpu_count":1,"mem_size_mib":256}'
                ask PUT boot-source '{"kernel_image_path":"'"$(echo \(kernel))"'","initrd_path":"\(directory)/initrd.cpio","boot_args":"'"$1"'"}'
            }
            """
        }

        @Test func aMachinesLife() throws {
            let directory = "\(stage.root)/monitor-api"
            try makeInitrd(directory, "")
            let output = try stage.onHost(
                """
                \(prelude(directory, kernel: "\(stage.tree)/libexec/martlet/vmlinux"))
                head -c 1048576 /dev/zero >disk; head -c 2097152 /dev/zero >larger
                monitor one
                boot 'console=ttyS0 reboot=t panic=-1'
                ask PUT drives/d '{"drive_id":"d","is_root_device":false,"path_on_host":"disk"}'
                ask PUT vsock '{"guest_cid":3,"uds_path":"vsock"}'
                ask PUT entropy '{}'
                ask PUT actions '{"action_type":"InstanceStart"}'
                await ready
                ask PATCH drives/d '{"drive_id":"d","path_on_host":"larger"}'
                await 'new size: 4096 512-byte'
                ask PATCH vm '{"state":"Paused"}'
                ask GET ''
                ask PUT snapshot/create '{"snapshot_path":"state","mem_file_path":"memory"}'
                ask PATCH vm '{"state":"Resumed"}'
                await 'tick'
                ask PUT snapshot/create '{"snapshot_path":"live.state","mem_file_path":"live.memory","live":true}'
                ask PUT actions '{"action_type":"FlushMetrics"}'
                kill $pid; wait $pid; echo "status $?"
                monitor two
                ask PUT snapshot/load '{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":true,"vsock_override":{"uds_path":"vsock2"}}'
                await 'tick'
                ask GET vm/config
                kill $pid; wait $pid; echo "status $?"
                monitor three
                ask PUT snapshot/load '{"snapshot_path":"live.state","mem_file_path":"live.memory","resume_vm":true,"vsock_override":{"uds_path":"vsock3"}}'
                await 'tick'
                kill $pid; wait $pid; echo "status $?"
                tail -n 1 one.metrics
                """)
            let lines = output.split(separator: "\n").map(String.init)
            #expect(lines.prefix(7).allSatisfy { $0 == " 204" }, "\(output)")
            #expect(lines.contains { $0.contains(#""state":"Paused""#) }, "\(output)")
            #expect(lines.filter { $0 == "status 0" }.count == 3, "\(output)")
            #expect(lines.contains { $0.contains(#""path_on_host":"larger""#) && $0.contains("vsock2") }, "\(output)")
            #expect(!output.contains("fault_message"), "\(output)")
            #expect(lines.last?.contains(#""utc_timestamp_ms""#) == true, "\(output)")
        }

        /// Debian's kernel has a driver for a keyboard, which it finds by ACPI.
        @Test func threeKeysRebootAGuest() throws {
            let directory = "\(stage.root)/monitor-keys"
            try makeInitrd(directory, "echo 1 > /proc/sys/kernel/ctrl-alt-del")
            let made = try stage.shell(
                """
                cd '\(directory)'
                package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2 }')
                apt-get -q download "$package" > log 2>&1 || { cat log >&2; exit 1; }
                dpkg-deb -x "$package"_*.deb root
                """)
            try #require(made.status == 0, "\(made)")
            let output = try stage.onHost(
                """
                \(prelude(directory, kernel: "\(directory)/root/boot/vmlinuz-*"))
                monitor keys
                boot "console=ttyS0 quiet reboot=k panic=-1"
                ask PUT actions '{"action_type":"InstanceStart"}'
                await ready
                ask PUT actions '{"action_type":"SendCtrlAltDel"}'
                timeout 50 tail --pid=$pid -f /dev/null || kill $pid
                wait $pid; echo "status $?"
                grep -o 'the machine ended: .*' keys.log
                """)
            #expect(output.contains("status 0\nthe machine ended: reboot\n"), "\(output)")
        }
    }
}
