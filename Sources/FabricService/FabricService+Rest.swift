// SPDX-License-Identifier: Apache-2.0

internal import Glibc
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
            rest(token)
            return nil
        }
    }

    private func rest(_ token: Token) {
        resting.append(token)
        restsUntil = restsUntil ?? monotonicNanoseconds() + FabricService.restInNanoseconds
    }

    /// Watches again those that have rested: a descriptor may be free.
    func listenAgain() {
        let rested = resting
        resting = []
        restsUntil = nil
        for token in rested {
            switch token {
            case .control: listen(control.raw, token)
            // Its port may be gone.
            case .listener(let index): if let port = ports[index] { listen(port.listener.raw, token) }
            default: break
            }
        }
    }

    private func listen(_ raw: Int32, _ token: Token) {
        do throws(SystemError) { try epoll.add(raw, .readable, token: token.value) } catch {
            // Another port may have this one's number by now, whose listener is watched.
            if error.code != EEXIST { rest(token) }
        }
    }
}
