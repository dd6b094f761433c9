// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import ImageStore
internal import Launch
internal import OCI
internal import Platform
internal import Worker

/// An image as a machine takes it.
struct PreparedImage {
    /// What the user called it.
    var name: String
    /// `sha256:…`
    var id: String
    var defaults: ImageDefaults
    /// What the machine's disk shows, one after another; lengths in bytes.
    var extents: [(path: String, length: UInt64)]

    /// Finds an image, and pulls and converts it where it is not stored.
    /// - Parameters:
    ///   - name: what to call it; nil for `text`.
    ///   - signals: one that comes while the image is fetched ends that, and this process.
    static func resolve(
        _ text: String, name: String?, pull: PullPolicy, insecure: Bool, signals: borrowing SignalQueue?
    ) throws -> PreparedImage {
        let image = try fetch(try ImageSource(text), pull: pull, insecure: insecure, signals: signals)
        let runtime = image.configuration.config
        var defaults = ImageDefaults()
        defaults.entrypoint = runtime.entrypoint ?? []
        defaults.command = runtime.command ?? []
        defaults.environment = runtime.environment ?? []
        defaults.user = runtime.user ?? ""
        defaults.workingDirectory = runtime.workingDirectory ?? ""
        defaults.stopSignal = runtime.stopSignal ?? ""
        return PreparedImage(
            name: name ?? text, id: image.id.description, defaults: defaults,
            extents: image.segments.map { ($0.path, $0.length) })
    }

    /// The way of every start first: what is stored is found without a thread.
    static func fetch(
        _ source: ImageSource, pull: PullPolicy, insecure: Bool, signals: borrowing SignalQueue?
    ) throws -> StoredImage {
        if pull != .always, case .registry = source, let image = try ImageStore.ofUser().lookUp(source) { return image }
        if case .stored = source, let image = try ImageStore.ofUser().lookUp(source) { return image }
        var options = RegistryOptions()
        if insecure, case .registry(let reference) = source {
            options.insecureRegistries.insert(reference.registry)
        }
        let store = try ImageStore.ofUser(registry: options)
        let display = PullDisplay()
        defer { display.finish() }
        return try waiting(signals) {
            try await store.resolve(source, pull: pull, progress: { display.take($0) })
        }
    }
}

/// Waits for what can only be done asynchronously. A signal that comes meanwhile cancels it and ends this process as
/// the signal itself would have.
func waiting<Value: Sendable>(
    _ signals: borrowing SignalQueue?, _ body: @escaping @Sendable () async throws -> Value
) throws -> Value {
    let done = try EventCounter()
    let box = ResultBox<Value>()
    let raw = try done.descriptor.duplicate()
    let task = Task.detached {
        do { box.result = .success(try await body()) } catch { box.result = .failure(error) }
        var one: UInt64 = 1
        _ = write(raw.raw, &one, 8)
    }
    var signalDescriptor: Int32 = -1
    switch signals {
    case .some(let queue): signalDescriptor = queue.descriptor.raw
    case .none: break
    }
    var interruption: Int32?
    while true {
        var entries = [
            pollfd(fd: done.descriptor.raw, events: Int16(POLLIN), revents: 0),
            pollfd(fd: interruption == nil ? signalDescriptor : -1, events: Int16(POLLIN), revents: 0),
        ]
        // What was cancelled has a moment to clear up; what it leaves then is swept by the next one.
        let count = entries.withUnsafeMutableBufferPointer { space in
            retryingInterrupts { poll(space.baseAddress, 2, interruption == nil ? -1 : 3000) }
        }
        if entries[0].revents != 0 || count == 0 { break }
        if entries[1].revents != 0 {
            switch signals {
            case .some(let queue): interruption = queue.next()
            case .none: break
            }
            // Those that mean something to a process only are lost on a process that is not there yet.
            if interruption == SIGUSR1 || interruption == SIGUSR2 { interruption = nil }
            if interruption != nil { task.cancel() }
        }
    }
    if let interruption { throw Failure(silentlyWith: 128 + interruption) }
    guard let result = box.result else { throw Failure("nothing came of it") }
    return try result.get()
}

/// Written by the task before it signals, read by its owner after that.
private final class ResultBox<Value: Sendable>: @unchecked Sendable {
    var result: Result<Value, any Error>?
}
