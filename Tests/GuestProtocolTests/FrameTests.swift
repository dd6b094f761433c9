// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import GuestProtocol

@Suite struct FrameTests {
    /// The bytes of Docs/GUEST-PROTOCOL.md.
    @Test func goldenBytes() {
        var bytes: [UInt8] = []
        Frame(.data, session: 1, stream: .output, offset: 3, payload: [0x68, 0x69]).write(to: &bytes)
        #expect(
            bytes == [
                2, 0, 0, 0, 9, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0x68, 0x69,
            ])
        bytes = []
        Frame(.signal, session: 1, payload: NumberMessage(15).payload).write(to: &bytes)
        #expect(
            bytes == [
                14, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                1, 0, 8, 0, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0,
            ])
    }

    private static let conversation: [Frame] = [
        Frame(.hello, payload: Hello().payload),
        Frame(.data, session: 7, stream: .errors, offset: 1 << 40, payload: [1, 2, 3]),
        Frame(.configured),
        Frame(.end, session: .max, stream: .output, offset: .max),
    ]

    @Test func splitAtEveryByte() {
        var bytes: [UInt8] = []
        for frame in FrameTests.conversation { frame.write(to: &bytes) }
        for cut in 0...bytes.count {
            var decoder = FrameDecoder()
            decoder.append(bytes[..<cut])
            var frames = decoder.frames()
            decoder.append(bytes[cut...])
            frames += decoder.frames()
            #expect(frames == FrameTests.conversation, "cut at \(cut)")
        }
        var decoder = FrameDecoder()
        var frames: [Frame] = []
        for byte in bytes {
            decoder.append([byte])
            frames += decoder.frames()
        }
        #expect(frames == FrameTests.conversation)
    }

    @Test(
        arguments: [
            (FrameKind.data.rawValue, 65_536, true), (FrameKind.data.rawValue, 65_537, false),
            (FrameKind.request.rawValue, 1_048_576, true), (FrameKind.request.rawValue, 1_048_577, false),
            (FrameKind.configure.rawValue, 1_048_576, true), (FrameKind.configure.rawValue, 1_048_577, false),
            (999, 65_536, true), (999, 65_537, false), (0, UInt32.max, false),
        ] as [(UInt16, UInt32, Bool)])
    func limits(kind: UInt16, length: UInt32, isGood: Bool) {
        var header = FrameHeader(.hello)
        header.kind = kind
        header.payloadLength = length
        var bytes: [UInt8] = []
        header.write(to: &bytes)
        var decoder = FrameDecoder()
        decoder.append(bytes)
        #expect(decoder.next() == nil)
        #expect(decoder.isBroken == !isGood, "what is too long is known before any of it came")
        if isGood {
            decoder.append([UInt8](repeating: 0, count: Int(length)))
            #expect(decoder.next()?.payload.count == Int(length))
        }
        decoder.append(bytes)
        if !isGood { #expect(decoder.next() == nil, "nothing after it is taken") }
    }

    /// A kind that this version does not know comes through with its payload, for the caller to skip.
    @Test func unknownKinds() {
        var frame = Frame(.hello, session: 5, payload: [9])
        frame.header.kind = 4711
        frame.header.stream = 99
        var bytes: [UInt8] = []
        frame.write(to: &bytes)
        Frame(.go, session: 1).write(to: &bytes)
        var decoder = FrameDecoder()
        decoder.append(bytes)
        let frames = decoder.frames()
        #expect(frames.count == 2)
        #expect(frames[0].kind == nil)
        #expect(frames[0].stream == nil)
        #expect(frames[1].kind == .go)
    }
}
