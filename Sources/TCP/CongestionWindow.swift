// SPDX-License-Identifier: Apache-2.0

/// How much may be on its way: slow start and congestion avoidance (RFC 5681), counted in bytes (RFC 3465), with the
/// halvings of fast recovery and the restart after a timeout. In bytes.
struct CongestionWindow: Sendable {
    /// Links of ours are local memory; what is beyond this helps nobody.
    static let limit = 16 << 20

    private(set) var window: Int
    private(set) var threshold = CongestionWindow.limit
    private var credit = 0
    /// The window has held something back since the last acknowledgement: only then does it grow (RFC 7661's concern).
    var isLimiting = false

    init(segmentSize: Int, initialWindow: Int) { window = segmentSize * initialWindow }

    mutating func acknowledged(_ bytes: Int, segmentSize: Int) {
        guard isLimiting else { return }
        isLimiting = false
        if window < threshold {
            window = min(Self.limit, window + bytes)
        } else {
            credit += bytes
            if credit >= window {
                credit -= window
                window = min(Self.limit, window + segmentSize)
            }
        }
    }

    /// A loss that acknowledgements told of (RFC 5681 §3.2, RFC 6675 §5 step 4).
    mutating func halve(flight: Int, segmentSize: Int) {
        threshold = max(flight / 2, 2 * segmentSize)
        window = threshold
        credit = 0
    }

    /// A loss that only the timer told of (RFC 5681 §3.1). A second timeout of the same data leaves the threshold.
    mutating func collapse(flight: Int, segmentSize: Int, isRepeated: Bool) {
        if !isRepeated { threshold = max(flight / 2, 2 * segmentSize) }
        window = segmentSize
        credit = 0
        isLimiting = true
    }

    /// NewReno without selective acknowledgements: the window is inflated by what has left the network (RFC 6582 §3.2).
    mutating func inflate(by bytes: Int) { window = min(Self.limit, window + bytes) }

    mutating func deflate(by bytes: Int, segmentSize: Int) {
        window = max(segmentSize, window - bytes) + (bytes >= segmentSize ? segmentSize : 0)
    }

    /// The end of a fast recovery.
    mutating func settle(flight: Int, segmentSize: Int) {
        window = min(threshold, max(flight, segmentSize) + segmentSize)
    }

    /// After a silence of more than a timeout, what was known of the network is old (RFC 5681 §4.1).
    mutating func restartAfterIdle(initial: Int) { window = min(window, initial) }
}
