// SPDX-License-Identifier: Apache-2.0

#if canImport(Wire)
internal import Wire
#endif

/// `fork`: into which machines, whose supervisors wait for them.
package struct ForkOrder: Equatable, Sendable {
    /// More are not read.
    package static let limit = 1000

    /// The machines' ids.
    package var machines: [Text]

    package init(machines: [Text]) { self.machines = machines }

    package init?(_ payload: [UInt8]) {
        machines = []
        var reader = FieldReader(payload)
        while let field = reader.next() {
            guard field.tag == 1 else { continue }
            guard machines.count < ForkOrder.limit else { return nil }
            machines.append(field.bytes)
        }
        if reader.isMalformed || machines.isEmpty { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        for machine in machines { writer.append(1, machine) }
        return writer.bytes
    }
}

/// `forked`: what was done, and what came of each machine.
package struct ForkedReport: Equatable, Sendable {
    package struct Failure: Equatable, Sendable {
        /// The machine's place in the order.
        package var index: UInt64
        package var reason: Text

        package init(index: UInt64, reason: Text) {
            self.index = index
            self.reason = reason
        }
    }

    /// Its failure is that of all.
    package var report: StepReport
    /// The machines that are not there; all others are.
    package var failures: [Failure] = []

    package init(_ report: StepReport) { self.report = report }

    package init?(_ payload: [UInt8]) {
        report = StepReport()
        var reader = FieldReader(payload)
        while let field = reader.next() {
            switch field.tag {
            case 1:
                guard let report = StepReport(field.bytes) else { return nil }
                self.report = report
            case 2:
                guard failures.count < ForkOrder.limit else { return nil }
                failures.append(Failure(index: field.number, reason: []))
            case 3:
                guard !failures.isEmpty else { return nil }
                failures[failures.count - 1].reason = field.bytes
            default: break
            }
        }
        if reader.isMalformed { return nil }
    }

    package var payload: [UInt8] {
        var writer = FieldWriter()
        writer.append(1, report.payload)
        for failure in failures {
            writer.append(2, number: failure.index)
            writer.append(3, Text(failure.reason.prefix(ForkedReport.reasonLimit)))
        }
        return writer.bytes
    }

    /// Longer reasons are cut, in bytes.
    static let reasonLimit = 900
}
