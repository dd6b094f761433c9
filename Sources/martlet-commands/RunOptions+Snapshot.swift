// SPDX-License-Identifier: Apache-2.0

internal import Launch

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
        var run = SnapshotRun(reference)
        run.name = name
        run.isDetached = detach
        run.removesItself = rm
        run.timeout = timeout
        run.memoryServer = memoryServer
        run.network = network
        try run.run(ReadySnapshot.init(preparing:in:))
    }
}
