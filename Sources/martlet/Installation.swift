// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Worker

/// The programs and files that make a machine, and where they are.
struct Installation {
    let monitor: String
    let supervisor: String
    let fabric: String
    let pageServer: String
    let initramfs: String
    let kernel: String
    /// This program itself.
    let command: String

    /// Looks in `MARTLET_LIBEXEC`, then where an installation has them, seen from this program (`../libexec/martlet`),
    /// then where a build has them.
    /// - Parameter kernel: one of the user's own; nil for the one that belongs to this program.
    static func find(kernel: String? = nil) throws(Failure) -> Installation {
        let command: String
        do throws(SystemError) {
            command = try Files.readSymbolicLink("/proc/self/exe")
        } catch {
            throw Failure("cannot find out where this program is: \(error)")
        }
        let directory = try libexec(command)
        func need(_ name: String, _ mend: String) throws(Failure) -> String {
            let path = "\(directory)/\(name)"
            guard Files.exists(path) else { throw Failure("\(path) is missing: \(mend)") }
            return path
        }
        return Installation(
            monitor: try need("martlet-vmm", "build it (Setup/build), or set MARTLET_LIBEXEC to where it is"),
            supervisor: try need("martlet-supervisor", "build it (Setup/build), or set MARTLET_LIBEXEC to where it is"),
            fabric: try need("martlet-fabric", "build it (Setup/build), or set MARTLET_LIBEXEC to where it is"),
            pageServer: try need("martlet-pages", "build it (Setup/build), or set MARTLET_LIBEXEC to where it is"),
            initramfs: try need("initramfs.cpio", "build it (Guest/build, then Setup/assemble)"),
            kernel: try chooseKernel(
                kernel,
                fallback: { () throws(Failure) in
                    try need("vmlinux", "build it (Kernel/build, then Setup/assemble), or name one with --kernel")
                }),
            command: command)
    }

    private static func libexec(_ command: String) throws(Failure) -> String {
        if let named = environmentVariable("MARTLET_LIBEXEC"), !named.isEmpty {
            guard Files.isDirectory(named) else { throw Failure("MARTLET_LIBEXEC: \(named) is no directory") }
            return absolute(named)
        }
        let bin = splitPath(command).directory
        let above = splitPath(bin).directory
        let candidates = [
            "\(above)/libexec/martlet",
            // .build/debug and .build/TRIPLE/debug beside .build/martlet
            "\(above)/martlet/libexec/martlet", "\(splitPath(above).directory)/martlet/libexec/martlet",
        ]
        guard let found = candidates.first(where: { Files.exists("\($0)/martlet-supervisor") }) else {
            throw Failure(
                "martlet-supervisor and martlet-vmm are not where they belong (\(candidates[0])): "
                    + "run Setup/build, or set MARTLET_LIBEXEC to their directory")
        }
        return found
    }

    private static func chooseKernel(
        _ kernel: String?, fallback: () throws(Failure) -> String
    ) throws(Failure) -> String {
        if let kernel {
            guard Files.exists(kernel) else { throw Failure("--kernel: there is no file \(kernel)") }
            guard !Files.isDirectory(kernel) else { throw Failure("--kernel: \(kernel) is a directory, not a kernel") }
            return absolute(kernel)
        }
        if let named = environmentVariable("MARTLET_KERNEL"), !named.isEmpty {
            guard Files.exists(named) else { throw Failure("MARTLET_KERNEL: there is no file \(named)") }
            return absolute(named)
        }
        return try fallback()
    }
}

/// A path that means the same from any working directory.
func absolute(_ path: String) -> String {
    (try? Files.resolve(path)) ?? path
}
