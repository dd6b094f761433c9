// SPDX-License-Identifier: Apache-2.0

/// Random bytes that a machine drew when it became one of its own. They are in its memory, and so in that of each machine
/// that is made from it, which knows by them that its generator gives other numbers.
package struct RandomSample {
    private var bytes: [UInt8] = []

    package init() {}

    /// Takes what was drawn just now in place of what was drawn before.
    /// - Parameter original: what the machine that this one was made of drew, as far as the host knows.
    /// - Returns: false where it is the same as one of these: the machine must not go on.
    package mutating func renew(_ drawn: [UInt8], original: [UInt8]) -> Bool {
        let isAnother = !drawn.isEmpty && drawn != bytes && drawn != original
        bytes = drawn
        return isAnother
    }
}
