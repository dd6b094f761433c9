// SPDX-License-Identifier: Apache-2.0

internal import Platform

/// Listeners that rest: without a descriptor to be had for who connects, they would be ready for ever. Who connects
/// waits in the backlog.
extension FabricService {
    private static var restInNanoseconds: UInt64 { 100_000_000 }

    /// The next connection of a listener; nil when none waits, or none can be had now.
    func accept(on listener: borrowing Descriptor, _ token: Token) -> Descriptor? {
        do throws(SystemError) {
            return try UnixSocket.accept(on: listener)
        } catch {
            outOfDescriptors += 1
            try? epoll.remove(listener.raw)
            resting.append(token)
            restsUntil = restsUntil ?? monotonicNanoseconds() + FabricService.restInNanoseconds
            return nil
        }
    }

    /// Watches again those that have rested: a descriptor may be free.
    func listenAgain() {
        let rested = resting
        resting = []
        restsUntil = nil
        for token in rested {
            switch token {
            case .control: try? epoll.add(control.raw, .readable, token: token.value)
            case .listener(let index):
                // Its port may be gone, and another one's listener, which is watched, have its number.
                if let port = ports[index] { try? epoll.add(port.listener.raw, .readable, token: token.value) }
            default: break
            }
        }
    }
}
