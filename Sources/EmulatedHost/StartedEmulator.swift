// SPDX-License-Identifier: Apache-2.0

internal import Glibc
internal import Platform
internal import Sessions

/// QEMU, just started, with the keeper's ends of what joins the two, and what the keeper's loop waits with.
struct StartedEmulator: ~Copyable {
    let epoll: Epoll
    let timer: Timer
    let signals: SignalQueue
    let console: Descriptor
    let guest: FrameSocket
    let emulator: ChildProcess
    /// This side of the guest's network, where that is not QEMU's own.
    let frames: Descriptor

    init(_ configuration: HostConfiguration) throws(SystemError) {
        let signals = try SignalQueue([SIGTERM, SIGINT, SIGHUP])
        let epoll = try Epoll()
        let timer = try Timer()
        let port = try UnixSocket.pair()
        let network = try FrameSockets()
        let console = try Pipe()
        try console.reading.setNonBlocking()

        let command = QEMUCommand(
            configuration: configuration, portDescriptor: 3, networkDescriptor: configuration.fabric.isEmpty ? nil : 4,
            counterFrequency: TimestampCounter.measureFrequency()
        ).arguments
        var specification = ProcessSpecification(command[0], command, environment: ["PATH=/usr/bin:/bin", "LC_ALL=C"])
        specification.descriptors = [-1, console.writing.raw, console.writing.raw, port.second.raw]
        if !configuration.fabric.isEmpty { specification.descriptors.append(network.emulators.raw) }
        specification.directory = "/"
        specification.parentDeathSignal = SIGKILL
        // A Ctrl-C in the terminal of whoever started the keeper is not for QEMU.
        specification.newSession = true
        let emulator = try ChildProcess(specification)
        network.emulators.close()
        port.second.close()
        console.writing.close()
        let guest = try FrameSocket(port.first)
        let reading = console.reading

        try epoll.add(guest.raw, [.readable], token: HostKeeper.Token.guest)
        try epoll.add(reading.raw, [.readable], token: HostKeeper.Token.console)
        try epoll.add(emulator.ended.raw, [.readable], token: HostKeeper.Token.emulator)
        try epoll.add(signals.descriptor.raw, [.readable], token: HostKeeper.Token.signals)
        try epoll.add(timer.descriptor.raw, [.readable], token: HostKeeper.Token.timer)
        try timer.arm(afterMilliseconds: HostKeeper.startLimitInSeconds * 1000)

        self.epoll = epoll
        self.timer = timer
        self.signals = signals
        self.console = reading
        self.guest = guest
        self.emulator = emulator
        frames = network.ours
    }
}
