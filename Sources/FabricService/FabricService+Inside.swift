// SPDX-License-Identifier: Apache-2.0

internal import Fabric
internal import FabricAPI
internal import Gateway
internal import Platform

/// Machines that may publish ports of their own: those that are hosts of machines themselves, as the emulated host is.
/// They speak the control socket's protocol with their gateway, over TCP; what they publish ends with the connection.
extension FabricService {
    static var insideLimit: Int { 1024 }

    /// Takes a machine's connection to `FabricRequest.insidePort` of its gateway.
    func acceptInside(_ socket: consuming Descriptor, from endpoint: EndpointID) {
        guard let target = router.port(of: endpoint), ports[target.index]?.token != nil,
            clients.count(where: { $0?.machine == endpoint }) < FabricService.insideLimit
        else { return }
        add(ControlClient(socket, machine: endpoint))
    }

    func reply(to request: FabricRequest, of endpoint: EndpointID, _ client: ControlClient) -> FabricReply {
        switch request {
        case .present(let token):
            guard let target = router.port(of: endpoint), let wanted = ports[target.index]?.token,
                isEqual(token, wanted)
            else { return .refused(.forbidden, "that is not this machine's token") }
            client.isTrusted = true
            return .done
        case .publish(_, let wanted):
            guard client.isTrusted else { break }
            do throws(PublishProblem) {
                let result = try gateway.publish(wanted, for: endpoint)
                client.published += result.ports
                client.listeners += result.listeners
                return .published(result.ports)
            } catch {
                return .refused(FabricService.refusal(error), "\(error)")
            }
        default: break
        }
        return .refused(.forbidden, "a machine may show its token, and then publish ports of its own")
    }

    /// All that is published for a machine, by whomever.
    func published(of port: MachinePort) -> [PublishedPorts] {
        clients.reduce(port.published) { all, client in
            client?.machine == port.endpoint ? all + (client?.published ?? []) : all
        }
    }

    /// Takes the same time wherever they differ.
    private func isEqual(_ one: String, _ other: String) -> Bool {
        one.utf8.count == other.utf8.count && zip(one.utf8, other.utf8).reduce(0) { $0 | $1.0 ^ $1.1 } == 0
    }
}
