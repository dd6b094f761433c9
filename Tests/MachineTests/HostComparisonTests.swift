// SPDX-License-Identifier: Apache-2.0

import KVM
import Testing

@testable import Machine

/// A state that was taken on one host is restored on another, or it is said why not.
@Suite struct HostComparisonTests {
    private let saved: MachineState

    init() throws { saved = try MachineState(reading: try #require(snapshotCorpus("state").first).bytes) }

    private func check(
        acceptsOtherModel: Bool = false, saved changed: MachineState? = nil, _ change: (inout HostAbilities) -> Void
    ) -> Result<Bool, MachineError> {
        var host = saved.host
        change(&host)
        let comparison = HostComparison(saved: changed ?? saved, host: host)
        do throws(MachineError) { return .success(try comparison.check(acceptsOtherModel: acceptsOtherModel)) } catch {
            return .failure(error)
        }
    }

    private func expect(_ result: Result<Bool, MachineError>, _ reason: String) {
        guard case .failure(let error) = result, case .incompatible = error else {
            Issue.record("\(reason): \(result)")
            return
        }
        #expect("\(error)".hasPrefix("the machine will not be restored here, because "), "\(error)")
        #expect("\(error)".contains(reason), "\(error)")
    }

    private static func edit(_ host: inout HostAbilities, _ function: UInt32, _ change: (inout CPUIDEntry) -> Void) {
        var entries = host.cpuid.entries
        for index in entries.indices where entries[index].function == function && entries[index].index == 0 {
            change(&entries[index])
        }
        host.cpuid = CPUIDTable(entries: entries)
    }

    @Test func whereItWasSavedItGoesOn() throws {
        #expect(try check({ _ in }).get() == false)
        // What this host has besides is not seen by the guest.
        #expect(try check({ $0.modelSpecificRegisters.append(0x1234_5678) }).get() == false)
    }

    @Test func anotherVendor() {
        let result = check { host in Self.edit(&host, 0) { $0.ebx ^= 1 } }
        expect(result, "it ran on a processor by ")
        expect(check(acceptsOtherModel: true) { host in Self.edit(&host, 0) { $0.ebx ^= 1 } }, "this host's is by ")
    }

    @Test func anotherModelUnlessThatIsAccepted() throws {
        let change: (inout HostAbilities) -> Void = { host in Self.edit(&host, 1) { $0.eax ^= 0x10 } }
        expect(check(change), "it ran on a processor of family ")
        #expect(try check(acceptsOtherModel: true, change).get() == false)
    }

    /// Any bit of the feature words that the guest was told, missing here.
    @Test func aMissingFeatureIsNamed() throws {
        let guest = try #require(saved.vcpus.first?.cpuid.entries.first { $0.function == 7 && $0.index == 0 })
        let told = try #require((0..<32).first { guest.ebx >> UInt32($0) & 1 != 0 })
        let result = check { host in Self.edit(&host, 7) { $0.ebx &= ~(1 << UInt32(told)) } }
        expect(result, "a feature that this host lacks: CPUID 0x7.0 EBX bit \(told)")
        // The whole leaf.
        expect(check { $0.cpuid = CPUIDTable(entries: $0.cpuid.entries.filter { $0.function != 7 }) }, "CPUID 0x7.0")
    }

    @Test func anotherSizeOfTheExtendedState() {
        expect(check { $0.extendedStateSize += 64 }, "its XSAVE area has \(saved.host.extendedStateSize) bytes")
    }

    @Test func aRegisterThatIsNotKnownHere() throws {
        let used = try #require(saved.vcpus.flatMap(\.modelSpecificRegisters).first { $0.value != 0 }).number
        let result = check { host in host.modelSpecificRegisters.removeAll { $0 == used } }
        expect(result, "the model-specific register 0x\(String(used, radix: 16))")
        // One that has nothing in it is not missed.
        var changed = saved
        for index in changed.vcpus.indices {
            changed.vcpus[index].modelSpecificRegisters.removeAll { $0.number == used }
        }
        changed.vcpus[0].modelSpecificRegisters.append(ModelSpecificRegister(number: used, value: 0))
        let unused = check(saved: changed) { host in host.modelSpecificRegisters.removeAll { $0 == used } }
        #expect(try unused.get() == false)
    }

    @Test func anotherFrequencyIsScaledOrRefused() throws {
        var changed = saved
        for index in changed.vcpus.indices { changed.vcpus[index].timestampFrequencyInKHz = 2_000_000 }
        func check(_ here: UInt32, _ scales: Bool) -> Result<Bool, MachineError> {
            self.check(saved: changed) { host in (host.timestampFrequencyInKHz, host.scalesTimestamps) = (here, scales)
            }
        }
        // Two measurements of one frequency.
        #expect(try check(2_000_400, false).get() == false)
        #expect(try check(2_100_000, true).get() == true)
        expect(check(2_100_000, false), "counts 2000000 times a millisecond, this host's 2100000 times")
    }
}
