// SPDX-License-Identifier: Apache-2.0

package import KVM
package import Platform

/// Why a machine could not be made, or could not go on.
package enum MachineError: Error, Sendable {
    /// KVM refused.
    case kvm(KVMError)
    /// What a field of the configuration names cannot be used.
    /// - Parameters:
    ///   - field: as `boot-source.kernel_image_path`.
    ///   - problem: what is wrong, and what would be right.
    case configuration(field: String, problem: String)
    /// A call of the system failed; what for.
    case system(String, SystemError)
    /// The machine is not in a state for this: what was asked for, and why not.
    case state(String)
    /// A file is no snapshot of a machine, or not a whole one: which, and why.
    case snapshot(path: String, SnapshotFileError)
    /// The machine's state is whole, but cannot go on here: why.
    case incompatible(String)
}

extension MachineError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .kvm(let error): "\(error)"
        case .configuration(let field, let problem): "\(field): \(problem)"
        case .system(let purpose, let error): "\(purpose): \(error)"
        case .state(let problem): problem
        case .snapshot(let path, let error): "\(path): \(error)"
        case .incompatible(let reason): "the machine will not be restored here, because \(reason)"
        }
    }
}

/// Why a machine ended.
package enum MachineExit: Equatable, Sendable {
    /// The guest switched itself off.
    case powerOff
    /// The guest asked for a reset.
    case reboot
    /// A fault within a fault within a fault: the processor gave up.
    case tripleFault
    /// The guest's kernel panicked.
    case panic
    /// KVM, or this monitor, could not go on with the guest.
    case internalError(String)
    /// Somebody on the host ended it.
    case killed(String)
}

/// Makes a failed call an error that says what it was for.
func system<Result: ~Copyable>(
    _ purpose: @autoclosure () -> String, _ body: () throws(SystemError) -> Result
) throws(MachineError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .system(purpose(), error) }
}

func kvm<Result: ~Copyable>(_ body: () throws(KVMError) -> Result) throws(MachineError) -> Result {
    do throws(KVMError) { return try body() } catch { throw .kvm(error) }
}
