// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Launch
internal import Platform
internal import Worker

extension RunOptions {
    /// `run --snapshot`: no image, and nothing that only a beginning can be given.
    func runSnapshot(_ reference: String) throws {
        guard image.isEmpty else {
            throw Failure("--snapshot: the container has its image and command already; leave out '\(image)'")
        }
        guard env.isEmpty, envFile.isEmpty, workdir == nil, user == nil, entrypoint == nil, hostname == nil,
            kernel == nil, !readOnly, !interactive
        else {
            throw Failure(
                "--snapshot: the container goes on as it was: only -d, --rm, --name, --timeout, --memory-server and "
                    + "those for its network are taken")
        }
        let signals = detach ? nil : try SignalQueue([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
        if try Placement.decide() == .emulatedHost {
            let arguments = [try Installation.find().command] + Array(CommandLine.arguments.dropFirst())
            switch signals {
            case .some(let signals):
                throw Failure(
                    silentlyWith: try EmulatedHosting.execute(arguments, hasInput: false, signals: signals))
            case .none:
                throw Failure(
                    silentlyWith: try EmulatedHosting.execute(
                        arguments, hasInput: false, signals: try SignalQueue([])))
            }
        }
        let store = try SnapshotLaunch.store()
        let machine = try SnapshotLaunch.start(
            try ReadySnapshot(preparing: try store.find(reference), in: store), name: name, network: network,
            isDetached: detach, removesItself: rm,
            runTimeout: try timeout.map(Quantities.milliseconds), memoryServer: memoryServer)
        throw Failure(
            silentlyWith: detach
                ? try machine.awaitStart() : try machine.attach(hasInput: false, signals: signals))
    }
}
