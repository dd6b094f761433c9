// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import GuestCore

private func bytes(_ string: String) -> [UInt8] { Array(string.utf8) }

@Suite struct AccountTests {
    private static let passwd = """
        root:x:0:0:root:/root:/bin/sh
        # a comment
        daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
        short:x:7
        letters:x:seven:7::/:/bin/sh
        bob:x:1000:1001:Bob:/home/bob:/bin/sh
        1000:x:2000:2000::/home/number:/bin/sh
        bob:x:3000:3000::/home/second:/bin/sh
        homeless:x:4000:4000:::
        """
    private static let group = """
        root:x:0:
        disk:x:6:bob,root
        bob:x:1001:
        audio:x:29:bobby,bob
        broken:x:nine:bob
        1000:x:2001:
        """

    private func resolve(_ specification: String) throws -> Account {
        try Account(
            resolving: bytes(specification), passwd: bytes(AccountTests.passwd), group: bytes(AccountTests.group))
    }

    @Test(
        arguments: [
            ("", 0, 0, [6], "/root"),
            ("root", 0, 0, [6], "/root"),
            ("0", 0, 0, [6], "/root"),
            ("bob", 1000, 1001, [6, 29], "/home/bob"),
            // The first entry that matches by number or by name.
            ("1000", 1000, 1001, [6, 29], "/home/bob"),
            ("1000:1000", 1000, 2001, [], "/home/bob"),
            ("bob:disk", 1000, 6, [], "/home/bob"),
            ("bob:29", 1000, 29, [], "/home/bob"),
            ("bob:12345", 1000, 12345, [], "/home/bob"),
            (":disk", 0, 6, [], "/root"),
            ("bob:", 1000, 1001, [6, 29], "/home/bob"),
            ("555", 555, 0, [], "/"),
            ("555:audio", 555, 29, [], "/"),
            ("2147483647:2147483647", 2_147_483_647, 2_147_483_647, [], "/"),
            ("homeless", 4000, 4000, [], "/"),
        ] as [(String, UInt32, UInt32, [UInt32], String)])
    func resolves(specification: String, user: UInt32, group: UInt32, groups: [UInt32], home: String) throws {
        let account = try resolve(specification)
        #expect(account.user == user)
        #expect(account.group == group)
        #expect(account.supplementaryGroups == groups)
        #expect(account.home == bytes(home))
    }

    @Test(arguments: [
        ("alice", "unable to find user alice: no matching entries in passwd file"),
        ("letters", "unable to find user letters: no matching entries in passwd file"),
        ("bob:nobody", "unable to find group nobody: no matching entries in group file"),
        ("2147483648", "user or group 2147483648: uids and gids must be in range 0-2147483647"),
        ("0:4294967296", "user or group 4294967296: uids and gids must be in range 0-2147483647"),
        ("-1", "unable to find user -1: no matching entries in passwd file"),
    ])
    func refuses(specification: String, message: String) {
        let error = #expect(throws: AccountError.self) { try resolve(specification) }
        #expect(error?.message == bytes(message))
    }

    @Test func anImageWithoutFiles() throws {
        let account = try Account(resolving: [], passwd: [], group: [])
        #expect(account == Account())
        #expect(throws: AccountError.unknownUser(bytes("web"))) {
            try Account(resolving: bytes("web"), passwd: [], group: [])
        }
    }

    @Test func anyBytesAreParsed() {
        var generator = Seeded(1)
        let corpus = [bytes(AccountTests.passwd), bytes(AccountTests.group)]
        for _ in 0..<2_000 {
            let passwd = generator.mutated(corpus[0])
            let group = generator.mutated(corpus[1])
            let specification = generator.mutated(bytes("bob:disk"))
            _ = try? Account(resolving: specification, passwd: passwd, group: group)
        }
    }
}
