// SPDX-License-Identifier: Apache-2.0
//
// A guest that notices when it is not what it was: PID 1 of the machines that are paused, saved, restored and forked in
// tests. One process a CPU works on memory and registers whose contents it can foretell; the first one prints a line
// now and then; `stream` has two more talk over TCP, `disk` one use that. What does not match is a line that begins with
// FAULT.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *format, unsigned long long a, unsigned long long b, unsigned long long c) {
    char line[160];
    int count = snprintf(line, sizeof line, format, a, b, c);
    ssize_t written = write(1, line, (size_t)count);
    (void)written;
}

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Sixteen vector registers, filled, left alone for a while, and looked at.
static int vectors_hold(uint64_t seed, uint64_t spins) {
    uint64_t in[64], out[64];
    for (int i = 0; i < 64; i++) in[i] = mix(seed + (uint64_t)i);
    __asm__ volatile(
        "vmovdqu 0(%0),%%ymm0\n vmovdqu 32(%0),%%ymm1\n vmovdqu 64(%0),%%ymm2\n vmovdqu 96(%0),%%ymm3\n"
        "vmovdqu 128(%0),%%ymm4\n vmovdqu 160(%0),%%ymm5\n vmovdqu 192(%0),%%ymm6\n vmovdqu 224(%0),%%ymm7\n"
        "vmovdqu 256(%0),%%ymm8\n vmovdqu 288(%0),%%ymm9\n vmovdqu 320(%0),%%ymm10\n vmovdqu 352(%0),%%ymm11\n"
        "vmovdqu 384(%0),%%ymm12\n vmovdqu 416(%0),%%ymm13\n vmovdqu 448(%0),%%ymm14\n vmovdqu 480(%0),%%ymm15\n"
        "1: dec %2\n jnz 1b\n"
        "vmovdqu %%ymm0,0(%1)\n vmovdqu %%ymm1,32(%1)\n vmovdqu %%ymm2,64(%1)\n vmovdqu %%ymm3,96(%1)\n"
        "vmovdqu %%ymm4,128(%1)\n vmovdqu %%ymm5,160(%1)\n vmovdqu %%ymm6,192(%1)\n vmovdqu %%ymm7,224(%1)\n"
        "vmovdqu %%ymm8,256(%1)\n vmovdqu %%ymm9,288(%1)\n vmovdqu %%ymm10,320(%1)\n vmovdqu %%ymm11,352(%1)\n"
        "vmovdqu %%ymm12,384(%1)\n vmovdqu %%ymm13,416(%1)\n vmovdqu %%ymm14,448(%1)\n vmovdqu %%ymm15,480(%1)\n"
        : "+r"((uint64_t *){in}), "+r"((uint64_t *){out}), "+r"(spins)
        :
        : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
    return memcmp(in, out, sizeof in) == 0;
}

struct shared {
    volatile uint64_t rounds[32];
};

// Pages that hold what their number and the round say.
static void work(struct shared *shared, int cpu, size_t size) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
    size_t words = size / 8;
    uint64_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return say("FAULT no memory: %llu\n", errno, 0, 0);
    int has_vectors = __builtin_cpu_supports("avx2");
    for (size_t i = 0; i < words; i += 64) memory[i] = mix(i);
    uint64_t before = nanoseconds(CLOCK_MONOTONIC);
    for (uint64_t round = 0;; round++) {
        for (size_t i = 0; i < words; i += 64) {
            if (memory[i] != mix(i + round)) say("FAULT cpu %llu round %llu word %llu\n", (unsigned)cpu, round, i);
            memory[i] = mix(i + round + 1);
        }
        if (has_vectors && !vectors_hold(round, 2000000)) say("FAULT cpu %llu vectors, round %llu\n", (unsigned)cpu, round, 0);
        uint64_t now = nanoseconds(CLOCK_MONOTONIC);
        if (now < before) say("FAULT time ran back from %llu to %llu\n", before, now, 0);
        before = now;
        shared->rounds[cpu] = round + 1;
    }
}

// A disk that is there: blocks are written and read again past the page cache.
static void use_disk(const char *path) {
    int fd = -1;
    while (fd < 0) {
        fd = open(path, O_RDWR | O_DIRECT);
        if (fd < 0) usleep(20000);
    }
    uint64_t *block = aligned_alloc(4096, 65536);
    for (uint64_t round = 0;; round++) {
        for (int part = 0; part < 8; part++) {
            for (int i = 0; i < 8192; i++) block[i] = mix(round * 8192 + (uint64_t)i + (uint64_t)part);
            if (pwrite(fd, block, 65536, part * 65536) != 65536) return say("FAULT disk write: %llu\n", errno, 0, 0);
        }
        for (int part = 0; part < 8; part++) {
            memset(block, 0, 65536);
            if (pread(fd, block, 65536, part * 65536) != 65536) return say("FAULT disk read: %llu\n", errno, 0, 0);
            for (int i = 0; i < 8192; i++)
                if (block[i] != mix(round * 8192 + (uint64_t)i + (uint64_t)part))
                    return say("FAULT disk round %llu part %llu\n", round, (unsigned)part, 0);
        }
        if (round % 16 == 0) say("disk %llu\n", round, 0, 0);
    }
}

