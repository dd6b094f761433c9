// SPDX-License-Identifier: Apache-2.0

internal import ArgumentParser
internal import ImageStore
internal import Launch
internal import OCI
internal import Platform
internal import Wire
internal import Worker

/// `martlet pull`
struct Pull: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Fetch images and convert them, so that they start at once.",
        discussion: """
            martlet pull docker.io/library/alpine:3.20
            martlet pull oci:images/busybox:latest
            """)

    @Flag(help: "Take HTTP, and certificates that are not valid, from the registry.")
    var insecureRegistry = false
    @Flag(name: .shortAndLong, help: "Print ids only.")
    var quiet = false
    @Argument(help: "A registry's image, oci:DIRECTORY[:TAG], docker-archive:FILE, or dir:DIRECTORY.")
    var images: [String]

    func run() throws {
        try forEach(images) { text in
            let image = try PreparedImage.fetch(
                try ImageSource(text), pull: .always, insecure: insecureRegistry, signals: nil)
            print(quiet ? "\(image.id)" : "\(text): \(image.id)")
        }
    }
}

/// `martlet images`
struct Images: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List stored images.")

    @Flag(name: .shortAndLong, help: "Print ids only.")
    var quiet = false
    @Flag(help: "Print whole ids.")
    var noTrunc = false
    @Option(help: "table, or json: one object a line.")
    var format = OutputFormat.table

    func run() throws {
        let images = try ImageStore.ofUser().list()
        if quiet {
            for image in images { print(noTrunc ? "\(image.id)" : shortID(image)) }
        } else if format == .json {
            for image in images { print(json(image)) }
        } else {
            var table = Table(["NAME", "IMAGE ID", "LAYERS", "SIZE"])
            for image in images {
                let rest = [
                    noTrunc ? "\(image.id)" : shortID(image), "\(image.configuration.layerIDs.count)",
                    Quantities.describe(bytes: image.totalLength),
                ]
                for name in image.names.isEmpty ? ["<none>"] : image.names { table.rows.append([name] + rest) }
            }
            print(table.text, terminator: "")
        }
    }

    private func shortID(_ image: StoredImage) -> String { String(image.id.hex.prefix(12)) }

    private func json(_ image: StoredImage) -> JSON {
        [
            "ID": .string("\(image.id)"), "Names": .array(image.names.map { .string($0) }),
            "Layers": .array(image.configuration.layerIDs.map { .string("\($0)") }),
            "SizeInBytes": .number(image.totalLength),
            "CreatedAt": image.configuration.created.map { .string($0) } ?? .null,
        ]
    }
}

/// `martlet rmi`
struct RemoveImage: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rmi", abstract: "Remove images from the store.",
        discussion: "An image goes with its last name. Layers that no image needs any more go with martlet image prune."
    )

    @Argument(help: "Names, or ids as martlet images prints them.")
    var images: [String]

    func run() throws {
        let store = try ImageStore.ofUser()
        try forEach(images) { text in
            guard try store.remove(try ImageSource(text)) else { throw Failure("no such image: \(text)") }
            print(text)
        }
    }
}

/// `martlet image`
struct Image: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Keep the store of images.", subcommands: [Prune.self])

    struct Prune: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Remove layers that no image needs, and what interrupted pulls left.")

        @Flag(name: .shortAndLong, help: "Remove images that have no name, too.")
        var all = false

        func run() throws {
            let store = try ImageStore.ofUser()
            let all = all
            let result = try waiting(nil) { try await store.sweep(unnamedImages: all) }
            print(
                "\(result.images) images and \(result.layers) layers removed, "
                    + "\(Quantities.describe(bytes: result.bytes)) freed")
        }
    }
}
