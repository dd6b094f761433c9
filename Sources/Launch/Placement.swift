// SPDX-License-Identifier: Apache-2.0

internal import EmulatedHost
internal import Glibc
internal import KVM
internal import Platform
internal import Worker

/// Where containers run: on this machine, or, where its KVM cannot run ordinary kernels, in the emulated host.
package enum Placement {
    case here
    case emulatedHost

    /// Set inside the emulated host, whose KVM is the emulator's and works.
    package static let insideVariable = "MARTLET_INSIDE_HOST"

    package static func decide() throws -> Placement {
        if let inside = environmentVariable(insideVariable), !inside.isEmpty { return .here }
        return try KVMMemo.isUsable() ? .here : .emulatedHost
    }
}

/// What the probe found, remembered: a probe takes from milliseconds up to more than half a second. One line in the
/// runtime directory, good for one boot, kernel, device and user; written anew whenever one of these changes.
package enum KVMMemo {
    package static let device = "/dev/kvm"

    static func isUsable() throws -> Bool {
        // Missing or forbidden is seen at once, and may change at any moment (a group, a module).
        guard access(device, R_OK | W_OK) == 0, let key = key() else { return false }
        let directory = HostPaths.ofThisUser().runtime
        let path = "\(directory)/kvm"
        if isPrivate(directory), let bytes = try? Files.read(path, limit: 1024) {
            let text = String(decoding: bytes, as: UTF8.self)
            if text == "usable \(key)" { return true }
            if text == "unusable \(key)" { return false }
        }
        let isUsable: Bool
        if case .usable = KVMProbe.run(path: device) { isUsable = true } else { isUsable = false }
        // Only a memo: where it cannot be written the next command probes again.
        try? Files.makeDirectories(directory, permissions: 0o700)
        if isPrivate(directory) {
            try? Files.writeAtomically(
                Array("\(isUsable ? "usable" : "unusable") \(key)".utf8), to: path, permissions: 0o600)
        }
        return isUsable
    }

    /// The directory may be under /tmp, where others could have made it first.
    private static func isPrivate(_ directory: String) -> Bool {
        var status = stat()
        return lstat(directory, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR && status.st_uid == geteuid()
            && status.st_mode & 0o022 == 0
    }

    private static func key() -> String? {
        var status = stat()
        guard stat(device, &status) == 0 else { return nil }
        let boot = ProcessIdentity.currentBootID()
        let kernel = (try? Files.read("/proc/sys/kernel/osrelease", limit: 200)) ?? []
        return "\(boot) \(printable(kernel)) \(status.st_ino) \(status.st_rdev) \(status.st_ctim.tv_sec)"
    }
}
