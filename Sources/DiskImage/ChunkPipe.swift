// SPDX-License-Identifier: Apache-2.0
//
// Zone 1 (plain threads): the thread that feeds a conversion decompresses into one chunk while the conversion's own
// thread digests, parses and writes the one before. A ring of a few chunks lies between them; two semaphores count
// its free and its filled chunks. The feeder waits when the ring is full, which is the back-pressure on a download.

internal import Glibc
internal import Platform
internal import Synchronization

/// A bounded ring of chunks from one feeding thread to one working thread.
///
/// The feeder owns a chunk from `freeChunks` to `filledChunks`, the worker from then on until it posts `freeChunks`; so
/// no byte is touched by both at once. That makes the class safe to share between these two threads.
@safe final class ChunkPipe: ByteSink, @unchecked Sendable {
    private enum Tag: Int {
        case data
        case end
        case cancelled
    }

    static let chunkInBytes = 512 << 10
    private static let chunkCount = 4

    private let memory: UnsafeMutableRawBufferPointer
    private let freeChunks: UnsafeMutablePointer<sem_t>
    private let filledChunks: UnsafeMutablePointer<sem_t>
    private let sizes: UnsafeMutablePointer<(Tag, Int)>
    private let failed = Atomic<Bool>(false)
    private let window = Atomic<Int>(0)
    private let failure = Mutex<DiskImageError?>(nil)

    // The feeder's own.
    private var feeding = 0
    private var used = 0
    private var holdsChunk = false

    // The worker's own.
    private var working = 0

    init() {
        unsafe memory = .allocate(byteCount: Self.chunkInBytes * Self.chunkCount, alignment: 4096)
        unsafe freeChunks = .allocate(capacity: 1)
        unsafe filledChunks = .allocate(capacity: 1)
        unsafe sizes = .allocate(capacity: Self.chunkCount)
        unsafe sizes.initialize(repeating: (.data, 0), count: Self.chunkCount)
        unsafe sem_init(freeChunks, 0, UInt32(Self.chunkCount))
        unsafe sem_init(filledChunks, 0, 0)
    }

    deinit {
        unsafe sem_destroy(freeChunks)
        unsafe sem_destroy(filledChunks)
        unsafe freeChunks.deallocate()
        unsafe filledChunks.deallocate()
        unsafe sizes.deallocate()
        unsafe memory.deallocate()
    }

    // MARK: The feeder

    func space() throws(DiskImageError) -> UnsafeMutableRawBufferPointer {
        try checkFailure()
        takeFreeChunk()
        return unsafe UnsafeMutableRawBufferPointer(rebasing: chunk(feeding)[used...])
    }

    func commit(_ count: Int) throws(DiskImageError) {
        used += count
        if used == Self.chunkInBytes { handOver(.data) }
    }

    /// Hands over what is left; the worker ends after it.
    func end() {
        takeFreeChunk()
        handOver(.end)
    }

    /// Has the worker end as soon as it can, without finishing.
    func cancel() {
        takeFreeChunk()
        handOver(.cancelled)
    }

    /// The worker's failure, if it had one.
    func checkFailure() throws(DiskImageError) {
        guard failed.load(ordering: .acquiring) else { return }
        if let error = failure.withLock({ $0 }) { throw error }
    }

    func willUse(windowInBytes: Int) { window.store(windowInBytes, ordering: .relaxed) }

    private func takeFreeChunk() {
        guard !holdsChunk else { return }
        unsafe Self.wait(freeChunks)
        holdsChunk = true
        used = 0
    }

    private func handOver(_ tag: Tag) {
        unsafe sizes[feeding] = (tag, used)
        feeding = (feeding + 1) % Self.chunkCount
        holdsChunk = false
        unsafe sem_post(filledChunks)
    }

    // MARK: The worker

    /// Bytes that the decompressor keeps to look back into.
    var windowInBytes: Int { window.load(ordering: .relaxed) }

    /// Gives each chunk to `body` until the feeder ends; whether it ended regularly. After a failure of `body` the rest
    /// is taken and dropped, so that the feeder never waits for a worker that gave up.
    func drain(_ body: (UnsafeRawBufferPointer) throws(DiskImageError) -> Void) -> Bool {
        var alive = true
        while true {
            unsafe Self.wait(filledChunks)
            let (tag, count) = unsafe sizes[working]
            if alive && tag != .cancelled && count > 0 {
                do throws(DiskImageError) {
                    try unsafe body(UnsafeRawBufferPointer(rebasing: chunk(working)[..<count]))
                } catch {
                    fail(error)
                    alive = false
                }
            }
            working = (working + 1) % Self.chunkCount
            unsafe sem_post(freeChunks)
            switch tag {
            case .data: continue
            case .end: return alive
            case .cancelled: return false
            }
        }
    }

    /// Leaves an error for the feeder.
    func fail(_ error: DiskImageError) {
        failure.withLock { $0 = $0 ?? error }
        failed.store(true, ordering: .releasing)
    }

    private func chunk(_ index: Int) -> UnsafeMutableRawBufferPointer {
        let start = index * Self.chunkInBytes
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + Self.chunkInBytes])
    }

    private static func wait(_ semaphore: UnsafeMutablePointer<sem_t>) {
        let result = retryingInterrupts { unsafe sem_wait(semaphore) }
        precondition(result == 0, "the semaphore is ours and valid")
    }
}

/// A POSIX thread that runs one closure and is joined once.
struct WorkerThread: ~Copyable {
    private let thread: pthread_t

    init(_ body: @escaping @Sendable () -> Void) throws(DiskImageError) {
        var thread = pthread_t()
        let box = unsafe Unmanaged.passRetained(ThreadBody(body))
        let result = unsafe pthread_create(&thread, nil, startThread, box.toOpaque())
        guard result == 0 else {
            unsafe box.release()
            throw .system(SystemError("pthread_create", code: result))
        }
        self.thread = thread
    }

    /// Waits for the thread's end.
    consuming func join() {
        let result = pthread_join(thread, nil)
        precondition(result == 0, "the thread is ours and joined once")
    }
}

private final class ThreadBody {
    let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

private func startThread(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let argument = unsafe argument {
        unsafe Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue().body()
    }
    return nil
}
