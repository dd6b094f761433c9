// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

@testable import KVM

@Suite struct KVMProbeTests {
    @Test func missingDeviceIsNamed() {
        guard case .unusable(.setup(.deviceMissing("/nowhere/kvm"))) = KVMProbe.run(path: "/nowhere/kvm") else {
            Issue.record("a missing device was not reported as missing")
            return
        }
    }

    @Test func foreignDeviceIsNotKVM() {
        guard case .unusable(.setup(.deviceMissing)) = KVMProbe.run(path: "/dev/null") else {
            Issue.record("/dev/null passed for KVM")
            return
        }
    }

    @Test func refusalNamesTheGroup() {
        #expect(KVMError.accessDenied("/dev/kvm").description.contains("group kvm"))
    }

    /// Whatever this host's KVM is like, the answer comes in time and says why.
    @Test func answersInTime() {
        let start = monotonicNanoseconds()
        let verdict = KVMProbe.run()
        #expect(monotonicNanoseconds() - start < 2_000_000_000)
        switch verdict {
        case .usable(let slowdown): #expect(slowdown > 0 && slowdown <= KVMProbe.tolerableSlowdown)
        case .unusable(let fault): #expect(!fault.description.isEmpty)
        }
        print(verdict)
    }
}
