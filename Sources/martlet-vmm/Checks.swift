// SPDX-License-Identifier: Apache-2.0

internal import Machine
internal import MachineAPI
internal import Platform

/// What failed, in the words that a response has it in.
struct EffectFailure: Error {
    let text: String
    init(_ text: String) { self.text = text }
}

/// Looks whether what a client names is there, when it names it. The machine opens it again when it starts.
enum Checks {
    /// A failed call as Firecracker's clients know it.
    static func text(_ error: SystemError) -> String { "\(error.reason) (os error \(error.code))" }

    static func attempt(_ body: () throws(SystemError) -> Void) throws(EffectFailure) {
        do throws(SystemError) { try body() } catch { throw EffectFailure(text(error)) }
    }

    static func open(_ source: BootSource) throws(EffectFailure) {
        try touch(source.kernel, isReadOnly: true) { "The kernel file cannot be opened: \($0)" }
        if let initrd = source.initrd {
            try touch(initrd, isReadOnly: true) {
                "The initrd file cannot be opened due to invalid path or invalid permissions. \($0)"
            }
        }
    }

    static func open(_ drive: Drive) throws(EffectFailure) {
        switch drive.content {
        case .path(let path): try openFile(.path(path), isReadOnly: drive.isReadOnly)
        case .descriptor(let number): try openFile(.descriptor(number), isReadOnly: drive.isReadOnly)
        case .extents(let extents): for extent in extents { try openFile(extent.file, isReadOnly: true) }
        }
    }

    /// Looks at what is to go behind a running machine's drive.
    static func openForReplacement(_ path: String, of drive: Drive?) throws(EffectFailure) {
        try openFile(.path(path), isReadOnly: drive?.isReadOnly ?? true)
    }

    private static func openFile(_ file: HostFile, isReadOnly: Bool) throws(EffectFailure) {
        try touch(file, isReadOnly: isReadOnly) {
            "Virtio backend error: Error manipulating the backing file: \($0)\(file.path.map { " \($0)" } ?? "")"
        }
    }

    static func bind(_ vsock: Vsock) throws(EffectFailure) {
        let path = vsock.socketPath
        if let number = vsock.listener {
            do throws(DescriptorProblem) { _ = try StartingDescriptor.socket(number, listens: true) } catch {
                throw EffectFailure(error.description)
            }
            return
        }
        do throws(SystemError) {
            try UnixSocket.listen(at: path).close()
            Files.remove(path)
        } catch {
            throw EffectFailure("Error binding to the host-side Unix socket: \(text(error))")
        }
    }

    private static func touch(
        _ file: HostFile, isReadOnly: Bool, _ words: (String) -> String
    ) throws(EffectFailure) {
        switch file {
        case .path(let path):
            let mode: OpenMode = isReadOnly ? .readOnly : .readWrite
            do throws(SystemError) { try Descriptor.open(path, mode.nonBlocking).close() } catch {
                throw EffectFailure(words(text(error)))
            }
        case .descriptor(let number):
            do throws(DescriptorProblem) {
                _ = try StartingDescriptor.file(number, isReadOnly: isReadOnly)
            } catch { throw EffectFailure(words(error.description)) }
        }
    }
}
