// SPDX-License-Identifier: Apache-2.0

internal import Wire

/// How much a device may move: bytes and operations, each out of a bucket of tokens that fills up again.
package struct RateLimit: Equatable, Sendable {
    package struct Bucket: Equatable, Sendable {
        /// In tokens.
        package var size: UInt64
        /// How long an empty bucket takes to be full, in milliseconds.
        package var refillTime: UInt64
        /// Tokens beside the bucket's, which are there once.
        package var oneTimeBurst: UInt64?

        package init(size: UInt64, refillTime: UInt64, oneTimeBurst: UInt64? = nil) {
            self.size = size
            self.refillTime = refillTime
            self.oneTimeBurst = oneTimeBurst
        }

        /// Whether it limits anything: one without a size or a time does not, nor does one that takes longer than half a
        /// millennium.
        package var limits: Bool { size > 0 && refillTime > 0 && refillTime <= UInt64.max / 1_000_000 }
    }

    /// A token is a byte.
    package var bandwidth: Bucket?
    /// A token is a request or a frame.
    package var operations: Bucket?

    package init(bandwidth: Bucket? = nil, operations: Bucket? = nil) {
        self.bandwidth = bandwidth
        self.operations = operations
    }

    /// The limit without buckets that limit nothing; nil where none is left.
    package var effective: RateLimit? {
        let result = RateLimit(
            bandwidth: bandwidth.flatMap { $0.limits ? $0 : nil },
            operations: operations.flatMap { $0.limits ? $0 : nil })
        return result == RateLimit() ? nil : result
    }
}

/// New buckets for a limit that is in force: nil leaves what is there, one that limits nothing takes it away.
package typealias RateLimitUpdate = RateLimit

extension RateLimit? {
    /// What this limit is after the update.
    package func updated(by update: RateLimitUpdate?) -> RateLimit? {
        RateLimit(
            bandwidth: update?.bandwidth ?? self?.bandwidth, operations: update?.operations ?? self?.operations
        ).effective
    }
}

// MARK: - JSON

extension RateLimit.Bucket {
    /// As a body has it, whose shape was judged before.
    init(_ body: JSON) {
        self.init(
            size: body["size"]?.unsignedValue ?? 0, refillTime: body["refill_time"]?.unsignedValue ?? 0,
            oneTimeBurst: body["one_time_burst"]?.unsignedValue)
        if oneTimeBurst == 0 { oneTimeBurst = nil }
    }

    fileprivate init(reading view: JSONView) throws(JSONMismatch) {
        try view.requireMembers(among: ["size", "refill_time", "one_time_burst"])
        self.init(
            size: try view.required("size").unsigned(), refillTime: try view.required("refill_time").unsigned(),
            oneTimeBurst: try view.optional("one_time_burst")?.unsigned())
        if oneTimeBurst == 0 { oneTimeBurst = nil }
    }

    /// A bucket in a configuration file; nil where it limits nothing.
    static func read(_ view: JSONView?) throws(JSONMismatch) -> RateLimit.Bucket? {
        guard let view else { return nil }
        let bucket = try RateLimit.Bucket(reading: view)
        return bucket.limits ? bucket : nil
    }

    var json: JSON {
        .ordered([
            ("size", .number(size)), ("one_time_burst", oneTimeBurst.map(JSON.number) ?? .null),
            ("refill_time", .number(refillTime)),
        ])
    }
}

extension RateLimit {
    /// As a body has it, whose shape was judged before; nil for none.
    init?(_ body: JSON?) {
        guard let body else { return nil }
        self.init(bandwidth: body["bandwidth"].map(Bucket.init), operations: body["ops"].map(Bucket.init))
    }

    /// A limit in a configuration file; nil where it limits nothing.
    static func read(_ view: JSONView?) throws(JSONMismatch) -> RateLimit? {
        guard let view else { return nil }
        try view.requireMembers(among: ["bandwidth", "ops"])
        var result = RateLimit()
        if let field = try view.optional("bandwidth") { result.bandwidth = try Bucket(reading: field) }
        if let field = try view.optional("ops") { result.operations = try Bucket(reading: field) }
        return result.effective
    }

    /// As a configuration has it, and as the API shows it.
    var json: JSON {
        .ordered([("bandwidth", bandwidth?.json ?? .null), ("ops", operations?.json ?? .null)])
    }
}
