// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Worker

@Suite struct RandomSampleTests {
    @Test func textAndBytes() {
        let bytes = (0..<16).map { UInt8($0 * 17) }
        #expect(RandomSample.text(bytes) == "00112233445566778899aabbccddeeff")
        #expect(RandomSample.text(bytes + [1, 2]) == RandomSample.text(bytes))
        #expect(RandomSample.bytes(RandomSample.text(bytes)) == bytes)
        for text in ["", "00", String(repeating: "g", count: 32), String(repeating: "0", count: 34), "０" + "0"] {
            #expect(RandomSample.bytes(text) == nil)
        }
    }

    @Test func theSecondOfTwoThatDrewTheSameIsNamed() {
        var samples = DrawnSamples()
        #expect(samples.note("aa", of: "one") == nil)
        #expect(samples.note("bb", of: "two") == nil)
        // Of a guest that showed none, nothing is known.
        #expect(samples.note(nil, of: "three") == nil)
        #expect(samples.note(nil, of: "four") == nil)
        #expect(samples.note("aa", of: "five") == "one")
    }
}
