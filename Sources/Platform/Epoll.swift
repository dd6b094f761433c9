// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc

/// What a descriptor is ready for, or is watched for.
@usableFromInline package struct Readiness: OptionSet, Sendable {
    @usableFromInline package let rawValue: UInt32
    @inlinable package init(rawValue: UInt32) { self.rawValue = rawValue }
    @inlinable package static var readable: Readiness { Readiness(rawValue: 0x001) }
    @inlinable package static var writable: Readiness { Readiness(rawValue: 0x004) }
    /// Reported unasked: an error is pending.
    @inlinable package static var failed: Readiness { Readiness(rawValue: 0x008) }
    /// Reported unasked: both directions have ended.
    @inlinable package static var hungUp: Readiness { Readiness(rawValue: 0x010) }
    /// The peer will send no more.
    @inlinable package static var peerClosed: Readiness { Readiness(rawValue: 0x2000) }
    @inlinable package static var edgeTriggered: Readiness { Readiness(rawValue: 1 << 31) }
}

/// An epoll instance (epoll(7)). Each watched descriptor carries a token of the owner's choice.
package struct Epoll: ~Copyable, Sendable {
    private let descriptor: Descriptor

    package init() throws(SystemError) {
        let raw = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard raw >= 0 else { throw SystemError("epoll_create1") }
        descriptor = Descriptor(owning: raw)
    }

    /// The instance's own descriptor, which is readable when an event is pending.
    package var raw: Int32 { descriptor.raw }

    package borrowing func add(_ fd: Int32, _ readiness: Readiness, token: UInt64) throws(SystemError) {
        try control(EPOLL_CTL_ADD, fd, readiness, token)
    }

    package borrowing func modify(_ fd: Int32, _ readiness: Readiness, token: UInt64) throws(SystemError) {
        try control(EPOLL_CTL_MOD, fd, readiness, token)
    }

    package borrowing func remove(_ fd: Int32) throws(SystemError) {
        try control(EPOLL_CTL_DEL, fd, [], 0)
    }

    private borrowing func control(
        _ operation: Int32, _ fd: Int32, _ readiness: Readiness, _ token: UInt64
    ) throws(SystemError) {
        var event = unsafe epoll_event()
        unsafe event.events = readiness.rawValue
        unsafe event.data.u64 = token
        guard unsafe epoll_ctl(descriptor.raw, operation, fd, &event) == 0 else { throw SystemError("epoll_ctl") }
    }

    /// Waits for events and hands each to `body`; returns how many there were (0 after the timeout).
    /// - Parameter timeoutInMilliseconds: how long to wait; nil for as long as it takes.
    package borrowing func wait(
        _ events: inout EpollEvents, timeoutInMilliseconds: Int32? = nil
    ) throws(SystemError) -> Int {
        let raw = descriptor.raw
        let count = unsafe events.storage.withUnsafeMutableBufferPointer { space in
            retryingInterrupts {
                unsafe epoll_wait(raw, space.baseAddress, Int32(space.count), timeoutInMilliseconds ?? -1)
            }
        }
        guard count >= 0 else { throw SystemError("epoll_wait") }
        events.count = Int(count)
        return Int(count)
    }
}

/// Room for the events of one wait, kept between waits.
@safe package struct EpollEvents {
    // The kernel fills it; the union inside holds our token only.
    var storage: [epoll_event]
    package internal(set) var count = 0

    package init(capacity: Int = 64) {
        unsafe storage = Array(repeating: unsafe epoll_event(), count: capacity)
    }

    /// The token and the readiness of event `index`, which is below `count`.
    package subscript(index: Int) -> (token: UInt64, readiness: Readiness) {
        precondition(index < count)
        return unsafe (storage[index].data.u64, Readiness(rawValue: storage[index].events))
    }
}
