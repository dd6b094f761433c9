// SPDX-License-Identifier: Apache-2.0

internal import Launch
internal import OCI
internal import Platform
internal import Worker

extension RunOptions {
    /// The image is found and converted out here, where that is fast; everything else happens inside.
    func runInEmulatedHost(
        _ image: PreparedImage, _ options: ContainerOptions, _ installation: Installation,
        signals: borrowing SignalQueue?
    ) throws -> Int32 {
        var arguments = [installation.command, "run", "--image-name=\(image.name)", "--pull=never"]
        if rm { arguments.append("--rm") }
        if interactive { arguments.append("--interactive") }
        if detach { arguments.append("--detach") }
        if readOnly { arguments.append("--read-only") }
        if noTemplate { arguments.append("--no-template") }
        for setting in options.environment {
            switch setting {
            case .set(let text): arguments.append("--env=\(text)")
            // The host's processes have no variables of the user's shell but those that were there out here.
            case .unset(let name): arguments.append("--env=\(name)")
            }
        }
        let valued: [(String, String?)] = [
            ("name", name), ("workdir", workdir), ("user", user), ("entrypoint", entrypoint), ("cpus", cpus),
            ("memory", memory), ("hostname", hostname), ("timeout", timeout), ("stop-timeout", stopTimeout),
            ("stop-signal", stopSignal), ("kernel", try kernel.map(EmulatedHosting.stableCopy)),
        ]
        for case (let name, let value?) in valued { arguments.append("--\(name)=\(value)") }
        arguments += network.arguments
        arguments.append(image.id)
        arguments += command
        switch signals {
        case .some(let signals):
            return try EmulatedHosting.execute(arguments, hasInput: interactive, signals: signals)
        case .none:
            return try EmulatedHosting.execute(arguments, hasInput: false, signals: try SignalQueue([]))
        }
    }
}

extension EmulatedHosting {
    /// A file of the user's under a name that changes with its contents: the share's caches inside would go on showing
    /// the old contents of one that was changed.
    static func stableCopy(of path: String) throws -> String {
        let bytes = try Files.read(path, limit: 1 << 30)
        let directory = try cacheDirectory() + "/kernels"
        let copy = "\(directory)/\(Digest(sha256Of: bytes).hex)"
        if !Files.exists(copy) {
            try Files.makeDirectories(directory, permissions: 0o700)
            try Files.writeAtomically(bytes, to: copy)
        }
        return copy
    }

    private static func cacheDirectory() throws(Failure) -> String {
        if let base = environmentVariable("XDG_CACHE_HOME"), base.hasPrefix("/") { return "\(base)/martlet" }
        guard let home = environmentVariable("HOME"), home.hasPrefix("/") else {
            throw Failure("there is no place for a copy of the kernel: set HOME or XDG_CACHE_HOME to an absolute path")
        }
        return "\(home)/.cache/martlet"
    }
}
