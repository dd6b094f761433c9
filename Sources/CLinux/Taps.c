// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "CLinux.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(
    clinux_tap_ethernet == IFF_TAP && clinux_tap_several_queues == IFF_MULTI_QUEUE
        && clinux_tap_no_information == IFF_NO_PI && clinux_tap_virtio_header == IFF_VNET_HDR,
    "linux/if_tun.h");
_Static_assert(
    clinux_tap_checksums == TUN_F_CSUM && clinux_tap_tcp4 == TUN_F_TSO4 && clinux_tap_tcp6 == TUN_F_TSO6
        && clinux_tap_udp == TUN_F_UFO,
    "linux/if_tun.h");

int clinux_tap_attach(int fd, const char *name, int flags) {
    struct ifreq request = {0};
    if (strlen(name) >= sizeof request.ifr_name) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(request.ifr_name, name);
    request.ifr_flags = (short)flags;
    return ioctl(fd, TUNSETIFF, &request);
}

int clinux_tap_flags(int fd, char name[16]) {
    struct ifreq request = {0};
    if (ioctl(fd, TUNGETIFF, &request) < 0) return -1;
    memcpy(name, request.ifr_name, sizeof request.ifr_name);
    name[sizeof request.ifr_name - 1] = 0;
    return (unsigned short)request.ifr_flags;
}

int clinux_tap_set_use(int fd, int isUsed) {
    struct ifreq request = {0};
    request.ifr_flags = isUsed ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
    return ioctl(fd, TUNSETQUEUE, &request);
}

int clinux_tap_set_header_size(int fd, int bytes) { return ioctl(fd, TUNSETVNETHDRSZ, &bytes); }

int clinux_device_mtu(const char *name) {
    struct ifreq request = {0};
    if (strlen(name) >= sizeof request.ifr_name) {
        errno = ENODEV;
        return -1;
    }
    strcpy(request.ifr_name, name);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = ioctl(fd, SIOCGIFMTU, &request);
    int code = errno;
    close(fd);
    errno = code;
    return result < 0 ? -1 : request.ifr_mtu;
}

int clinux_write_messages(int fd, struct clinux_message *messages, size_t count) {
    size_t done = 0;
    for (; done < count; done++) {
        ssize_t length = writev(fd, messages[done].vectors, (int)messages[done].vector_count);
        if (length < 0) break;
        messages[done].length = (size_t)length;
    }
    return done > 0 || count == 0 ? (int)done : -1;
}

int clinux_read_messages(int fd, struct clinux_message *messages, size_t count) {
    size_t done = 0;
    for (; done < count; done++) {
        ssize_t length = readv(fd, messages[done].vectors, (int)messages[done].vector_count);
        if (length < 0) break;
        messages[done].length = (size_t)length;
        messages[done].truncated = false;
    }
    return done > 0 || count == 0 ? (int)done : -1;
}
