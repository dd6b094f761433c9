// SPDX-License-Identifier: Apache-2.0
//
// TAP devices (Documentation/networking/tuntap.rst in Linux's sources).
#ifndef MARTLET_TAPS_H
#define MARTLET_TAPS_H

#include <stddef.h>

struct clinux_message;

/// What a descriptor of /dev/net/tun is: flags of TUNSETIFF and TUNGETIFF.
enum {
    clinux_tap_ethernet = 0x0002,
    clinux_tap_several_queues = 0x0100,
    clinux_tap_no_information = 0x1000,
    clinux_tap_virtio_header = 0x4000,
};

/// What of segments and partial checksums a reader takes: flags of TUNSETOFFLOAD.
enum { clinux_tap_checksums = 0x01, clinux_tap_tcp4 = 0x02, clinux_tap_tcp6 = 0x04, clinux_tap_udp = 0x10 };

/// Makes a descriptor of /dev/net/tun a queue of the device `name`, which is made where it is missing (TUNSETIFF).
int clinux_tap_attach(int fd, const char *name, int flags);
/// What a descriptor is, and of which device (TUNGETIFF); -1 with errno where it is no queue of any.
int clinux_tap_flags(int fd, char name[16]);
/// Whether one of several queues of a device is used (TUNSETQUEUE).
int clinux_tap_set_use(int fd, int isUsed);
/// The length of the virtio header in front of each frame (TUNSETVNETHDRSZ).
int clinux_tap_set_header_size(int fd, int bytes);

/// The longest packet of a network device, in bytes (SIOCGIFMTU); -1 with errno, ENODEV where there is none.
int clinux_device_mtu(const char *name);

/// writev(2) of each message, of up to 32; the number written, or -1 when not even the first.
int clinux_write_messages(int fd, struct clinux_message *messages, size_t count);
/// readv(2) into each message; the number read, or -1 when there was none.
int clinux_read_messages(int fd, struct clinux_message *messages, size_t count);

#endif
