// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI
internal import Platform

/// A machine that is handed its memory, from the handshake to its end. All calls on the server's thread.
final class PageClient {
    /// How many threads of a machine may wait for pages at a time.
    private static let waitingLimit = 4096
    /// The most reads of events in one turn, lest one client holds up the others.
    private static let turnLimit = 8

    let number: UInt64
    let connection: Descriptor
    /// On the monotonic clock, in nanoseconds: when it must have said what its memory is.
    let deadline: UInt64
    private var handshake: Handshake? = Handshake()
    private var faults: Userfault?
    private var pages = ClientPages(MemoryHandoff(regions: []))
    /// Addresses that somebody waits at.
    private var waiting: [UInt64] = []
    /// Addresses that somebody waits at for what is still at another host, and what that is, by its offset.
    private var awaiting: [(address: UInt64, bytes: Range<UInt64>)] = []

    init(_ connection: consuming Descriptor, number: UInt64, deadline: UInt64) {
        self.connection = connection
        self.number = number
        self.deadline = deadline
    }

    /// Whether it has not said yet what its memory is.
    var isGreeting: Bool { handshake != nil }
    /// Whether somebody waits who could not be helped: its memory was changing.
    var isWaiting: Bool { !waiting.isEmpty }
    /// The descriptor that tells of faults, once there is one.
    var faultDescriptor: Int32? { faults?.descriptor.raw }

    /// The connection has something: the handshake, or its end.
    func readConnection(_ image: borrowing MemoryImage) throws(ClientFailure) {
        guard isGreeting else {
            // Nothing more is expected. What comes is not looked at; but it must not come without end either.
            var space: UInt64 = 0
            let count = unsafe Glibc.read(connection.raw, &space, 8)
            if count == 0 || count < 0 && clinux_errno() != EAGAIN { throw .gone }
            return
        }
        guard let result = try handshake?.read(from: connection, fileSize: image.size) else { return }
        // Its state would go on over another machine's memory.
        if let wanted = result.handoff.snapshot, let served = image.snapshot, wanted != served {
            throw .otherSnapshot(wanted: wanted, served: served)
        }
        handshake = nil
        pages = ClientPages(result.handoff)
        faults = result.takeFaults()
    }

    /// Tells it why it is given up. Firecracker does not listen to that, nor does it mind.
    func say(_ reason: String) {
        let line = Array(reason.utf8)
        var none: Int32 = -1
        _ = unsafe line.withUnsafeBytes {
            unsafe clinux_send_descriptors(connection.raw, $0.baseAddress, $0.count, &none, 0)
        }
    }

    /// Puts pages where they are missing.
    func serve(_ image: inout MemoryImage) throws(ClientFailure) {
        for _ in 0..<Self.turnLimit {
            let events = try readEvents()
            // Removals first: what is missing after one is zero.
            for case .removed(let range) in events { pages.remove(range) }
            for case .missing(let address) in events { waiting.append(address) }
            guard waiting.count + awaiting.count <= Self.waitingLimit else {
                throw .supply("too many of its threads wait for pages")
            }
            let addresses = waiting
            waiting = []
            for address in addresses where try !supply(address, &image) { waiting.append(address) }
            if events.isEmpty { return }
        }
    }

    /// Puts pages where they were waited for, as far as they have come from the other host by now.
    func serveArrived(_ image: inout MemoryImage) throws(ClientFailure) {
        guard !awaiting.isEmpty else { return }
        let count = awaiting.count
        // In place: an address that goes on waiting keeps its place.
        var kept = 0
        for index in 0..<count {
            if image.has(awaiting[index].bytes) {
                waiting.append(awaiting[index].address)
            } else {
                awaiting[kept] = awaiting[index]
                kept += 1
            }
        }
        guard kept < count else { return }
        awaiting.removeLast(count - kept)
        try serve(&image)
    }

    private func readEvents() throws(ClientFailure) -> [Userfault.Event] {
        do throws(SystemError) { return try faults?.events() ?? [] } catch { throw .supply("\(error)") }
    }

    /// - Returns: false where the memory is changing, and this is to be done again after the next event.
    private func supply(_ address: UInt64, _ image: inout MemoryImage) throws(ClientFailure) -> Bool {
        guard let pieces = pages.pieces(missing: address, image.data) else {
            throw .supply("a page is missing at 0x\(String(address, radix: 16)), which is outside of its memory")
        }
        for (index, piece) in pieces.enumerated() {
            if let bytes = piece.bytes, !image.has(bytes) {
                if index > 0 { continue }
                image.want(bytes)
                awaiting.append((address, bytes))
                return true
            }
            // What is around may come later as well.
            guard try supply(piece, image) else { return index > 0 }
        }
        return true
    }

    private func supply(_ piece: ClientPages.Piece, _ image: borrowing MemoryImage) throws(ClientFailure) -> Bool {
        var done: UInt64 = 0
        while done < piece.count {
            let address = piece.address + done
            let supply = put(piece, from: done, image)
            pages.note(address, count: supply.byteCount)
            done += supply.byteCount
            switch supply.code {
            case 0: continue
            case EAGAIN where supply.byteCount > 0: continue
            case EAGAIN: return false
            case EEXIST:
                // Somebody may have begun to wait before it was there.
                pages.note(address, count: piece.pageSize)
                faults?.wake(address, count: piece.pageSize)
                done += piece.pageSize
            // The client unmapped it: whoever waited there sees that.
            case ENOENT: return true
            case ESRCH: throw .gone
            case let code: throw .supply("a page cannot be put into its memory: \(systemErrorText(code))")
            }
        }
        return true
    }

    private func put(_ piece: ClientPages.Piece, from done: UInt64, _ image: borrowing MemoryImage) -> Userfault.Supply
    {
        let rest = piece.count - done
        let nothing = Userfault.Supply(byteCount: 0, code: ESRCH)
        switch piece.content {
        case .file(let offset):
            let bytes = unsafe image.bytes(offset + done..<offset + done + rest)
            return unsafe faults?.copy(bytes, to: piece.address + done) ?? nothing
        case .zero where piece.pageSize > MemoryImage.pageSize:
            // The kernel gives no huge page of zeros; one that is copied does.
            guard let blank = try? MemoryMapping(count: Int(piece.pageSize), writable: false, shared: false) else {
                return Userfault.Supply(byteCount: 0, code: ENOMEM)
            }
            let bytes = unsafe UnsafeRawBufferPointer(start: blank.start, count: blank.count)
            return unsafe faults?.copy(bytes, to: piece.address + done) ?? nothing
        case .zero: return faults?.zero(piece.address + done, count: rest) ?? nothing
        }
    }
}
