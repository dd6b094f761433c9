// SPDX-License-Identifier: Apache-2.0

internal import MachineAPI
internal import Platform
internal import Wire

extension Supervisor {
    /// The guest's kernel has booted, its init has called and knows nothing yet. The machine is saved, goes on, and is
    /// given the disk that its template must not have. A template that cannot be written is a note, a disk that cannot
    /// be put in is the end.
    func makeTemplate() {
        guard let (new, disk, interfaces) = start.making else {
            return feed(.deviceRefused("there is no template to make"))
        }
        mark("template begun")
        var failure: String?
        ask("PATCH", "/vm", ["state": "Paused"]) { answer in
            failure = failure ?? answer.refusal
        }
        let create: JSON = [
            "snapshot_type": "Full", "snapshot_path": .string(new.template.state),
            "mem_file_path": .string(new.template.memory),
        ]
        ask("PUT", "/snapshot/create", create) { answer in failure = failure ?? answer.refusal }
        ask("PUT", "/drives/\(disk.identifier)", disk.json) { [unowned self] answer in
            if let reason = answer.refusal { feed(.deviceRefused("the image's disk could not be added: \(reason)")) }
        }
        for interface in interfaces {
            ask("PUT", "/network-interfaces/\(interface.identifier)", interface.json) { [unowned self] answer in
                if let reason = answer.refusal { feed(.deviceRefused("the network could not be added: \(reason)")) }
            }
        }
        ask("PATCH", "/vm", ["state": "Resumed"]) { [unowned self] answer in
            if let reason = answer.refusal { return feed(.deviceRefused("the machine could not go on: \(reason)")) }
            start.templateWritten(failure)
            state.originNote = start.note
            mark("template made")
            feed(.templateMade)
        }
    }

    private func ask(_ method: String, _ target: String, _ body: JSON, then: @escaping (MonitorClient.Answer) -> Void) {
        api.ask(method, target, body, epoll: epoll, then: then)
    }
}

extension MonitorClient.Answer {
    /// Why it was not done.
    var refusal: String? {
        if case .refused(let reason) = self { reason } else { nil }
    }
}
