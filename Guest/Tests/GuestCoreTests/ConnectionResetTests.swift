// SPDX-License-Identifier: Apache-2.0

import CGuest
import Glibc
import Testing

@testable import GuestCore

/// TCP connections of a machine that has become another one, in a network namespace of a thread's own.
@Suite struct ConnectionResetTests {
    @Test func thoseToOthersAreResetAndThoseWithinStay() throws {
        let outcome = try onThread { place in
            guard let (other, _) = connection(to: place), let (own, _) = connection(to: loopback) else { return [] }
            var byte: UInt8 = 0
            // One end or both of the first: the reset of one ends the other.
            let count = guest_reset_connections()
            let isEnded =
                recv(other, &byte, 1, Int32(MSG_DONTWAIT)) < 0 && [ECONNABORTED, ECONNRESET].contains(errno)
            let stays = recv(own, &byte, 1, Int32(MSG_DONTWAIT)) < 0 ? Int(errno) : 0
            return [min(count, 1), isEnded ? 1 : 0, stays]
        }
        #expect(outcome == [1, 1, Int(EAGAIN)])
    }

    /// What the kernel will not do is no success.
    @Test func aRefusalIsTold() throws {
        let outcome = try onThread { place in
            guard let (other, _) = connection(to: place), dropCapabilities() else { return [] }
            var byte: UInt8 = 0
            let result = guest_reset_connections()
            let stays = recv(other, &byte, 1, Int32(MSG_DONTWAIT)) < 0 ? Int(errno) : 0
            return [result, stays]
        }
        #expect(outcome == [-Int(EPERM), Int(EAGAIN)])
    }
}

private let loopback: [UInt8] = [127, 0, 0, 1]

/// Runs in a network namespace that has loopback and an address beside it, which is given to the body. The body returns
/// nothing where it could not do what it is to do.
private func onThread(_ body: @escaping @Sendable ([UInt8]) -> [Int]) throws -> [Int] {
    let work = Work(body)
    var thread = pthread_t()
    let code = pthread_create(&thread, nil, runWork, Unmanaged.passRetained(work).toOpaque())
    guard code == 0 else { throw Failure(code: code) }
    pthread_join(thread, nil)
    return work.outcome
}

private struct Failure: Error { let code: Int32 }

/// Its thread's until that is joined.
private final class Work: @unchecked Sendable {
    let body: @Sendable ([UInt8]) -> [Int]
    var outcome: [Int] = []
    init(_ body: @escaping @Sendable ([UInt8]) -> [Int]) { self.body = body }
}

private func runWork(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    let work = Unmanaged<Work>.fromOpaque(argument).takeRetainedValue()
    // Without this it would be the connections of whoever runs the tests.
    let newNetwork: UInt64 = 0x4000_0000
    guard guest_leave(newNetwork) == 0, guest_loopback_up() == 0 else { return nil }
    let address: [UInt8] = [10, 99, 0, 1]
    var batch = NetlinkBatch()
    batch.addAddress(address, prefixLength: 32, interface: 1)
    guard guest_route_requests(batch.bytes, batch.bytes.count, batch.count) == 0 else { return nil }
    work.outcome = work.body(address)
    return nil
}

/// Both ends of a connection to an address of this machine's, which stay open.
private func connection(to place: [UInt8]) -> (Int32, Int32)? {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = place.reversed().reduce(0) { $0 << 8 | UInt32($1) }
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let server = withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
            guard bind(listener, pointer, length) == 0, listen(listener, 1) == 0,
                getsockname(listener, pointer, &length) == 0, connect(client, pointer, length) == 0
            else { return -1 as Int32 }
            return accept(listener, nil, nil)
        }
    }
    return server < 0 ? nil : (client, server)
}

/// This thread's alone: the kernel refuses it what needs one.
private func dropCapabilities() -> Bool {
    typealias Call = @convention(c) (UnsafeMutablePointer<UInt32>, UnsafePointer<UInt32>) -> Int32
    guard let symbol = dlsym(nil, "capset") else { return false }
    let set = unsafeBitCast(symbol, to: Call.self)
    var head: [UInt32] = [0x2008_0522, 0]
    return set(&head, [0, 0, 0, 0, 0, 0]) == 0
}
