// SPDX-License-Identifier: Apache-2.0

/// What there is at a path, as the user sees it who is to execute it.
package enum ProgramFinding: Equatable, Sendable {
    case executable
    case directory
    /// It is there and may not be executed, or the way to it may not be gone.
    case denied
    case missing
    /// Anything else, for example a loop of links, with the system's word for it.
    case unreachable([UInt8])
}

/// Where programs are looked for: the file system, or a test's.
package protocol ProgramDirectory {
    func examine(_ path: [UInt8]) -> ProgramFinding
}

/// A program that cannot be executed, as `docker run` tells of it.
package struct ProgramError: Error, Equatable {
    /// 126: it is there and cannot be executed. 127: it is not there.
    package var exitCode: UInt8
    package var message: [UInt8]
}

package enum ProgramSearch {
    /// What Docker takes where the environment has no PATH.
    package static var standardPath: [UInt8] {
        text("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// The path of the program `name`. One with a slash is itself the path; any other is searched for in `path`, where
    /// an empty entry is the working directory.
    package static func find(
        _ name: [UInt8], path: [UInt8], in directory: borrowing some ProgramDirectory
    ) throws(ProgramError) -> [UInt8] {
        if name.contains(UInt8(ascii: "/")) {
            try check(directory.examine(name), name)
            return name
        }
        if !name.isEmpty {
            for entry in path.parts(separatedBy: UInt8(ascii: ":")) {
                var candidate = entry.isEmpty ? [UInt8(ascii: ".")] : entry
                if candidate.last != UInt8(ascii: "/") { candidate.append(UInt8(ascii: "/")) }
                candidate += name
                if directory.examine(candidate) == .executable { return candidate }
            }
        }
        throw ProgramError(
            exitCode: 127, message: start(of: name) + text("executable file not found in $PATH"))
    }

    private static func check(_ finding: ProgramFinding, _ path: [UInt8]) throws(ProgramError) {
        switch finding {
        case .executable:
            return
        case .directory:
            throw ProgramError(exitCode: 126, message: start(of: path) + text("is a directory: permission denied"))
        case .denied:
            throw ProgramError(exitCode: 126, message: start(of: path) + text("permission denied"))
        case .missing:
            throw ProgramError(
                exitCode: 127, message: start(of: path) + text("stat ") + path + text(": no such file or directory"))
        case .unreachable(let reason):
            throw ProgramError(exitCode: 126, message: start(of: path) + reason)
        }
    }

    /// `exec: "NAME": `, which every such message begins with.
    package static func start(of name: [UInt8]) -> [UInt8] {
        text("exec: \"") + name + text("\": ")
    }
}
