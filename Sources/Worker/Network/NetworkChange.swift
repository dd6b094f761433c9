// SPDX-License-Identifier: Apache-2.0

package import GuestProtocol

/// A network that a running machine gets, or leaves: what is done when. Pure: events in, actions out.
///
///     connect:    attaching ──device there──▶ locating ──slot──▶ arranging ──all set up──▶ over
///                     │                          │                  │ not, or silent
///                     │ refused                  └──── undoing ◀────┘
///                     ▼                                 │ device gone
///                   over, failed ◀──────────────────────┘
///
///     disconnect: locating ──slot──▶ arranging ──let go of──▶ removing ──device gone──▶ over
///                                       │ not, or silent          ▲
///                                       ├── forced ───────────────┘
///                                       ▼
///                                     over, failed
///
/// A device is only taken from a guest that has let go of it, that never had it, or by force. What comes in another order
/// is late or none of its business, and skipped.
package struct NetworkChange: Equatable, Sendable {
    package enum Kind: Equatable, Sendable {
        case connect
        /// - Parameter isForced: the guest's word is not needed.
        case disconnect(isForced: Bool)
    }

    package enum Event: Equatable, Sendable {
        /// The monitor has given the guest the device; or has not, for this reason.
        case attached(String?)
        /// The slot that the device is in; nil where the monitor does not say.
        case located(Int?)
        /// What the guest has done.
        case arranged(StepReport)
        /// It has not answered in its time.
        case silence
        /// The monitor has taken the device away; or has not, for this reason.
        case removed(String?)
    }

    package enum Action: Equatable, Sendable {
        /// Have the monitor give the guest the device.
        case attachDevice
        /// Ask the monitor where the device is.
        case locateDevice
        /// Have the guest set itself up, and wait for that for a time.
        case arrange(slot: Int)
        /// Wait no longer.
        case stopWaiting
        /// Have the monitor take the device away.
        case removeDevice
        /// The machine is in the network, or is not any more. The failure is what went wrong nevertheless.
        case finish(failure: [UInt8])
        /// Nothing has changed, for this reason.
        case giveUp([UInt8])
    }

    package enum Phase: Equatable, Sendable {
        case attaching, locating, arranging, removing
        /// The device of a connection that came to nothing is taken away.
        case undoing(reason: [UInt8])
        case over
    }

    package let kind: Kind
    package private(set) var phase: Phase
    /// The guest has not answered an earlier order: there is no waiting for it now.
    private let isGuestBehind: Bool
    private var failure: [UInt8] = []

    package init(_ kind: Kind, isGuestBehind: Bool = false) {
        self.kind = kind
        self.isGuestBehind = isGuestBehind
        phase = kind == .connect ? .attaching : .locating
    }

    package func start() -> [Action] { kind == .connect ? [.attachDevice] : [.locateDevice] }

    package mutating func handle(_ event: Event) -> [Action] {
        switch (phase, event) {
        case (.attaching, .attached(let problem)):
            if let problem { return giveUp(Array(problem.utf8)) }
            phase = .locating
            return [.locateDevice]
        case (.locating, .located(let slot)):
            guard let slot, !isGuestBehind else {
                return fail(slot == nil ? "the monitor does not say where the interface is" : "the guest is silent")
            }
            phase = .arranging
            return [.arrange(slot: slot)]
        case (.arranging, .arranged(let report)): return [.stopWaiting] + take(report)
        case (.arranging, .silence): return fail("the guest did not answer")
        case (.removing, .removed(let problem)):
            if let problem { return giveUp(Array(problem.utf8)) }
            phase = .over
            return [.finish(failure: failure)]
        case (.undoing(let reason), .removed): return giveUp(reason)
        default: return []
        }
    }

    private mutating func take(_ report: StepReport) -> [Action] {
        switch kind {
        case .connect:
            guard report.failure.isEmpty else { return undo(report.failure) }
            phase = .over
            return [.finish(failure: [])]
        case .disconnect(let isForced):
            let name = Arrangement.Step.removal
            let isReleased = report.steps.contains { $0.name == Array("\(name)".utf8) }
            guard isReleased || isForced else {
                return giveUp(report.failure.isEmpty ? Array("the guest did not let go of it".utf8) : report.failure)
            }
            failure = report.failure
            phase = .removing
            return [.removeDevice]
        }
    }

    private mutating func fail(_ reason: String) -> [Action] {
        switch kind {
        case .connect: return undo(Array(reason.utf8))
        case .disconnect(isForced: true):
            phase = .removing
            return [.removeDevice]
        case .disconnect(isForced: false): return giveUp(Array(reason.utf8))
        }
    }

    private mutating func undo(_ reason: [UInt8]) -> [Action] {
        phase = .undoing(reason: reason)
        return [.removeDevice]
    }

    private mutating func giveUp(_ reason: [UInt8]) -> [Action] {
        phase = .over
        return [.giveUp(reason)]
    }
}
