// SPDX-License-Identifier: Apache-2.0

/// The monitor's own version, as `martlet-vmm --version` prints it.
package let monitorVersion = "0.1.0"

/// The version of Firecracker whose API this monitor speaks: what clients compare.
package let apiVersion = "1.17.0"
