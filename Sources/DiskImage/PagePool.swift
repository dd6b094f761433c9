// SPDX-License-Identifier: Apache-2.0
//
// A page is in memory (in a frame), in the scratch file, or in both; one that was never changed is in neither, and reads
// as zeros. Which page leaves its frame for another is a clock's choice: the first that was not used since the hand came
// by last. Small images never fill the frames, and never have a scratch file.

internal import Glibc
internal import Platform

/// Memory for tables that may be larger than memory should be: pages, of which a bounded number is in memory while the
/// others lie in an unlinked file. Not for use by two threads at once.
@safe final class PagePool {
    static let pageInBytes = 16 << 10
    /// No page.
    static let none = UInt32.max
    /// Fewer frames would only move pages in circles.
    static let minimumFrames = 4

    private enum Mark {
        /// Used since the clock's hand came by.
        static let used: UInt8 = 1
        /// Not what the scratch file has.
        static let changed: UInt8 = 2
    }

    private let limits: ConversionLimits
    private let maximumPages: Int
    private let memory: MemoryMapping
    private let scratch: ScratchFile

    // By page; room for all that the limits allow, of which only what is used takes memory.
    private let frameOfPage: UnsafeMutablePointer<Int32>  // Owned. -1: in no frame.
    private var isInFile: [Bool] = []
    private var freePages: [UInt32] = []

    // By frame.
    private let pageOfFrame: UnsafeMutablePointer<UInt32>  // Owned.
    private let marks: UnsafeMutablePointer<UInt8>  // Owned.
    private var usedFrames = 0
    private var maximumFrames: Int
    private var hand = 0

    /// - Parameter output: the file for which all this is done; what does not fit into memory goes to the same place.
    init(limits: ConversionLimits, output: Int32) throws(DiskImageError) {
        self.limits = limits
        maximumPages = min(limits.metadataInBytes / Self.pageInBytes + 1, Int(Int32.max))
        maximumFrames = max(Self.minimumFrames, limits.memoryInBytes / Self.pageInBytes)
        let frames = maximumFrames
        memory = try system { () throws(SystemError) in
            try MemoryMapping(count: frames * Self.pageInBytes, shared: false, noReserve: true)
        }
        scratch = ScratchFile(beside: output)
        unsafe frameOfPage = .allocate(capacity: maximumPages)
        unsafe pageOfFrame = .allocate(capacity: frames)
        unsafe marks = .allocate(capacity: frames)
    }

    deinit {
        unsafe frameOfPage.deallocate()
        unsafe pageOfFrame.deallocate()
        unsafe marks.deallocate()
    }

    /// Bytes that lie in the scratch file.
    var spilledInBytes: Int { isInFile.count { $0 } * Self.pageInBytes }

    /// A page of zeros.
    func makePage() throws(DiskImageError) -> UInt32 {
        if let page = freePages.popLast() { return page }
        guard isInFile.count < maximumPages else {
            throw .limit(entry: "image", limit: .metadata, maximum: UInt64(limits.metadataInBytes))
        }
        unsafe (frameOfPage + isInFile.count).initialize(to: -1)
        isInFile.append(false)
        return UInt32(isInFile.count - 1)
    }

    /// Gives pages up, with what is in them.
    func release(_ pages: [UInt32]) {
        for page in pages {
            let frame = unsafe Int(frameOfPage[Int(page)])
            if frame >= 0 {
                unsafe pageOfFrame[frame] = Self.none
                unsafe marks[frame] = 0
            }
            unsafe frameOfPage[Int(page)] = -1
            isInFile[Int(page)] = false
        }
        freePages.append(contentsOf: pages)
    }

    /// Where a page is. That holds until the next call; for `kept` also after this one, if it was in memory before.
    /// - Parameter changing: whether the caller writes to it.
    @inline(__always)
    func address(
        of page: UInt32, changing: Bool, keeping kept: UInt32 = none
    ) throws(DiskImageError) -> UnsafeMutableRawPointer {
        var frame = unsafe Int(frameOfPage[Int(page)])
        if frame < 0 { frame = try load(page, keeping: kept) }
        unsafe marks[frame] |= changing ? Mark.used | Mark.changed : Mark.used
        return unsafe memory.start + frame * Self.pageInBytes
    }

    /// Makes do with less memory from now on.
    func limitMemory(to bytes: Int) throws(DiskImageError) {
        maximumFrames = max(Self.minimumFrames, min(maximumFrames, bytes / Self.pageInBytes))
        guard usedFrames > maximumFrames else { return }
        for frame in maximumFrames..<usedFrames { try vacate(frame) }
        let start = unsafe memory.start + maximumFrames * Self.pageInBytes
        _ = unsafe madvise(start, (usedFrames - maximumFrames) * Self.pageInBytes, MADV_DONTNEED)
        usedFrames = maximumFrames
        hand = 0
    }

