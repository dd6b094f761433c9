// SPDX-License-Identifier: Apache-2.0

import Glibc
import Platform

/// A thread that writes or reads one descriptor to the end.
final class Pump: @unchecked Sendable {  // The thread is joined before anything of it is read.
    private var thread = pthread_t()
    private let body: () -> [UInt8]
    private var result: [UInt8] = []

    private init(_ body: @escaping () -> [UInt8]) {
        self.body = body
        let context = Unmanaged.passRetained(self).toOpaque()
        pthread_create(&thread, nil, { context in runPump(context) }, context)
    }

    /// Writes all and closes.
    convenience init(writing bytes: [UInt8], to descriptor: borrowing Descriptor) {
        let raw = dup(descriptor.raw)
        // The other end must see the end: the caller's own descriptor is shut down where that is possible.
        let original = descriptor.raw
        self.init {
            let file = Descriptor(owning: raw)
            try? file.writeAll(bytes)
            file.close()
            if shutdown(original, Int32(SHUT_WR)) != 0 { dup2(Pump.nothing, original) }
            return []
        }
    }

    /// Reads to the end, or until so many bytes came.
    convenience init(reading descriptor: borrowing Descriptor, until limit: Int = .max) {
        let raw = dup(descriptor.raw)
        self.init { Pump.read(Descriptor(owning: raw), until: limit) }
    }

    /// Reads to the end, from the time that another is done.
    convenience init(waitingFor other: Pump, thenReading descriptor: consuming Descriptor) {
        let raw = descriptor.release()
        self.init {
            _ = other.join()
            return Pump.read(Descriptor(owning: raw), until: .max)
        }
    }

    func join() -> [UInt8] {
        pthread_join(thread, nil)
        return result
    }

    fileprivate func run() { result = body() }

    private static let nothing = open("/dev/null", O_RDWR | O_CLOEXEC)

    private static func read(_ file: consuming Descriptor, until limit: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        var space = [UInt8](repeating: 0, count: 65_536)
        while bytes.count < limit {
            let count = Glibc.read(file.raw, &space, space.count)
            if count <= 0 { break }
            bytes += space[..<count]
        }
        return bytes
    }
}

private func runPump(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { Unmanaged<Pump>.fromOpaque(context).takeRetainedValue().run() }
    return nil
}
