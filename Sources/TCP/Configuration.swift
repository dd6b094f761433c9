// SPDX-License-Identifier: Apache-2.0

/// A point in time or a length of it, in microseconds; points count from anywhere, as long as they never go back.
package typealias Microseconds = UInt64

/// How an endpoint behaves.
package struct Configuration: Sendable {
    /// The largest payload of a segment that the link carries to us, without options: the MTU less 40 bytes (IPv4) or
    /// 60 (IPv6). It is announced, and it bounds what we send.
    package var segmentSize: UInt16 = 1460
    /// The most payload that one `OutgoingSegment` carries. Beyond `segmentSize` the link must be able to cut it up.
    package var largeSegmentLimit: UInt16 = 1460
    /// The most bytes that are taken before the application reads them; below 2³⁰.
    package var receiveCapacity: UInt32 = 256 << 10

    package var offersWindowScaling = true
    package var offersTimestamps = true
    package var offersSelective = true
    /// Small segments wait for the acknowledgement of what is on its way (RFC 9293 §3.7.4).
    package var coalescesSmallSegments = false
    /// How long an acknowledgement may wait for company; at most half a second (RFC 9293 §3.8.6.3).
    package var acknowledgementDelay: UInt32 = 20_000

    /// In segments (RFC 6928).
    package var initialWindow: UInt8 = 10
    package var initialTimeout: UInt32 = 1_000_000
    package var minimumTimeout: UInt32 = 200_000
    package var maximumTimeout: UInt32 = 60_000_000
    /// How often a segment is sent again before the connection is given up.
    package var retransmissionLimit: UInt8 = 10
    /// The same for a SYN.
    package var handshakeLimit: UInt8 = 5
    /// How long a silent connection waits until it is probed; 0 for ever.
    package var keepaliveIdle: UInt32 = 0
    package var keepaliveInterval: UInt32 = 75_000_000
    package var keepaliveLimit: UInt8 = 9
    /// Twice the longest life of a segment on the link.
    package var timeWait: UInt32 = 60_000_000

    package init() {}

    /// The shift that lets a window of `receiveCapacity` be told in 16 bits.
    var windowScale: UInt8 {
        var scale: UInt8 = 0
        while scale < 14 && receiveCapacity >> scale > 65535 { scale += 1 }
        return scale
    }
}
