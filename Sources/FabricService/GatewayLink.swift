// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import FabricAPI
internal import Gateway
internal import Packet
internal import Platform

/// The gateway's way to the machines. What it sends is put into the service's outbox as a head, built anew, and a
/// payload that stays where it is.
final class GatewayLink: InsideLink {
    /// Set before the gateway sends anything, and as long-lived.
    unowned var service: FabricService?
    /// Of what the gateway sends, this much may wait for a machine's socket until the gateway is asked to wait. What
    /// others have sent to that machine does not count: they would keep the gateway from its turn.
    private static let queueLimit = 64 << 10

    static func hasRoom(in port: MachinePort) -> Bool {
        port.queue.bytes(from: FabricService.gatewaySource) < queueLimit
    }

    func capabilities(of endpoint: EndpointID) -> LinkCapabilities {
        guard let service, let port = service.router.port(of: endpoint) else { return LinkCapabilities() }
        let offloads = service.router.offloads(of: port)
        return LinkCapabilities(
            mtu: service.router.mtu(of: endpoint), takesSegmentsV4: offloads.takesIPv4Segments,
            takesSegmentsV6: offloads.takesIPv6Segments)
    }

    func hasRoom(for endpoint: EndpointID) -> Bool {
        guard let service, let target = service.router.port(of: endpoint), let port = service.ports[target.index],
            port.isConnected
        else { return true }
        if service.unsentBytes >= (port.isBacklogged ? GatewayLink.queueLimit : port.burstInBytes) {
            service.flushOutbox()
        }
        return GatewayLink.hasRoom(in: port)
    }

    func send(
        _ packet: InsidePacket, head: UnsafeRawBufferPointer, payload first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer
    ) {
        unsafe service?.send(packet, head: head, first, second)
    }

    func flush() { service?.flushOutbox() }
}

extension FabricService {
    /// Whom the gateway's frames are from, in queues.
    static var gatewaySource: Int { Int.max }

    /// A machine that has become an endpoint.
    func addToGateway(_ endpoint: Endpoint, _ port: MachinePort) {
        let network = state.table.networks[endpoint.network]
        var machine = InsideMachine(
            endpoint: endpoint.id, gatewayIPv4: network.subnet == nil ? nil : network.gateway,
            gatewayIPv6: network.gateway6)
        machine.ipv4 = endpoint.ipv4
        machine.ipv6 = endpoint.ipv6
        machine.quotas = Quotas(ofDescriptors: descriptorLimit())
        machine.policy.own = port.egress
        machine.policy.network = networkRules
        if definition.allowsHostAccess || port.hasHostAccess {
            machine.policy.hostLoopback = configuration.hostLoopback
        }
        gateway.set(machine, now: microseconds())
    }

    func microseconds() -> UInt64 { monotonicNanoseconds() / 1000 }

    /// Puts a packet of the gateway's into the outbox. The payload is read until that is flushed.
    func send(
        _ packet: InsidePacket, head: UnsafeRawBufferPointer, _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer
    ) {
        guard let target = router.port(of: packet.endpoint), let port = ports[target.index] else {
            return router.countLost(.notAttached)
        }
        guard port.isConnected else { return router.countDrop(.receiverGone, at: target) }
        let total = FrameLayout.packet + packet.length
        guard head.count <= total, total <= FrameLayout.longest else {
            return router.countDrop(.tooLarge, at: target)
        }
        if router.offloads(of: target).accept(packet.header) {
            if headCount == FrameArena.slotCount { flushOutbox() }
            let slot = unsafe heads.slot(headCount, count: head.count)
            headCount += 1
            unsafe slot.copyMemory(from: head)
            var record = unsafe slot.mutableBytes
            if case .drop(let reason) = router.deliver(packet, in: &record) {
                return router.countDrop(reason, at: target)
            }
            return add(
                unsafe Outgoing(
                    port: target.index, source: FabricService.gatewaySource,
                    record: UnsafeRawBufferPointer(slot), second: first, third: second))
        }
        // The machine wants it done: its checksum, or cut into segments.
        flushOutbox()
        let slot = unsafe answer.slot(1, count: total)
        unsafe slot.copyMemory(from: head)
        unsafe UnsafeMutableRawBufferPointer(rebasing: slot[head.count...]).copyMemory(from: first)
        unsafe UnsafeMutableRawBufferPointer(rebasing: slot[(head.count + first.count)...]).copyMemory(from: second)
        var record = unsafe slot.mutableBytes
        if case .drop(let reason) = router.deliver(packet, in: &record) { return router.countDrop(reason, at: target) }
        unsafe send(slot, to: target, from: target)
        flushOutbox()
    }
}
