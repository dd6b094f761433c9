// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import Platform
internal import Wire

// Zone 1: one plain thread, which waits in read and write.

/// Answers what another host asks of a memory, over a stream. It ends with the stream, and has nothing to clear up.
@safe struct PageSender: ~Copyable {
    private let image: MemoryImage
    private let input: Descriptor
    private let output: Descriptor
    private let announcement: [UInt8]
    private var answer = [UInt8](repeating: 0, count: PageStream.answerHeaderSize)
    private var requests = [UInt8](repeating: 0, count: PageStream.window * PageStream.requestSize)
    /// The header of an answer, and runs of pages: set anew for each.
    private var pieces = unsafe [iovec](repeating: iovec(), count: 1 + 8)

    /// - Parameters:
    ///   - input, output: blocking.
    ///   - first: the file that says which pages machines touch first; it may be missing.
    init(
        _ image: consuming MemoryImage, first: String? = nil, input: consuming Descriptor,
        output: consuming Descriptor
    ) {
        let hint = first.flatMap { try? Files.read($0, limit: 1 << 20) }
        announcement = image.announcement(first: hint).encoded()
        self.image = image
        self.input = input
        self.output = output
    }

    /// Announces the memory, and answers until the stream ends, which is no failure between two requests.
    mutating func run() throws(StreamFailure) {
        do throws(SystemError) {
            try output.writeAll(announcement)
        } catch {
            throw Self.failure(error)
        }
        var filled = 0
        while true {
            let (raw, done) = (input.raw, filled)
            let got = unsafe requests.withUnsafeMutableBytes { bytes in
                retryingInterrupts {
                    unsafe read(raw, bytes.baseAddress.map { unsafe $0 + done }, bytes.count - done)
                }
            }
            guard got >= 0 else { throw Self.failure(SystemError("read")) }
            guard got > 0 else {
                guard filled == 0 else { throw .answer("half a request") }
                return
            }
            filled += got
            let whole = filled - filled % PageStream.requestSize
            for place in stride(from: 0, to: whole, by: PageStream.requestSize) {
                try answer(requests.integer(at: place, as: UInt64.self) ?? .max)
            }
            for index in whole..<filled { requests[index - whole] = requests[index] }
            filled -= whole
        }
    }

    private mutating func answer(_ offset: UInt64) throws(StreamFailure) {
        guard offset % PageStream.chunkSize == 0, offset < image.size else {
            throw .answer("a request for what is no chunk of the memory, at \(offset)")
        }
        let pages = image.data.pages(ofChunk: Int(offset / PageStream.chunkSize))
        answer.setInteger(offset, at: 0)
        answer.setInteger(pages, at: 8)
        var count = 1
        var page = 0
        while page < 16 {
            var end = page
            while end < 16, pages >> UInt16(end) & 1 != 0 { end += 1 }
            if end > page {
                let start = offset + UInt64(page) * PageStream.pageSize
                let bytes = unsafe image.bytes(start..<offset + UInt64(end) * PageStream.pageSize)
                unsafe pieces[count] = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
                count += 1
            }
            page = end + 1
        }
        let raw = output.raw
        let failure = unsafe answer.withUnsafeMutableBytes { header -> SystemError? in
            unsafe pieces[0] = iovec(iov_base: header.baseAddress, iov_len: header.count)
            return unsafe pieces.withUnsafeMutableBufferPointer { unsafe Self.writeAll($0, count, to: raw) }
        }
        if let failure { throw Self.failure(failure) }
    }

    private static func failure(_ error: SystemError) -> StreamFailure {
        error.code == EPIPE || error.code == ECONNRESET ? .ended : .system(error)
    }

    /// Writes all of some pieces, which the kernel reads: a file that has become shorter is an error, and no signal.
    private static func writeAll(
        _ pieces: UnsafeMutableBufferPointer<iovec>, _ count: Int, to raw: Int32
    ) -> SystemError? {
        var first = 0
        while first < count {
            let start = unsafe pieces.baseAddress.map { unsafe $0 + first }
            var put = retryingInterrupts { unsafe writev(raw, start, Int32(count - first)) }
            guard put > 0 else { return SystemError("writev") }
            while first < count, put > 0 {
                let length = unsafe min(put, pieces[first].iov_len)
                unsafe pieces[first].iov_len -= length
                unsafe pieces[first].iov_base = unsafe pieces[first].iov_base.map { unsafe $0 + length }
                put -= length
                if unsafe pieces[first].iov_len == 0 { first += 1 }
            }
        }
        return nil
    }
}