// A byte's value by its place in a stream.
static void expect(unsigned char *bytes, size_t count, uint64_t place) {
    for (size_t i = 0; i < count; i++) bytes[i] = (unsigned char)mix((place + i) >> 3 ^ (place + i));
}

// Says what has come on a connection, in the order in which it must come.
static void receive_stream(int connection) {
    static unsigned char got[16384], wanted[sizeof got];
    for (uint64_t place = 0;;) {
        ssize_t count = read(connection, got, sizeof got);
        if (count <= 0) return say("FAULT stream ends after %llu: %llu\n", place, (unsigned)errno, 0);
        expect(wanted, (size_t)count, place);
        if (memcmp(got, wanted, (size_t)count) != 0) return say("FAULT stream, within %llu\n", place, 0, 0);
        if (place >> 20 != (place + (uint64_t)count) >> 20) say("stream %llu MiB\n", (place + (uint64_t)count) >> 20, 0, 0);
        place += (uint64_t)count;
    }
}

// TCP over loopback: its window, its timers and what is on its way are the kernel's state.
static void use_stream(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    ioctl(listener, SIOCSIFFLAGS, &request);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(7), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0)
        return say("FAULT no listener: %llu\n", (unsigned)errno, 0, 0);
    if (fork() == 0) receive_stream(accept(listener, NULL, NULL)), _exit(0);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0)
        return say("FAULT no connection: %llu\n", (unsigned)errno, 0, 0);
    static unsigned char bytes[5000];
    for (uint64_t place = 0;;) {
        expect(bytes, sizeof bytes, place);
        ssize_t count = write(connection, bytes, sizeof bytes);
        if (count <= 0) return say("FAULT stream is refused after %llu: %llu\n", place, (unsigned)errno, 0);
        place += (uint64_t)count;
        // Something is on its way all the time, and there is room for the others.
        if (place % 65536 < sizeof bytes) usleep(1000);
    }
}

// `bind=N` on the kernel's command line: the virtio driver looks at slot N again, once a second.
static void bind_slot(const char *name) {
    for (;;) {
        int fd = open("/sys/bus/platform/drivers/virtio-mmio/bind", O_WRONLY);
        if (fd >= 0 && write(fd, name, strlen(name)) > 0) {
            say("bound\n", 0, 0, 0);
            return;
        }
        if (fd >= 0) close(fd);
        usleep(50000);
    }
}

static const char *option(const char *name) {
    static char line[2048];
    int fd = open("/proc/cmdline", O_RDONLY);
    ssize_t count = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
    if (fd >= 0) close(fd);
    line[count < 0 ? 0 : count] = 0;
    for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
        size_t length = strlen(name);
        if (strncmp(word, name, length) == 0 && word[length] == '=') return strdup(word + length + 1);
    }
    return NULL;
}

int main(void) {
    mkdir("/proc", 0755), mkdir("/sys", 0755), mkdir("/dev", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    struct shared *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *size = option("work");
    size_t bytes = (size ? (size_t)atoi(size) : 4) << 20;
    int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    for (int cpu = 0; cpu < cpus && bytes > 0; cpu++)
        if (fork() == 0) work(shared, cpu, bytes), _exit(0);
    if (option("stream") && fork() == 0) use_stream(), _exit(0);
    const char *disk = option("disk");
    if (disk && fork() == 0) use_disk(disk), _exit(0);
    const char *slot = option("bind");
    if (slot && fork() == 0) bind_slot(slot), _exit(0);
    say("ready %llu cpus avx2 %llu\n", (unsigned)cpus, !!__builtin_cpu_supports("avx2"), 0);
    for (uint64_t tick = 1;; tick++) {
        uint64_t least = ~0ull;
        for (int cpu = 0; cpu < cpus; cpu++)
            if (shared->rounds[cpu] < least) least = shared->rounds[cpu];
        uint64_t random = 0;
        ssize_t got = getrandom(&random, sizeof random, 0);
        (void)got;
        say("tick %llu rounds %llu random %llx\n", tick, least, random);
        uint64_t before = nanoseconds(CLOCK_MONOTONIC);
        usleep(50000);
        uint64_t slept = nanoseconds(CLOCK_MONOTONIC) - before;
        if (slept < 50000000) say("FAULT a timer of 50 ms took %llu ns\n", slept, 0, 0);
    }
}
