// SPDX-License-Identifier: Apache-2.0

internal import GuestProtocol
internal import Platform

extension ContainerConfiguration {
    /// What the guest is to become.
    func guestConfiguration() -> Configuration {
        var result = Configuration()
        result.root = .image
        result.rootDevice = Array(rootDevice.utf8)
        result.isReadOnly = isReadOnly
        result.hostname = Array(process.hostname.utf8)
        result.hosts = Array(
            """
            127.0.0.1\tlocalhost
            ::1\tlocalhost ip6-localhost ip6-loopback
            127.0.1.1\t\(process.hostname)

            """.utf8)
        result.clock = wallClockNanoseconds()
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<4 { result.entropy.append(contentsOf: withBytes(of: generator.next())) }
        return result
    }

    /// The process that is wanted.
    var processRequest: ProcessRequest {
        var request = ProcessRequest()
        request.arguments = process.arguments.map { Array($0.utf8) }
        request.environment = process.environment.map { Array($0.utf8) }
        request.directory = Array(process.workingDirectory.utf8)
        request.user = Array(process.user.utf8)
        request.hasInput = hasInput
        request.isMain = true
        return request
    }
}

private func withBytes(of value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
}
