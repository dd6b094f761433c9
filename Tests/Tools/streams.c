// SPDX-License-Identifier: Apache-2.0
//
// TCP connections of all kinds whose bytes are known, each looked at on arrival:
//
//   streams serve ADDRESS PORT                         answers what follows, until it is killed
//   streams call ADDRESS PORT SEED SECONDS THREADS MEBIBYTES   connections at random, up to so long each way; then a line:
//                                                      how many, how many of them broken off, and their bytes
//
// A call says what it will be: bytes each way, from seeds; whether one side waits for the other's end before it begins;
// whether one reads with pauses; whether it is broken off in the middle. The first byte that is not as it has to be, a
// stream that is too short or too long, and 3 minutes without a byte end the program with status 1.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

// In milliseconds: how long nothing may come, and the same where a break may have been lost on its way.
enum { block = 1 << 16, silence = 180000, short_silence = 20000 };
enum { answers_last = 1, caller_rests = 2, server_rests = 4, breaks_off = 8 };

struct plan {
    uint64_t seed, up, down, kind;
};

static uint64_t next(uint64_t *state) { // xorshift64*
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

// A direction's bytes, eight at a time; both ends go through them in order.
struct source {
    uint64_t state, word;
    int left;
};

static struct source source_of(uint64_t seed) { return (struct source){.state = seed | 1}; }

static void fill(struct source *from, unsigned char *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (from->left == 0) {
            from->word = next(&from->state);
            from->left = 8;
        }
        bytes[i] = (unsigned char)from->word;
        from->word >>= 8;
        from->left--;
    }
}

_Noreturn static void differs(const struct plan *plan, const char *what, uint64_t place) {
    fprintf(stderr, "streams: seed %llx, %llu up, %llu down, kind %llu: %s at %llu: %s\n",
            (unsigned long long)plan->seed, (unsigned long long)plan->up, (unsigned long long)plan->down,
            (unsigned long long)plan->kind, what, (unsigned long long)place, errno ? strerror(errno) : "differs");
    exit(1);
}

static void rest(uint64_t *random) {
    struct timespec time = {0, (long)(next(random) % 30000000)};
    nanosleep(&time, NULL);
}

static int exactly(int fd, void *bytes, size_t count) {
    for (size_t done = 0; done < count;) {
        ssize_t got = recv(fd, (char *)bytes + done, count - done, 0);
        if (got <= 0) return 0;
        done += (size_t)got;
    }
    return 1;
}

// One end's part, to the end of both streams. Returns whether the other end broke off, as planned.
static int carry(int fd, const struct plan *plan, int calls) {
    static _Thread_local unsigned char out[block], in[block], wanted[block];
    uint64_t to_send = calls ? plan->up : plan->down, to_get = calls ? plan->down : plan->up;
    uint64_t sent = 0, got = 0, random = plan->seed ^ (calls ? 0x5555 : 0xAAAA);
    struct source mine = source_of(plan->seed + (calls ? 2 : 4)), theirs = source_of(plan->seed + (calls ? 4 : 2));
    int rests = (plan->kind & (calls ? caller_rests : server_rests)) != 0;
    int waits = !calls && (plan->kind & answers_last), has_ended = 0, has_finished = 0;
    uint64_t until = plan->kind & breaks_off && calls ? (plan->up + plan->down) / 2 : UINT64_MAX;
    size_t ready = 0, at = 0;
    while (!has_ended || !has_finished) {
        if (sent + got >= until) return 1;
        int sends = !has_finished && (!waits || has_ended);
        if (sends && sent == to_send && at == ready) {
            shutdown(fd, SHUT_WR);
            has_finished = 1;
            continue;
        }
        struct pollfd event = {fd, (short)((has_ended ? 0 : POLLIN) | (sends ? POLLOUT : 0)), 0};
        int may_break = (plan->kind & breaks_off) != 0, count = poll(&event, 1, may_break ? short_silence : silence);
        if (count <= 0 && may_break) return 1;
        if (count <= 0) {
            errno = ETIMEDOUT;
            differs(plan, calls ? "caller" : "server", got);
        }
        if (event.revents & (POLLIN | POLLERR | POLLHUP) && !has_ended) {
            if (rests && next(&random) % 8 == 0) rest(&random);
            size_t limit = rests ? 1 + next(&random) % block : block;
            ssize_t arrived = recv(fd, in, limit, MSG_DONTWAIT);
            if (arrived < 0 && errno != EAGAIN) {
                if (plan->kind & breaks_off) return 1;
                differs(plan, calls ? "caller receives" : "server receives", got);
            }
            if (arrived == 0) {
                if (plan->kind & breaks_off && got < to_get) return 1;
                errno = 0;
                if (got != to_get) differs(plan, calls ? "caller: too short" : "server: too short", got);
                has_ended = 1;
            }
            if (arrived > 0) {
                fill(&theirs, wanted, (size_t)arrived);
                errno = 0;
                if (got + (uint64_t)arrived > to_get || memcmp(in, wanted, (size_t)arrived))
                    differs(plan, calls ? "caller" : "server", got);
                got += (uint64_t)arrived;
            }
        }
        if (event.revents & POLLOUT && sends) {
            if (at == ready) {
                at = 0;
                ready = 1 + next(&random) % block;
                if (ready > to_send - sent) ready = (size_t)(to_send - sent);
                fill(&mine, out, ready);
            }
            ssize_t gone = send(fd, out + at, ready - at, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (gone < 0 && errno != EAGAIN) {
                if (plan->kind & breaks_off) return 1;
                differs(plan, calls ? "caller sends" : "server sends", sent);
            }
            if (gone > 0) {
                at += (size_t)gone;
                sent += (uint64_t)gone;
            }
        }
    }
    return 0;
}

static socklen_t address_of(const char *text, const char *port, struct sockaddr_storage *address) {
    struct sockaddr_in *four = (void *)address;
    struct sockaddr_in6 *six = (void *)address;
    memset(address, 0, sizeof *address);
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)atoi(port));
        return sizeof *four;
    }
    inet_pton(AF_INET6, text, &six->sin6_addr);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((uint16_t)atoi(port));
    return sizeof *six;
}

