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

        /// A monitor that is told no path but where its guest's calls go, and what it says of descriptors that are none
        /// of these. The socket of the vsock device is made by who starts it. A fork has the descriptors that are only
        /// read.
        @Test func descriptorsInsteadOfPaths() throws {
            let directory = "\(stage.root)/monitor-descriptors"
            try makeInitrd(directory, "")
            let output = try stage.onHost(
                """
                \(prelude(directory, kernel: "\(stage.tree)/libexec/martlet/vmlinux"))
                head -c 1048576 /dev/zero >disk; mkfifo pipe; exec 9<>pipe
                cat >listen.py <<'END'
                import os, socket, sys
                s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os.dup2(s.fileno(), 8)
                os.set_inheritable(8, True)
                os.execv(sys.argv[2], sys.argv[2:])
                END
                cat >call.py <<'END'
                import socket, sys
                s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(sys.argv[1])
                s.send(b"CONNECT 7\\n"); print("answered", s.recv(9))
                END
                start() {
                    socket=$1.sock console=$1.console
                    mkfifo $1.status
                    python3 listen.py $1.vsock '\(stage.tree)/libexec/martlet/martlet-vmm' --api-sock $socket \
                        --log-path $1.log --status-fd 3 3>$1.status >$console 2>$1.errors </dev/null &
                    pid=$!
                    read -r line <$1.status
                }
                cp disk fixed
                exec 4<\(directory)/initrd.cpio 5<'\(stage.tree)/libexec/martlet/vmlinux' 6<fixed 7<>disk
                start one
                ask PUT boot-source '{"kernel_image_fd":99}'
                ask PUT boot-source '{"kernel_image_fd":9}'
                ask PUT boot-source '{"kernel_image_fd":1}'
                ask PUT drives/d '{"drive_id":"d","is_root_device":false,"fd":6}'
                ask PUT vsock '{"guest_cid":3,"uds_path":"one.vsock","uds_fd":7}'
                echo refused
                ask PUT machine-config '{"vcpu_count":1,"mem_size_mib":128}'
                ask PUT boot-source '{"kernel_image_fd":5,"initrd_fd":4,"boot_args":"console=ttyS0 reboot=t panic=-1"}'
                ask PUT drives/d '{"drive_id":"d","is_root_device":false,"fd":7}'
                ask PUT drives/r '{"drive_id":"r","is_root_device":false,"is_read_only":true,"fd":6}'
                ask PUT vsock '{"guest_cid":3,"uds_path":"one.vsock","uds_fd":8}'
                ask PUT actions '{"action_type":"InstanceStart"}'
                await ready
                python3 call.py one.vsock
                ask PATCH vm '{"state":"Paused"}'
                ask PUT snapshot/create '{"snapshot_path":"state","mem_file_path":"memory"}'
                kill $pid; wait $pid; echo "status $?"; ls one.vsock
                exec 4<state 5<memory
                start two
                ask PUT snapshot/load '{"snapshot_fd":4,"mem_backend":{"backend_type":"File","backend_fd":5},"vsock_override":{"uds_path":"two.vsock","uds_fd":8}}'
                wait $pid; echo "status $?"
                start three
                ask PUT snapshot/load '{"snapshot_fd":4,"mem_backend":{"backend_type":"File","backend_fd":5},"resume_vm":true,"drive_overrides":[{"drive_id":"d","fd":7},{"drive_id":"r","fd":6}],"vsock_override":{"uds_path":"three.vsock","uds_fd":8}}'
                await tick
                python3 call.py three.vsock
                ask GET vm/config | grep -o '"fd":7\\|"fd":6\\|"uds_fd":8'
                ask PUT fork '{"children":[{"id":"refused","api_sock":"four.sock","vsock_override":{"uds_path":"four.vsock"}}]}'
                forked=$(ask PUT fork '{"children":[{"id":"four","api_sock":"four.sock","serial_out_path":"four.console","vsock_override":{"uds_path":"four.vsock"},"drive_overrides":[{"drive_id":"d","path_on_host":"four.disk","copy":true}]}]}')
                child=$(echo "$forked" | sed 's/.*"pid":\\([0-9]*\\).*/\\1/')
                socket=four.sock console=four.console
                await tick
                python3 call.py four.vsock
                ask GET vm/config | grep -o '"fd":6\\|four.disk'
                cmp disk four.disk && kill $child && timeout 50 tail --pid=$child -f /dev/null && echo ended
                kill $pid; wait $pid; echo "status $?"
                """)
            let parts = output.split(separator: "refused\n", maxSplits: 1).map(String.init)
            try #require(parts.count == 2, "\(output)")
            let refusals = parts[0].split(separator: "\n")
            #expect(refusals.count == 5 && refusals.allSatisfy { $0.hasSuffix("400") }, "\(output)")
            for (line, words) in zip(
                refusals,
                [
                    "descriptor 99 is not open", "descriptor 9 is no file and no block device",
                    "descriptor 1 is not one that the monitor was started with for this",
                    "descriptor 6 is open for reading only", "descriptor 7 is no unix stream socket",
                ])
            { #expect(line.contains(words), "\(line)") }
            let rest = parts[1].split(separator: "\n").map(String.init)
            #expect(
                rest.filter { !$0.contains("fault_message") } == [
                    " 204", " 204", " 204", " 204", " 204", " 204", "answered b\'\'", " 204", " 204", "status 0",
                    "one.vsock", "status 1", " 204", "answered b\'\'", #""fd":7"#, #""fd":6"#, #""uds_fd":8"#,
                    "answered b\'\'", "four.disk", #""fd":6"#, "ended", "status 0",
                ], "\(output)")
            // Its number means nothing to another monitor, and one file is not written to by two machines.
            let faults = rest.filter { $0.contains("fault_message") }
            #expect(faults.count == 2, "\(output)")
            #expect(faults.first?.contains("drive d was descriptor 7") == true, "\(output)")
            #expect(faults.last?.contains("each fork needs a file of its own") == true, "\(output)")
        }

        /// Memory from the pool: of a machine that boots, of one that goes on from a file or from a server, and none.
        @Test func hugePages() throws {
            let directory = "\(stage.root)/monitor-huge"
            try makeInitrd(directory, "")
            let output = try stage.onHost(
                """
                \(prelude(directory, kernel: "\(stage.tree)/libexec/martlet/vmlinux"))
                pool() { echo $1 >/proc/sys/vm/nr_hugepages; }
                trap 'pool 0' EXIT
                pages() { sed -n 's/HugetlbPages:[ \t]*//p' /proc/$pid/status; }
                load() {
                    ask PUT snapshot/load '{"snapshot_path":"state","resume_vm":true,"mem_backend":'"$1"'}'
                }
                monitor one
                pool 3
                ask PUT machine-config '{"vcpu_count":1,"mem_size_mib":128,"huge_pages":"2M"}'
                ask PUT boot-source '{"kernel_image_path":"\(stage.tree)/libexec/martlet/vmlinux","initrd_path":"\(directory)/initrd.cpio","boot_args":"console=ttyS0 reboot=t panic=-1"}'
                ask PUT actions '{"action_type":"InstanceStart"}'
                pool 64
                ask PUT actions '{"action_type":"InstanceStart"}'
                await ready; pages
                ask PATCH vm '{"state":"Paused"}'
                ask PUT snapshot/create '{"snapshot_path":"state","mem_file_path":"memory"}'
                test $(du -k memory | cut -f 1) -lt 65536 && echo sparse
                kill $pid; wait $pid; echo "status $?"
                monitor two
                load '{"backend_type":"File","backend_path":"memory"}'
                await tick; pages; kill $pid; wait $pid; echo "status $?"
                mkfifo served; '\(stage.tree)/libexec/martlet/martlet-pages' --memory memory --listen pages.sock >served & server=$!
                read -r line <served
                monitor three
                load '{"backend_type":"Uffd","backend_path":"pages.sock"}'
                await tick; pages; kill $pid; wait $pid; echo "status $?"
                pool 0
                monitor four
                load '{"backend_type":"File","backend_path":"memory"},"huge_pages":"None"'
                await tick; pages; kill $pid; wait $pid; echo "status $?"
                monitor five
                load '{"backend_type":"Uffd","backend_path":"pages.sock"}'
                wait $pid; echo "status $?"; kill $server; wait $server; true
                """)
            let lines = output.split(separator: "\n").map(String.init)
            let faults = lines.filter { $0.contains("fault_message") }
            // Pages are counted as they are touched: some are, and none without the pool.
            let pages = lines.filter { $0.hasSuffix(" kB") }.compactMap { Int($0.dropLast(3)) }
            #expect(pages.count == 4 && pages.dropLast().allSatisfy { $0 > 0 && $0 % 2048 == 0 }, "\(output)")
            #expect(pages.last == 0, "\(output)")
            #expect(
                lines.filter { !$0.contains("fault_message") && !$0.hasSuffix(" kB") } == [
                    " 204", " 204", " 204", " 204", " 204", "sparse", "status 0", " 204", "status 0", " 204",
                    "status 0",
                    " 204", "status 0", "status 1",
                ], "\(output)")
            #expect(faults.count == 2, "\(output)")
            #expect(faults.first?.contains("sysctl vm.nr_hugepages=64") == true, "\(output)")
            #expect(faults.last?.contains("64 pages of 2 MiB, and 0 of the host's pool are free") == true, "\(output)")
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
