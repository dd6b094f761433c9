// SPDX-License-Identifier: Apache-2.0
//
// Servers and clients, in machines and outside:
//
//   peer-traffic serve PORT      answers each HTTP request with twelve bytes, and closes; who begins with 'w' may write
//                                without end, and who begins with 'r' reads without end
//   peer-traffic rate ADDRESS PORT SECONDS up|down
//                                writes to such a server, or reads from it, for a second and then for SECONDS: prints the
//                                megabytes in one of those
//   peer-traffic call ADDRESS PORT     succeeds when such a server answers
//   peer-traffic ping ADDRESS N  prints the median of N echoes' times, and the 99th percentile, in microseconds
//   peer-traffic hold ADDRESS PORT N   opens N connections, says "held", and keeps them until its input ends
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

// What a connection of the server's is: nothing is known of it before it has said something.
enum { asks, writes, reads };
static unsigned char uses[1 << 17];
static char block[1 << 17];

// Whether a connection has come to its end.
static int is_over(int fd, int poller) {
    static const char answer[] =
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nhello world\n";
    if (uses[fd] == reads) return send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN;
    ssize_t count = recv(fd, block, sizeof block, MSG_DONTWAIT);
    if (count <= 0) return count == 0 || errno != EAGAIN;
    if (uses[fd] == writes) return 0;
    if (block[0] == 'w') {
        uses[fd] = writes;
    } else if (block[0] == 'r') {
        uses[fd] = reads;
        struct epoll_event event = {.events = EPOLLOUT, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
    } else {
        (void)!send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
        return 1;
    }
    return 0;
}

_Noreturn static void serve(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1, poller = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) fail("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    while (1) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if ((size_t)fd >= sizeof uses) {
                        close(fd);
                        continue;
                    }
                    uses[fd] = asks;
                    event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
                }
            } else if (is_over(events[i].data.fd, poller)) {
                close(events[i].data.fd);
            }
        }
    }
}

static int dial(const char *host, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, host, &address.sin_addr);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    return fd;
}

static int64_t microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000ll + now.tv_nsec / 1000;
}

static int rate(const char *host, const char *port, int seconds, int is_up) {
    int fd = dial(host, port);
    if (write(fd, is_up ? "w" : "r", 1) != 1) fail("write");
    int64_t begin = microseconds() + 1000000, now, start = 0, bytes = 0;
    do {
        ssize_t count = is_up ? send(fd, block, sizeof block, MSG_NOSIGNAL) : recv(fd, block, sizeof block, 0);
        if (count <= 0) fail("rate");
        now = microseconds();
        if (start) {
            bytes += count;
        } else if (now >= begin) {
            start = now;
        }
    } while (!start || now < start + seconds * 1000000ll);
    printf("%.1f\n", (double)bytes / (double)(now - start));
    return 0;
}

static int call(const char *host, const char *port) {
    static const char request[] = "GET / HTTP/1.1\r\n\r\n";
    int fd = dial(host, port);
    return write(fd, request, sizeof request - 1) < 0 || read(fd, block, sizeof block) <= 0;
}

static int by_size(const void *one, const void *other) {
    int64_t left = *(const int64_t *)one, right = *(const int64_t *)other;
    return left < right ? -1 : left > right;
}

static int ping(const char *host, int count) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    int64_t *times = calloc((size_t)count, sizeof *times);
    inet_pton(AF_INET, host, &address.sin_addr);
    if (fd < 0 || times == NULL || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail("ping");
    for (int i = 0; i < count; i++) {
        struct {
            struct icmphdr header;
            char data[56];
        } echo = {.header = {.type = ICMP_ECHO, .un.echo = {htons(77), htons((uint16_t)i)}}};
        uint32_t sum = 0;
        for (size_t at = 0; at < sizeof echo; at += 2) sum += *(uint16_t *)(void *)((char *)&echo + at);
        sum = (sum >> 16) + (sum & 0xFFFF);
        echo.header.checksum = (uint16_t)~(sum + (sum >> 16));
        int64_t start = microseconds();
        if (send(fd, &echo, sizeof echo, 0) < 0) fail("ping");
        while (1) {
            struct pollfd watched = {fd, POLLIN, 0};
            if (poll(&watched, 1, 10000) <= 0) {
                fprintf(stderr, "ping: no answer from %s\n", host);
                return 1;
            }
            ssize_t got = read(fd, block, sizeof block);
            struct icmphdr *header = (struct icmphdr *)(void *)(block + 20);
            if (got >= 28 && header->type == ICMP_ECHOREPLY && header->un.echo.sequence == htons((uint16_t)i)) break;
        }
        times[i] = microseconds() - start;
    }
    qsort(times, (size_t)count, sizeof *times, by_size);
    printf("%lld %lld\n", (long long)times[count / 2], (long long)times[(count - 1) * 99 / 100]);
    return 0;
}

static int hold(const char *host, const char *port, int wanted) {
    for (int i = 0; i < wanted; i++) dial(host, port);
    puts("held");
    fflush(stdout);
    char end;
    return (int)read(0, &end, 1);
}

// As many descriptors as there are uses, where that is allowed.
static void raise_limit(void) {
    struct rlimit limit = {sizeof uses, sizeof uses};
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int main(int count, char **words) {
    raise_limit();
    if (count == 3 && !strcmp(words[1], "serve")) serve(words[2]);
    if (count == 6 && !strcmp(words[1], "rate"))
        return rate(words[2], words[3], atoi(words[4]), !strcmp(words[5], "up"));
    if (count == 4 && !strcmp(words[1], "call")) return call(words[2], words[3]);
    if (count == 4 && !strcmp(words[1], "ping")) return ping(words[2], atoi(words[3]));
    if (count == 5 && !strcmp(words[1], "hold")) return hold(words[2], words[3], atoi(words[4]));
    fprintf(stderr, "usage: peer-traffic serve|rate|call|ping|hold …\n");
    return 2;
}
