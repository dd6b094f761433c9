// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import KVM

@Suite struct CPUIDTests {
    let supported = CPUIDTable(entries: [
        CPUIDEntry(function: 0, eax: 0x1f),
        CPUIDEntry(function: 1, ebx: 0xff10_0800, ecx: 0x1, edx: 0x1000_0000),
        CPUIDEntry(function: 4, index: 0, flags: 1, eax: 0xfc1f_c121),
        CPUIDEntry(function: 4, index: 3, flags: 1, eax: 0xfc1f_c163),
        CPUIDEntry(function: 4, index: 4, flags: 1, eax: 0),
        CPUIDEntry(function: 0xb, index: 0, flags: 1, edx: 99),
        CPUIDEntry(function: 0xb, index: 1, flags: 1, edx: 99),
        CPUIDEntry(function: 0x8000_0008, ecx: 0x7f),
        CPUIDEntry(function: 0x8000_001e, eax: 99),
    ])

    @Test(arguments: [(1, 1), (2, 1), (2, 2), (3, 1), (8, 2), (32, 1), (32, 2)])
    func everyVCPUHasItsOwnIdentity(count: Int, threads: Int) {
        let topology = CPUTopology(vcpuCount: count, threadsPerCore: threads)
        for vcpu in 0..<count {
            let table = supported.adjusted(for: vcpu, topology: topology, deadlineTimer: true)
            func leaf(_ function: UInt32, _ index: UInt32 = 0) -> CPUIDEntry? {
                table.entries.first { $0.function == function && $0.index == index }
            }
            #expect(leaf(1).map { $0.ebx >> 24 } == UInt32(vcpu))
            #expect(leaf(1).map { $0.ebx & 0xffff } == 0x0800)
            #expect(leaf(1).map { $0.ecx } == 0x8100_0001)
            #expect(leaf(1).map { $0.edx >> 28 & 1 } == (count > 1 ? 1 : 0))
            #expect(leaf(0xb)?.edx == UInt32(vcpu))
            #expect(leaf(0xb, 1)?.edx == UInt32(vcpu))
            #expect(leaf(0xb, 1)?.ebx == UInt32(count))
            #expect(leaf(0xb)?.ebx == UInt32(threads))
            #expect(leaf(0xb, 2).map { $0.ecx >> 8 } == 0)
            #expect(leaf(4).map { $0.eax >> 14 & 0xfff } == UInt32(threads - 1))
            #expect(leaf(4, 3).map { $0.eax >> 14 & 0xfff } == UInt32(count - 1))
            #expect(leaf(4, 4)?.eax == 0)
            #expect(leaf(0x8000_001e)?.eax == UInt32(vcpu))
            #expect(leaf(0x8000_0008).map { $0.ecx & 0xff } == UInt32(count - 1))
            // All APIC ids fit into what the package level says.
            #expect(leaf(0xb, 1).map { UInt32(vcpu) >> $0.eax } == 0)
        }
    }

    @Test func kernelFormatRoundTrips() {
        #expect(CPUIDTable(words: supported.words) == supported)
    }
}
