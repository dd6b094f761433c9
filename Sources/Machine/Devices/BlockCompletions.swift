// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Synchronization

/// The way back from the workers to the loop. Many items wake the loop once.
final class BlockCompletions: Sendable {
    let event: EventCounter
    private let done = Mutex(WorkList())

    init() throws(SystemError) { event = try EventCounter() }

    /// On a worker's thread.
    func append(_ item: WorkItem) {
        let isFirst = done.withLock { list in
            let isFirst = list.isEmpty
            list.append(item)
            return isFirst
        }
        if isFirst { event.signal() }
    }

    /// All that are there, on the loop's thread.
    func take() -> WorkList {
        event.drain()
        return done.withLock { list in
            let all = list
            list = WorkList()
            return all
        }
    }

    /// Waits until there is one.
    func wait() {
        var watched = pollfd(fd: event.descriptor.raw, events: Int16(POLLIN), revents: 0)
        _ = unsafe poll(&watched, 1, -1)
    }
}
