// SPDX-License-Identifier: Apache-2.0

package import Platform

/// A descriptor that several hold, or that is there or not: closed with the last holder.
package final class SharedDescriptor: Sendable {
    package let descriptor: Descriptor

    package init(_ descriptor: consuming Descriptor) {
        self.descriptor = descriptor
    }

    package var raw: Int32 { descriptor.raw }
}
