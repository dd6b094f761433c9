// SPDX-License-Identifier: Apache-2.0

internal import Platform
package import Worker

extension EnvironmentSetting {
    /// What `--env-file` and `--env` come to; of one name the last counts, and files come first.
    package static func read(files: [String], settings texts: [String]) throws -> [EnvironmentSetting] {
        var settings: [EnvironmentSetting] = []
        for path in files {
            let bytes: [UInt8]
            do throws(SystemError) { bytes = try Files.read(path, limit: 4 << 20) } catch {
                throw Failure("--env-file: \(error)")
            }
            settings += try parse(file: bytes, named: path, lookUp: { environmentVariable($0) })
        }
        for text in texts { settings.append(try EnvironmentSetting(text, lookUp: { environmentVariable($0) })) }
        return settings
    }
}
