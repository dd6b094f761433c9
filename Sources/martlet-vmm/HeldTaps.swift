// SPDX-License-Identifier: Apache-2.0

internal import Machine
internal import MachineAPI
internal import Platform

/// The TAP devices of interfaces that were put before the machine starts: opened then, so that their names are taken and
/// whoever puts them hears what is wrong with them, and handed to the machine.
struct HeldTaps {
    private(set) var byInterface: [String: TapDevice] = [:]

    /// Opens what an interface names, in the place of what it named before.
    /// - Parameter processors: the machine's, as far as is known.
    mutating func hold(_ interface: NetworkInterface, processors: Int) throws(EffectFailure) {
        do throws(TapError) {
            switch interface.peer {
            case .socket: byInterface[interface.identifier] = nil
            case .descriptor(let number):
                _ = try NetPeer(descriptor: number)
                byInterface[interface.identifier] = nil
            case .tap(let name):
                // One's own device is busy, too.
                guard byInterface[interface.identifier]?.name != name else { return }
                byInterface[interface.identifier] = try TapDevice(
                    name, severalQueues: interface.queuePairs(forProcessors: processors) > 1)
            }
        } catch {
            throw EffectFailure("\(error)")
        }
    }
}
