// SPDX-License-Identifier: Apache-2.0

import CLinux
import Platform
import Synchronization

private final class Outcome<Value: Sendable>: Sendable {
    let value = Mutex<Result<Value, any Error>?>(nil)
}

/// Runs `body` in a thread that lives in a network namespace that `ip netns` made. Sockets and devices that it opens stay
/// there.
package func inside<Result: Sendable>(
    _ namespace: String, _ body: @escaping @Sendable () throws -> Result
) throws -> Result {
    let box = Outcome<Result>()
    let thread = try Thread(name: "inside", stackSizeInBytes: 1 << 20) {
        let result = Swift.Result {
            let descriptor = try Descriptor.open("/run/netns/\(namespace)", .readOnly)
            guard clinux_enter_network(descriptor.raw) == 0 else { throw SystemError("setns", namespace) }
            return try body()
        }
        box.value.withLock { $0 = result }
    }
    thread.join()
    guard let result = box.value.withLock({ $0 }) else { throw SystemError("setns", code: 5) }
    return try result.get()
}
