// SPDX-License-Identifier: Apache-2.0

#if canImport(GuestCore)
import CGuest
import GuestCore
import GuestProtocol
import Wire
#else
import CGuest
#endif

extension Launch {
    private static let accountFileLimit = 16_777_216

    func openNull() throws(SystemFailure) {
        let null = try System.open(text("/dev/null"), guest_read_only)
        try System.check(guest_duplicate(null.raw, 0, 1), "dup2")
    }

    func findAccount() throws(Problem) -> Account {
        // Root needs no lookup where nobody says otherwise but for its HOME and groups; both files are small.
        let passwd = (try? System.contents(text("/etc/passwd"), limit: Launch.accountFileLimit)) ?? []
        let group = (try? System.contents(text("/etc/group"), limit: Launch.accountFileLimit)) ?? []
        do throws(AccountError) {
            return try Account(resolving: request.user, passwd: passwd, group: group)
        } catch {
            throw Problem(exitCode: 125, message: error.message)
        }
    }

    /// Takes the account's identity. The pipes become its too, so that a program that opens /dev/stdout anew may.
    func become(_ account: Account) throws(SystemFailure) {
        // Outside of a container the agent may itself be an ordinary user; whoever asks for nobody else stays that.
        if case .own = root, request.user.isEmpty { return }
        for descriptor: Int32 in (input < 0 ? 1 : 0)...2 {
            _ = guest_change_owner(descriptor, account.user, account.group)
        }
        try System.check(
            guest_set_groups(account.supplementaryGroups, account.supplementaryGroups.count), "setgroups")
        try System.check(guest_set_group(account.group), "setgid", text(account.group))
        try System.check(guest_set_user(account.user), "setuid", text(account.user))
    }

    /// Goes to the working directory, which is made where it is missing, as root.
    func changeDirectory() throws(Problem) {
        let directory = request.directory.isEmpty ? [UInt8(ascii: "/")] : request.directory
        var result = guest_change_directory(System.path(directory))
        if result == -Int(guest_enoent) {
            try? System.makeDirectories(directory)
            result = guest_change_directory(System.path(directory))
        }
        guard result < 0 else { return }
        throw Problem(
            exitCode: result == -Int(guest_enotdir) || result == -Int(guest_eacces) ? 126 : 125,
            message: text("working directory ") + directory + text(": ") + System.errorText(Int32(-result)))
    }

    func findProgram(_ environment: Environment) throws(Problem) -> [UInt8] {
        do throws(ProgramError) {
            return try ProgramSearch.find(
                request.arguments[0], path: environment.value(of: "PATH") ?? ProgramSearch.standardPath,
                in: FileSystem())
        } catch {
            throw Problem(exitCode: error.exitCode, message: error.message)
        }
    }

    /// Gives the error.
    func execute(_ program: [UInt8], _ environment: Environment) -> Int32 {
        let arguments = CStrings(request.arguments)
        let variables = CStrings(environment.variables)
        return Int32(-guest_execute(System.path(program), arguments.pointers, variables.pointers))
    }

    /// Why a file that is there and executable was not executed.
    func reason(_ code: Int32, _ program: [UInt8]) -> [UInt8] {
        switch code {
        case guest_enoent:
            text("no such file or directory: the interpreter or loader that ") + program + text(" names is missing")
        case guest_enoexec: text("exec format error")
        default: System.errorText(code)
        }
    }

    private struct FileSystem: ProgramDirectory {
        func examine(_ path: [UInt8]) -> ProgramFinding {
            let name = System.path(path)
            var mode: UInt32 = 0
            let result = guest_mode(name, &mode)
            switch Int32(-result) {
            case 0: break
            case guest_enoent, guest_enotdir: return .missing
            case guest_eacces: return .denied
            default: return .unreachable(System.errorText(Int32(-result)))
            }
            if mode & 0o170000 == 0o040000 { return .directory }
            // Root may access what nobody may execute, so the bits decide as well.
            return mode & 0o111 != 0 && guest_access_to_execute(name) == 0 ? .executable : .denied
        }
    }
}

/// An array of C strings that ends with a null pointer. Never freed: execve(2) or the process's end does that.
struct CStrings {
    let pointers: UnsafeMutablePointer<UnsafeMutablePointer<UInt8>?>

    init(_ strings: [[UInt8]]) {
        pointers = .allocate(capacity: strings.count + 1)
        for (index, string) in strings.enumerated() {
            let copy = UnsafeMutablePointer<UInt8>.allocate(capacity: string.count + 1)
            string.withUnsafeBufferPointer { if let base = $0.baseAddress { copy.update(from: base, count: $0.count) } }
            copy[string.count] = 0
            (pointers + index).initialize(to: copy)
        }
        (pointers + strings.count).initialize(to: nil)
    }
}
