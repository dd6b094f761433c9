// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Glibc
internal import MachineAPI
package import Platform

/// Why a descriptor that was named cannot be what it was named for.
package struct DescriptorProblem: Error, Equatable, CustomStringConvertible {
    package let description: String
    init(_ number: Int32, _ problem: String) { description = "descriptor \(number) \(problem)" }
}

/// Descriptors that the monitor was started with. They stay open, and are whoever's named them: what is made of one has
/// a copy. The monitor's own are none of them: all of these are closed on exec.
package enum StartingDescriptor {
    /// A copy of one that is a file or a block device.
    package static func file(_ number: Int32, isReadOnly: Bool) throws(DescriptorProblem) -> Descriptor {
        let copy = try copy(number)
        var status = stat()
        guard unsafe fstat(copy.raw, &status) == 0, [S_IFREG, S_IFBLK].contains(status.st_mode & S_IFMT) else {
            throw DescriptorProblem(number, "is no file and no block device")
        }
        switch clinux_fcntl(copy.raw, F_GETFL, 0) & O_ACCMODE {
        case O_RDWR: break
        case O_RDONLY:
            guard isReadOnly else {
                throw DescriptorProblem(number, "is open for reading only, and is to be written to")
            }
        default: throw DescriptorProblem(number, "is not open for reading")
        }
        return copy
    }

    /// A copy of one that is a unix stream socket, and listens or is connected.
    package static func socket(_ number: Int32, listens: Bool) throws(DescriptorProblem) -> Descriptor {
        let copy = try copy(number)
        var (type, domain, accepts): (Int32, Int32, Int32) = (0, 0, 0)
        guard unsafe clinux_get_option(copy.raw, SOL_SOCKET, SO_TYPE, &type) == 0,
            unsafe clinux_get_option(copy.raw, SOL_SOCKET, SO_DOMAIN, &domain) == 0,
            unsafe clinux_get_option(copy.raw, SOL_SOCKET, SO_ACCEPTCONN, &accepts) == 0,
            domain == AF_UNIX, type == Int32(SOCK_STREAM.rawValue)
        else { throw DescriptorProblem(number, "is no unix stream socket") }
        guard (accepts != 0) == listens else {
            throw DescriptorProblem(number, listens ? "is a socket that does not listen" : "is a socket that listens")
        }
        return copy
    }

    private static func copy(_ number: Int32) throws(DescriptorProblem) -> Descriptor {
        let flags = clinux_fcntl(number, F_GETFD, 0)
        guard flags >= 0 else { throw DescriptorProblem(number, "is not open: the monitor is to be started with it") }
        guard number > STDERR_FILENO, flags & FD_CLOEXEC == 0 else {
            throw DescriptorProblem(number, "is not one that the monitor was started with for this")
        }
        let copy = clinux_fcntl(number, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw DescriptorProblem(number, "cannot be copied: \(SystemError("fcntl").reason)") }
        return Descriptor(owning: copy)
    }
}

extension HostFile {
    /// Opens a file that a field of a configuration names.
    func open(isReadOnly: Bool, _ field: String) throws(MachineError) -> Descriptor {
        switch self {
        case .path(let path):
            // Non-blocking: a named pipe without a writer is not waited for. Of files and block devices it changes nothing.
            let mode: OpenMode = isReadOnly ? .readOnly : .readWrite
            do throws(SystemError) { return try Descriptor.open(path, mode.nonBlocking) } catch {
                throw .configuration(field: field, problem: "cannot open \(path): \(error.reason)")
            }
        case .descriptor(let number):
            do throws(DescriptorProblem) {
                return try StartingDescriptor.file(number, isReadOnly: isReadOnly)
            } catch {
                throw .configuration(field: field, problem: error.description)
            }
        }
    }
}
