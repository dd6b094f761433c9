// SPDX-License-Identifier: Apache-2.0

import Platform
import Testing

extension EndToEnd {
    /// Images with many layers and every kind of file, mounted by a kernel.
    @Suite(.serialized) struct Images {
        let stage = Stage.shared

        /// An image of so many layers, and what its union has to be (Tests/Tools/make-image).
        private struct Made {
            var image: String
            var expected: Set<Substring>
        }

        private func make(layers: Int, seed: Int) throws -> Made {
            let layout = "\(stage.root)/layers-\(layers)-\(seed)"
            let probe = "\(stage.root)/probe"
            let tools = "\(Stage.package)/Tests/Tools"
            let compiled = try stage.shell("musl-gcc -static -Os -o '\(probe)' '\(tools)/probe.c'")
            try #require(compiled.status == 0, "\(compiled)")
            let made = try stage.shell(
                """
                [ -e '\(layout)' ] || '\(tools)/make-image' '\(layout)' \(layers) \(seed) '\(probe)' > '\(layout).expected'
                cat '\(layout).expected'
                """)
            try #require(made.status == 0, "\(made)")
            return Made(image: "oci:\(layout):latest", expected: Set(made.text.split(separator: "\n")))
        }

        /// The guest's kernel mounts the image once more, without the overlay, and shows what is in it: each path, with
        /// type, permissions, owner, size, time, device, links, attributes and content.
        @Test(arguments: [(1, 1), (3, 2), (12, 3), (127, 4)]) func theKernelSeesWhatTheLayersSay(
            layers: Int, seed: Int
        ) throws {
            let made = try make(layers: layers, seed: seed)
            let script = """
                set -e; cd /tmp; busybox mkdir image
                busybox mknod disk b $(busybox sed 's/:/ /' /sys/block/vda/dev)
                busybox mount -t erofs -o ro disk image; /probe image
                """
            let result = try stage.run(["run", "--rm", "-m", "512m", made.image, "sh", "-c", script])
            #expect(result.status == 0, "\(result)")
            let seen = Set(result.text.split(separator: "\n"))
            #expect(made.expected.count > 700)
            for line in made.expected.subtracting(seen).sorted().prefix(10) { Issue.record("not so: \(line)") }
            for line in seen.subtracting(made.expected).sorted().prefix(10) { Issue.record("but: \(line)") }
            try stage.expectNothingLeft()
        }

        /// However many layers an image has, the guest has one device and one file system to mount; what a start takes
        /// then, `Benchmarks/layers` shows.
        @Test func manyLayersAreOneDeviceAndOneMount() throws {
            func describe(_ image: String) throws -> String {
                let script = "busybox ls /sys/block; busybox cut -d' ' -f1-3 /proc/mounts"
                let result = try stage.run(["run", "--rm", image, "/bin/busybox", "sh", "-c", script])
                #expect(result.status == 0 && result.text.contains("vda"), "\(result)")
                return result.text
            }
            let few = try describe(make(layers: 3, seed: 2).image)
            let many = try describe(make(layers: 127, seed: 4).image)
            #expect(many == few)
        }
    }
}
