// SPDX-License-Identifier: Apache-2.0

/// What the state machine wants done to the world, for a request that is waiting for its answer.
package enum APIEffect: Equatable, Sendable {
    /// See that the kernel and the initrd can be read.
    case checkBootSource(BootSource)
    /// See that the drive's files can be opened as the drive wants them.
    case checkDrive(Drive)
    case checkInterface(NetworkInterface)
    /// See that the socket can be made.
    case checkVsock(Vsock)
    case openLog(Logger)
    case openMetrics(MetricsSettings)
    case flushMetrics
    case start(MachineConfiguration)
    case load(SnapshotLoading)
    case createSnapshot(SnapshotCreation)
    case fork([ForkChild])
    case recordWorkingSet(String)
    case pause
    case resume
    case sendCtrlAltDel
    /// Put another file behind a drive of the running machine, or another limit on it, or both.
    case updateDrive(id: String, path: String?, limit: RateLimitUpdate?)
    /// Put other limits on an interface of the running machine.
    case updateInterface(id: String, receive: RateLimitUpdate?, transmit: RateLimitUpdate?)
    case attachDrive(Drive)
    case attachInterface(NetworkInterface)
    /// Take an interface away from the running machine, by its name.
    case detachInterface(String)
    case introspect
}

/// How an effect ended.
package enum APIOutcome: Equatable, Sendable {
    case done
    /// The machine that a snapshot held, and whether it runs.
    case loaded(MachineConfiguration, isRunning: Bool)
    /// JSON to answer with.
    case answer([UInt8])
    /// What failed, in words that go behind those for the request.
    case failed(String)
}

/// What comes of a request.
package enum APIStep: Equatable, Sendable {
    case respond(HTTPResponse)
    /// Do this, then ask `complete` for the response.
    case perform(APIEffect)
}
