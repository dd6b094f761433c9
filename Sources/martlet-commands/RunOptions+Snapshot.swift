// SPDX-License-Identifier: Apache-2.0

internal import Launch

extension RunOptions {
    /// `run --snapshot`: no image, and nothing that only a beginning can be given. What stands where an image would is a
    /// command's.
    func runSnapshot(_ reference: String) throws {
        let words = (image.isEmpty ? [] : [image]) + command
        let isForCommand = !(env.isEmpty && envFile.isEmpty && workdir == nil && user == nil && !interactive)
        guard entrypoint == nil, hostname == nil, kernel == nil, !readOnly, !isForCommand || !words.isEmpty else {
            throw Failure(
                "--snapshot: the container goes on as it was: only -d, --rm, --name, --timeout, --memory-server and "
                    + "those for its network are taken, and with a command -i, -e, --env-file, -w and -u for that")
        }
        var run = SnapshotRun(reference)
        run.name = name
        run.isDetached = detach
        run.removesItself = rm
        run.timeout = timeout
        run.memoryServer = memoryServer
        run.network = network
        run.exec.command = words
        run.exec.interactive = interactive
        run.exec.env = env
        run.exec.envFile = envFile
        run.exec.workdir = workdir
        run.exec.user = user
        try run.run(ReadySnapshot.init(preparing:in:))
    }
}
