// SPDX-License-Identifier: Apache-2.0

internal import CLinux

/// While it lives, a page of a private mapping of a file that is touched comes into this process's page tables alone, and
/// not with those around it (64 KiB, as a rule), which the kernel has there as well to save faults: so the page tables
/// say what was touched.
package struct SinglePageFaults: ~Copyable, Sendable {
    private let descriptor: Descriptor

    /// Nil where the kernel cannot do that: before Linux 6.7.
    package init?(_ memory: UnsafeRawBufferPointer) {
        let raw = clinux_map_singly(UInt64(UInt(bitPattern: memory.baseAddress)), UInt64(memory.count))
        guard raw >= 0 else { return nil }
        descriptor = Descriptor(owning: raw)
    }
}