static void break_off(int fd) {
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

static pthread_t thread(void *(*body)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t result;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 1 << 18);
    if (pthread_create(&result, &attributes, body, argument)) {
        perror("streams: pthread_create");
        exit(1);
    }
    return result;
}

static void *answer(void *argument) {
    int fd = (int)(intptr_t)argument;
    struct plan plan = {0};
    struct timeval limit = {short_silence / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    // What is broken off at once may not bring its plan; of another, its caller hears.
    if (!exactly(fd, &plan, sizeof plan) || carry(fd, &plan, 0)) break_off(fd);
    close(fd);
    return NULL;
}

static int serve(const char *host, const char *port) {
    struct sockaddr_storage address;
    socklen_t length = address_of(host, port, &address);
    int listener = socket(address.ss_family, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&address, length) < 0 || listen(listener, 1024) < 0) {
        perror("streams: listen");
        return 1;
    }
    while (1) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0) pthread_detach(thread(answer, (void *)(intptr_t)fd));
    }
}

static struct {
    const char *host, *port;
    uint64_t seed, largest;
    struct timespec end;
    uint64_t connections, broken, up, down;
} calls;

static int is_over(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec >= calls.end.tv_sec;
}

// A length of any order of magnitude.
static uint64_t length(uint64_t *random) {
    uint64_t size = calls.largest >> (next(random) % 24);
    return size ? next(random) % (size + 1) : 0;
}

static void *caller(void *argument) {
    uint64_t random = (calls.seed + (uint64_t)(intptr_t)argument * 0x9E3779B97F4A7C15u) | 1;
    while (!is_over()) {
        struct plan plan = {next(&random), length(&random), length(&random), 0};
        for (int kind = answers_last; kind <= breaks_off; kind <<= 1)
            if (next(&random) % (kind == breaks_off ? 16 : 4) == 0) plan.kind |= (uint64_t)kind;
        struct sockaddr_storage address;
        socklen_t size = address_of(calls.host, calls.port, &address);
        int fd = socket(address.ss_family, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (void *)&address, size) < 0) differs(&plan, "connect", 0);
        if (send(fd, &plan, sizeof plan, MSG_NOSIGNAL) != sizeof plan) differs(&plan, "send", 0);
        if (carry(fd, &plan, 1)) {
            break_off(fd);
            __atomic_add_fetch(&calls.broken, 1, __ATOMIC_RELAXED);
        } else {
            __atomic_add_fetch(&calls.up, plan.up, __ATOMIC_RELAXED);
            __atomic_add_fetch(&calls.down, plan.down, __ATOMIC_RELAXED);
        }
        close(fd);
        __atomic_add_fetch(&calls.connections, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static int call(char **words) {
    int threads = atoi(words[6]);
    pthread_t all[threads];
    calls.host = words[2];
    calls.port = words[3];
    calls.seed = strtoull(words[4], NULL, 0);
    calls.largest = strtoull(words[7], NULL, 0) << 20;
    clock_gettime(CLOCK_MONOTONIC, &calls.end);
    calls.end.tv_sec += atoi(words[5]);
    for (int i = 0; i < threads; i++) all[i] = thread(caller, (void *)(intptr_t)i);
    for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
    printf("%llu %llu %llu %llu\n", (unsigned long long)calls.connections, (unsigned long long)calls.broken,
           (unsigned long long)calls.up, (unsigned long long)calls.down);
    return 0;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 4 && !strcmp(words[1], "serve")) return serve(words[2], words[3]);
    if (count == 8 && !strcmp(words[1], "call")) return call(words);
    fprintf(stderr, "usage: streams serve|call …\n");
    return 2;
}
