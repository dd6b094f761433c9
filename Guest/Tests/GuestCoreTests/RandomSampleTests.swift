// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import GuestCore

/// Whether a machine notices that its random numbers are those of the one that it was made of.
@Suite struct RandomSampleTests {
    private let one = [UInt8](repeating: 1, count: 16)
    private let two = [UInt8](repeating: 2, count: 16)

    @Test func eachDrawIsAnother() {
        var sample = RandomSample()
        let isFirst = sample.renew(one, original: [])
        let isSecond = sample.renew(two, original: one)
        #expect(isFirst && isSecond)
    }

    @Test func whatWasDrawnBeforeTheSnapshotIsRemembered() {
        var original = RandomSample()
        _ = original.renew(one, original: [])
        // Memory and all.
        var clone = original
        let isAnother = clone.renew(one, original: [])
        #expect(!isAnother)
    }

    @Test func whatTheHostKnowsOfIsCompared() {
        var clone = RandomSample()
        _ = clone.renew(two, original: [])
        let isAnother = clone.renew(one, original: one)
        #expect(!isAnother)
    }

    @Test func nothingIsNoNumber() {
        var sample = RandomSample()
        let isAnother = sample.renew([], original: one)
        #expect(!isAnother)
    }
}
