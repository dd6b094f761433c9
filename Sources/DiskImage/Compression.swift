// SPDX-License-Identifier: Apache-2.0

/// How a layer is compressed, which its first bytes tell.
package enum Compression: String, Equatable, Sendable, CustomStringConvertible {
    case none
    case gzip
    case zstd

    package var description: String { rawValue }

    /// What the first bytes of a stream announce.
    /// - Parameter magic: the first four bytes, or fewer where the stream is shorter.
    init(magic: [UInt8]) throws(DiskImageError) {
        if magic.starts(with: [0x1F, 0x8B]) {
            self = .gzip
        } else if magic.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) {
            self = .zstd
        } else if magic.count == 4 && magic[0] & 0xF0 == 0x50 && magic[1...].elementsEqual([0x2A, 0x4D, 0x18]) {
            self = .zstd  // a skippable frame (RFC 8878, 3.1.2)
        } else if magic.starts(with: [0xFD, 0x37, 0x7A, 0x58]) || magic.starts(with: Array("BZh".utf8)) {
            let name = magic[0] == 0xFD ? "xz" : "bzip2"
            throw .compressedData(
                format: .none, offset: 0, problem: "\(name) compression is not supported (gzip, zstd and none are)")
        } else {
            self = .none
        }
    }
}

/// Where decompressed bytes go: the decompressor writes straight into the sink's own memory.
protocol ByteSink: AnyObject {
    /// Memory for at least one byte, valid until `commit`. May wait until there is some.
    func space() throws(DiskImageError) -> UnsafeMutableRawBufferPointer
    /// Says that so many bytes at the start of `space()` are filled.
    func commit(_ count: Int) throws(DiskImageError)
    /// Says how much memory the decompressor takes to look back into what it gave.
    func willUse(windowInBytes: Int)
}

extension ByteSink {
    func willUse(windowInBytes: Int) {}
}

/// Decompresses a stream that comes in pieces of any size.
final class Decompressor {
    private enum State {
        case detecting([UInt8])
        case stored
        case gzip(GzipInflater)
        case zstd(ZstdInflater)
    }

    private var state = State.detecting([])
    /// Bytes of compressed input taken so far.
    private(set) var inputInBytes: UInt64 = 0

    /// What the stream turned out to be; nil before four bytes came.
    var format: Compression? {
        switch state {
        case .detecting: nil
        case .stored: Compression.none
        case .gzip: .gzip
        case .zstd: .zstd
        }
    }

    func push(_ input: UnsafeRawBufferPointer, to sink: some ByteSink) throws(DiskImageError) {
        if case .detecting(var head) = state {
            let taken = min(4 - head.count, input.count)
            for index in 0..<taken { unsafe head.append(input[index]) }
            state = .detecting(head)
            guard head.count == 4 else { return }
            try start(head, sink)
            try unsafe pushDetected(UnsafeRawBufferPointer(rebasing: input[taken...]), to: sink)
            return
        }
        try unsafe pushDetected(input, to: sink)
    }

    /// The stream has ended: whether it may.
    func finish(to sink: some ByteSink) throws(DiskImageError) {
        if case .detecting(let head) = state { try start(head, sink) }
        switch state {
        case .detecting, .stored: break
        case .gzip(let inflater): try inflater.finish(at: inputInBytes)
        case .zstd(let inflater): try inflater.finish(at: inputInBytes)
        }
    }

    private func start(_ head: [UInt8], _ sink: some ByteSink) throws(DiskImageError) {
        switch try Compression(magic: head) {
        case .none: state = .stored
        case .gzip: state = .gzip(GzipInflater())
        case .zstd: state = .zstd(try ZstdInflater())
        }
        // A closure would have to carry the typed error through withUnsafeBytes; the head is four bytes at most.
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, head.count), alignment: 8)
        defer { unsafe copy.deallocate() }
        for index in head.indices { unsafe copy[index] = head[index] }
        try unsafe pushDetected(UnsafeRawBufferPointer(rebasing: copy[..<head.count]), to: sink)
    }

    private func pushDetected(_ input: UnsafeRawBufferPointer, to sink: some ByteSink) throws(DiskImageError) {
        switch state {
        case .detecting: break
        case .stored: try unsafe copy(input, to: sink)
        case .gzip(let inflater): try unsafe inflater.push(input, at: inputInBytes, to: sink)
        case .zstd(let inflater): try unsafe inflater.push(input, at: inputInBytes, to: sink)
        }
        inputInBytes += UInt64(input.count)
    }

    private func copy(_ input: UnsafeRawBufferPointer, to sink: some ByteSink) throws(DiskImageError) {
        var done = 0
        while done < input.count {
            let space = try unsafe sink.space()
            let count = min(space.count, input.count - done)
            unsafe space.copyMemory(from: UnsafeRawBufferPointer(rebasing: input[done..<done + count]))
            try sink.commit(count)
            done += count
        }
    }
}
