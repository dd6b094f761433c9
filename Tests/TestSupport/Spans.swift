// SPDX-License-Identifier: Apache-2.0

/// Bytes built by a function that writes into them.
package func built(_ count: Int, _ body: (inout MutableRawSpan) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    body(&raw)
    return bytes
}

/// Lends bytes as a view's constructor wants them.
package func reading<Result>(
    _ bytes: some Collection<UInt8>, _ body: (RawSpan) throws -> Result
) rethrows -> Result {
    let copy = Array(bytes)
    let span = copy.span
    return try body(span.bytes)
}
