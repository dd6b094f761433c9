// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

/// A program of the container's own that is told of what happens to its machine: `/etc/martlet/hooks/NAME`, as root, in
/// the container, without input and output. It is not among the processes that are frozen.
struct Hook {
    static let freeze = text("freeze")
    static let thaw = text("thaw")
    static let clone = text("clone")
    private static let directory = text("/etc/martlet/hooks/")

    let name: [UInt8]
    private var path: [UInt8] { Hook.directory + name }

    /// Whether the container has it, looked at from outside of it.
    func exists(in process: Int32) -> Bool {
        guest_access_to_execute(System.path(text("/proc/") + text(process) + text("/root") + path)) == 0
    }

    /// In the child: becomes the hook, in the container whose process `joined` is a descriptor of.
    func execute(_ joined: Int32) -> Never {
        guest_reset_signals()
        _ = guest_new_session()
        guard guest_enter(joined, guest_new_mounts | guest_new_ipc | guest_new_control_groups) >= 0 else {
            guest_exit(125)
        }
        for descriptor: Int32 in 0...2 {
            let null = guest_open(System.path(text("/dev/null")), guest_read_write, 0)
            guard null >= 0, guest_duplicate(Int32(null), descriptor, 1) >= 0 else { guest_exit(125) }
        }
        guest_close_from(3)
        guest_set_mask(0o022)
        let program = CStrings([path, name])
        let variables = CStrings([text("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")])
        _ = guest_execute(System.path(path), program.pointers, variables.pointers)
        guest_exit(126)
    }
}

extension Agent {
    /// Runs a hook to its end, at most for so long. True where there is none.
    /// - Throws: where it fails or takes too long; it is ended then.
    func run(_ name: [UInt8], limit: UInt64) throws(SystemFailure) {
        let hook = Hook(name: name)
        guard mainProcess != 0, hook.exists(in: mainProcess) else { return }
        let main = Descriptor(
            Int32(try System.check(guest_process_descriptor(mainProcess), "open the main process")))
        let process = try fork(main, ownsNamespace: false, group: nil)
        if process == 0 { hook.execute(main.raw) }
        hasChildren = true
        var status: Int32 = 0
        let ended = guest_reap_within(Int32(process), Int32(clamping: limit), &status)
        if ended <= 0 {
            _ = guest_kill(-Int32(process), Power.kill)
            _ = guest_kill(Int32(process), Power.kill)
            _ = guest_reap_within(Int32(process), 1_000, &status)
            throw SystemFailure(call: "run the hook", subject: name, code: guest_etimedout)
        }
        guard status == 0 else { throw SystemFailure(call: "run the hook", subject: name, code: guest_ecanceled) }
    }
}
