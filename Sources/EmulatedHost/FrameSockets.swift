// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform

/// Two sockets that hand each other frames, one a datagram: what QEMU takes as a network.
struct FrameSockets: ~Copyable {
    /// Never blocks.
    let ours: Descriptor
    let emulators: Descriptor

    init() throws(SystemError) {
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw SystemError("socketpair") }
        let first = Descriptor(owning: ends[0])
        let second = Descriptor(owning: ends[1])
        try first.setNonBlocking()
        ours = first
        emulators = second
    }
}
