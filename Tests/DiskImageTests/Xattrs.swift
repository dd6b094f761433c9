// SPDX-License-Identifier: Apache-2.0

import CLinux
import Platform

/// Extended attributes of a file of the host.
func hostXattrs(_ path: String) throws -> [(String, [UInt8])] {
    var space = [UInt8](repeating: 0, count: 65536)
    let count = space.withUnsafeMutableBytes {
        llistxattr(path, $0.baseAddress?.assumingMemoryBound(to: CChar.self), $0.count)
    }
    if count <= 0 { return [] }
    var result: [(String, [UInt8])] = []
    for name in Array(space[..<count]).split(separator: 0) {
        let text = String(decoding: name, as: UTF8.self)
        let size = space.withUnsafeMutableBytes { lgetxattr(path, text, $0.baseAddress, $0.count) }
        // Of special files the kernel lists user attributes, but gives none.
        if size < 0 && clinux_errno() == 61 { continue }
        guard size >= 0 else { throw SystemError("lgetxattr", path) }
        result.append((text, Array(space[..<size])))
    }
    return result
}
