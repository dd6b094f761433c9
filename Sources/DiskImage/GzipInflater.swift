// SPDX-License-Identifier: Apache-2.0

internal import CISAL

/// A gzip stream (RFC 1952) of one member or several; headers and trailers are checked by ISA-L.
@safe final class GzipInflater {
    private enum Phase {
        /// Within a member, its header and trailer included.
        case member
        /// A member has ended whole; another may follow.
        case between
        /// Only zero bytes may follow, as tape-minded writers leave them.
        case padding
    }

    private let state: UnsafeMutablePointer<inflate_state>  // Owned: from init to deinit.
    private var phase = Phase.member

    init() {
        unsafe state = .allocate(capacity: 1)
        unsafe isal_inflate_init(state)
        unsafe state.pointee.crc_flag = UInt32(ISAL_GZIP)
    }

    deinit { unsafe state.deallocate() }

    /// - Parameter offset: where in the compressed stream `input` starts, for messages.
    func push(_ input: UnsafeRawBufferPointer, at offset: UInt64, to sink: some ByteSink) throws(DiskImageError) {
        guard let base = input.baseAddress else { return }
        var done = 0
        while done < input.count {
            switch phase {
            case .padding:
                guard unsafe input[done] == 0 else {
                    throw .compressedData(
                        format: .gzip, offset: offset + UInt64(done), problem: "other data follows the stream's end")
                }
                done += 1
            case .between:
                if unsafe input[done] == 0 {
                    phase = .padding
                } else {
                    unsafe isal_inflate_reset(state)
                    unsafe state.pointee.crc_flag = UInt32(ISAL_GZIP)
                    phase = .member
                }
            case .member:
                let count = min(input.count - done, 1 << 30)
                let start = unsafe UnsafeMutableRawPointer(mutating: base + done)
                unsafe state.pointee.next_in = start.assumingMemoryBound(to: UInt8.self)
                unsafe state.pointee.avail_in = UInt32(count)
                let consumedBefore = done
                try inflateAll(to: sink) { left in offset + UInt64(consumedBefore + count - min(left, count)) }
                let unused = unsafe Int(state.pointee.avail_in)
                // Only of a header that was wrong does ISA-L give back more than it was given.
                guard unused <= count else { throw damaged(at: offset + UInt64(done), ISAL_INVALID_WRAPPER) }
                done += count - unused
            }
        }
    }

    /// Inflates until the input is used up, or the member has ended.
    private func inflateAll(to sink: some ByteSink, position: (Int) -> UInt64) throws(DiskImageError) {
        while true {
            let space = try unsafe sink.space()
            let room = min(space.count, 1 << 30)
            unsafe state.pointee.next_out = space.baseAddress?.assumingMemoryBound(to: UInt8.self)
            unsafe state.pointee.avail_out = UInt32(room)
            let result = unsafe isal_inflate(state)
            guard result == ISAL_DECOMP_OK || result == ISAL_END_INPUT || result == ISAL_OUT_OVERFLOW else {
                throw damaged(at: position(unsafe Int(state.pointee.avail_in)), result)
            }
            let left = Int(unsafe state.pointee.avail_out)
            if room > left { try sink.commit(room - left) }
            if unsafe state.pointee.block_state == ISAL_BLOCK_FINISH {
                phase = .between
                return
            }
            // With room left and no input, ISA-L has nothing more to give.
            if unsafe state.pointee.avail_in == 0 && left > 0 { return }
        }
    }

    func finish(at offset: UInt64) throws(DiskImageError) {
        guard phase != .member else { throw .truncated(what: "its gzip data", offset: offset) }
    }

    private func damaged(at offset: UInt64, _ result: Int32) -> DiskImageError {
        .compressedData(format: .gzip, offset: offset, problem: Self.text(result))
    }

    private static func text(_ result: Int32) -> String {
        switch result {
        case ISAL_INVALID_BLOCK: "invalid block"
        case ISAL_INVALID_SYMBOL: "invalid symbol"
        case ISAL_INVALID_LOOKBACK: "invalid distance"
        case ISAL_INVALID_WRAPPER: "invalid gzip header"
        case ISAL_UNSUPPORTED_METHOD: "unknown compression method"
        case ISAL_INCORRECT_CHECKSUM: "wrong checksum or length"
        case ISAL_NEED_DICT: "a dictionary is asked for"
        default: "error \(result)"
        }
    }
}