    // MARK: Frames

    @inline(never)
    private func load(_ page: UInt32, keeping kept: UInt32) throws(DiskImageError) -> Int {
        let frame = try takeFrame(keeping: kept)
        let start = unsafe memory.start + frame * Self.pageInBytes
        if isInFile[Int(page)] {
            try unsafe scratch.read(into: start, page: page)
        } else {
            unsafe start.initializeMemory(as: UInt8.self, repeating: 0, count: Self.pageInBytes)
        }
        unsafe pageOfFrame[frame] = page
        unsafe frameOfPage[Int(page)] = Int32(truncatingIfNeeded: frame)
        return frame
    }

    /// A frame with no page in it.
    private func takeFrame(keeping kept: UInt32) throws(DiskImageError) -> Int {
        if usedFrames < maximumFrames {
            unsafe marks[usedFrames] = 0
            usedFrames += 1
            return usedFrames - 1
        }
        while true {
            let frame = hand
            hand = hand + 1 == usedFrames ? 0 : hand + 1
            let page = unsafe pageOfFrame[frame]
            if page == Self.none { return frame }
            if page == kept { continue }
            if unsafe marks[frame] & Mark.used != 0 {
                unsafe marks[frame] &= ~Mark.used
                continue
            }
            try vacate(frame)
            return frame
        }
    }

    private func vacate(_ frame: Int) throws(DiskImageError) {
        let page = unsafe pageOfFrame[frame]
        guard page != Self.none else { return }
        if unsafe marks[frame] & Mark.changed != 0 {
            try unsafe scratch.write(from: memory.start + frame * Self.pageInBytes, page: page)
            isInFile[Int(page)] = true
        }
        unsafe frameOfPage[Int(page)] = -1
        unsafe pageOfFrame[frame] = Self.none
        unsafe marks[frame] = 0
    }
}

/// Where the pages of a pool go that find no room in memory: a file without a name, made when it is first needed.
private final class ScratchFile {
    private let output: Int32
    private var file: Int32 = -1  // Owned.

    init(beside output: Int32) { self.output = output }

    deinit { if file >= 0 { close(file) } }

    func write(from source: UnsafeRawPointer, page: UInt32) throws(DiskImageError) {
        if file < 0 { file = try open() }
        let offset = Int(page) * PagePool.pageInBytes
        var done = 0
        while done < PagePool.pageInBytes {
            let result = retryingInterrupts {
                unsafe pwrite(file, source + done, PagePool.pageInBytes - done, offset + done)
            }
            guard result > 0 else {
                throw .system(SystemError("pwrite", "scratch file", code: result == 0 ? EIO : errno))
            }
            done += result
        }
    }

    func read(into target: UnsafeMutableRawPointer, page: UInt32) throws(DiskImageError) {
        let offset = Int(page) * PagePool.pageInBytes
        var done = 0
        while done < PagePool.pageInBytes {
            let result = retryingInterrupts {
                unsafe pread(file, target + done, PagePool.pageInBytes - done, offset + done)
            }
            guard result > 0 else {
                throw .system(SystemError("pread", "scratch file", code: result == 0 ? EIO : errno))
            }
            done += result
        }
    }

    /// In the directory of the output, where there has to be room for an image anyway; for an output that has no
    /// directory (a file in memory) where temporary files go.
    private func open() throws(DiskImageError) -> Int32 {
        var directory = "/var/tmp"
        if let variable = unsafe getenv("TMPDIR"), unsafe variable.pointee != 0 {
            directory = unsafe String(cString: variable)
        }
        if let path = try? Files.readSymbolicLink("/proc/self/fd/\(output)"),
            let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")), path.utf8.first == UInt8(ascii: "/")
        {
            let parent = slash == path.utf8.startIndex ? "/" : String(path[..<slash])
            if Files.isDirectory(parent) { directory = parent }
        }
        return try system { () throws(SystemError) in
            do throws(SystemError) {
                return try Descriptor.open(directory, .unnamed, permissions: 0o600).release()
            } catch {
                // A file system may have no files without a name.
                guard [EOPNOTSUPP, EISDIR, ENOENT].contains(error.code) else { throw error }
                let name = "\(directory)/.martlet-scratch-\(getpid())-\(monotonicNanoseconds())"
                let file = try Descriptor.open(name, .createNew, permissions: 0o600)
                Files.remove(name)
                return file.release()
            }
        }
    }
}
