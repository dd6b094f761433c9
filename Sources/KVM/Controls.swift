// SPDX-License-Identifier: Apache-2.0

internal import CLinux
internal import Platform

/// ioctl(2) with an integer argument; gives its result, which is not negative.
@discardableResult
func control(
    _ descriptor: borrowing Descriptor, _ request: UInt, _ name: StaticString, _ argument: UInt = 0
) throws(KVMError) -> Int32 {
    let raw = descriptor.raw
    let result = retryingInterrupts { clinux_ioctl(raw, request, argument) }
    guard result >= 0 else { throw .call(SystemError("ioctl", name.description)) }
    return result
}

/// ioctl(2) with a structure that the kernel reads, writes or both.
@discardableResult
func control<Structure>(
    _ descriptor: borrowing Descriptor, _ request: UInt, _ name: StaticString, with structure: inout Structure
) throws(KVMError) -> Int32 {
    let raw = descriptor.raw
    let result = unsafe withUnsafeMutablePointer(to: &structure) { pointer in
        retryingInterrupts { unsafe clinux_ioctl_pointer(raw, request, pointer) }
    }
    guard result >= 0 else { throw .call(SystemError("ioctl", name.description)) }
    return result
}

/// ioctl(2) with a structure that ends in an array of variable length, laid out in `words`.
@discardableResult
func control(
    _ descriptor: borrowing Descriptor, _ request: UInt, _ name: StaticString, words: inout [UInt64]
) throws(KVMError) -> Int32 {
    let raw = descriptor.raw
    let result = unsafe words.withUnsafeMutableBytes { bytes in
        retryingInterrupts { unsafe clinux_ioctl_pointer(raw, request, bytes.baseAddress) }
    }
    guard result >= 0 else { throw .call(SystemError("ioctl", name.description)) }
    return result
}

/// ioctl(2) with a structure that is kept as its bytes.
@discardableResult
func control(
    _ descriptor: borrowing Descriptor, _ request: UInt, _ name: StaticString, bytes: inout [UInt8]
) throws(KVMError) -> Int32 {
    let raw = descriptor.raw
    let result = unsafe bytes.withUnsafeMutableBytes { bytes in
        retryingInterrupts { unsafe clinux_ioctl_pointer(raw, request, bytes.baseAddress) }
    }
    guard result >= 0 else { throw .call(SystemError("ioctl", name.description)) }
    return result
}

/// Makes a failed call this module's own error.
func system<Result: ~Copyable>(_ body: () throws(SystemError) -> Result) throws(KVMError) -> Result {
    do throws(SystemError) { return try body() } catch { throw .call(error) }
}
