// SPDX-License-Identifier: Apache-2.0

internal import Platform

package enum CommandStart {
    /// When this command began, in nanoseconds on the monotonic clock: when it was first asked for, which is what each
    /// program does before all else.
    package static let moment = monotonicNanoseconds()
}
