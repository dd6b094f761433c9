// SPDX-License-Identifier: Apache-2.0

package import Synchronization

/// A mutex that closures share.
package final class MutexBox<Value: Sendable>: Sendable {
    package let mutex: Mutex<Value>

    package init(_ value: Value) { mutex = Mutex(value) }
}
