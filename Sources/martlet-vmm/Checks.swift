// SPDX-License-Identifier: Apache-2.0

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
        do throws(SystemError) { try touch(source.kernelImagePath, .readOnly) } catch {
            throw EffectFailure("The kernel file cannot be opened: \(text(error))")
        }
        guard let path = source.initrdPath else { return }
        do throws(SystemError) { try touch(path, .readOnly) } catch {
            throw EffectFailure(
                "The initrd file cannot be opened due to invalid path or invalid permissions. \(text(error))")
        }
    }

    static func open(_ drive: Drive) throws(EffectFailure) {
        switch drive.content {
        case .path(let path): try openFile(path, isReadOnly: drive.isReadOnly)
        case .extents(let extents): for extent in extents { try openFile(extent.path, isReadOnly: true) }
        }
    }

    /// Looks at what is to go behind a running machine's drive.
    static func openForReplacement(_ path: String, of drive: Drive?) throws(EffectFailure) {
        try openFile(path, isReadOnly: drive?.isReadOnly ?? true)
    }

    private static func openFile(_ path: String, isReadOnly: Bool) throws(EffectFailure) {
        do throws(SystemError) { try touch(path, isReadOnly ? .readOnly : .readWrite) } catch {
            throw EffectFailure("Virtio backend error: Error manipulating the backing file: \(text(error)) \(path)")
        }
    }

    static func bind(_ vsock: Vsock) throws(EffectFailure) {
        let path = vsock.socketPath
        do throws(SystemError) {
            try UnixSocket.listen(at: path).close()
            Files.remove(path)
        } catch {
            throw EffectFailure("Error binding to the host-side Unix socket: \(text(error))")
        }
    }

    private static func touch(_ path: String, _ mode: OpenMode) throws(SystemError) {
        try Descriptor.open(path, mode.nonBlocking).close()
    }
}
