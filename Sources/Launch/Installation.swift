// SPDX-License-Identifier: Apache-2.0

internal import Platform
internal import Worker

/// The programs and files that make a machine, and where they are.
package struct Installation {
    package let monitor: String
    package let supervisor: String
    package let fabric: String
    package let pageServer: String
    /// The program that knows all commands.
    package let allCommands: String
    package let initramfs: String
    package let kernel: String
    /// This program itself.
    package let command: String
    /// The program that users start, where it is installed: it has some commands, and hands the others on.
    package let front: String?

    /// Looks in `MARTLET_LIBEXEC`, then where an installation has them, seen from this program (`../libexec/martlet`),
    /// then where a build has them.
    /// - Parameter kernel: one of the user's own; nil for the one that belongs to this program.
    package static func find(kernel: String? = nil) throws(Failure) -> Installation {
        let command = try thisProgram()
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
            allCommands: try need(commandsName, "build it (Setup/build), or set MARTLET_LIBEXEC to where it is"),
            initramfs: try need("initramfs.cpio", "build it (Guest/build, then Setup/assemble)"),
            kernel: try chooseKernel(
                kernel,
                fallback: { () throws(Failure) in
                    try need("vmlinux", "build it (Kernel/build, then Setup/assemble), or name one with --kernel")
                }),
            command: command, front: front(directory))
    }

    /// Where the program is that knows all commands, for one that knows some.
    package static func allCommands() throws(Failure) -> String {
        "\(try libexec(try thisProgram()))/\(commandsName)"
    }

    private static let commandsName = "martlet-commands"

    private static func thisProgram() throws(Failure) -> String {
        do throws(SystemError) {
            return try Files.readSymbolicLink("/proc/self/exe")
        } catch {
            throw Failure("cannot find out where this program is: \(error)")
        }
    }

    /// Seen from `libexec/martlet`.
    private static func front(_ libexec: String) -> String? {
        let path = "\(splitPath(splitPath(libexec).directory).directory)/bin/martlet"
        return Files.exists(path) ? path : nil
    }

    private static func libexec(_ command: String) throws(Failure) -> String {
        if let named = environmentVariable("MARTLET_LIBEXEC"), !named.isEmpty {
            guard Files.isDirectory(named) else { throw Failure("MARTLET_LIBEXEC: \(named) is no directory") }
            return absolute(named)
        }
        let bin = splitPath(command).directory
        let above = splitPath(bin).directory
        let candidates = [
            bin, "\(above)/libexec/martlet",
            // .build/debug and .build/TRIPLE/debug beside .build/martlet
            "\(above)/martlet/libexec/martlet", "\(splitPath(above).directory)/martlet/libexec/martlet",
        ]
        guard let found = candidates.first(where: { Files.exists("\($0)/martlet-supervisor") }) else {
            throw Failure(
                "martlet-supervisor and martlet-vmm are not where they belong (\(candidates[1])): "
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
package func absolute(_ path: String) -> String {
    (try? Files.resolve(path)) ?? path
}
