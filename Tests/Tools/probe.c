// SPDX-License-Identifier: Apache-2.0
//
// probe DIRECTORY: a line for each file below the directory, as the kernel shows it: path, type, permissions, user,
// group, size, time, device, links, attributes, and the CRC-32 of a file's content or a link's target. The tests compare
// that with what the archives said from which an image was made (make-image prints it in the same form).
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

static void die(const char *what, const char *path) {
    fprintf(stderr, "probe: %s %s: %s\n", what, path, strerror(errno));
    exit(1);
}

static void put_escaped(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = text[i];
        if (byte > 0x20 && byte < 0x7F && byte != '%' && byte != '|' && byte != ',')
            putchar(byte);
        else
            printf("%%%02X", byte);
    }
}

static uint32_t crc_of_file(const char *path) {
    static unsigned char buffer[1 << 16];
    uint32_t crc = ~0u;
    int file = open(path, O_RDONLY);
    if (file < 0) die("open", path);
    ssize_t count;
    while ((count = read(file, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < count; i++) {
            crc ^= buffer[i];
            for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
        }
    if (count < 0) die("read", path);
    close(file);
    return ~crc;
}

static int by_text(const void *one, const void *other) { return strcmp(*(char **)one, *(char **)other); }

static void put_attributes(const char *path) {
    static char names[1 << 16], value[1 << 16];
    char *sorted[256];
    size_t number = 0;
    ssize_t length = llistxattr(path, names, sizeof names);
    if (length < 0) die("llistxattr", path);
    for (char *name = names; name < names + length && number < 256; name += strlen(name) + 1) sorted[number++] = name;
    qsort(sorted, number, sizeof *sorted, by_text);
    for (size_t i = 0; i < number; i++) {
        ssize_t size = lgetxattr(path, sorted[i], value, sizeof value);
        if (size < 0) die("lgetxattr", path);
        if (i > 0) putchar(',');
        put_escaped(sorted[i], strlen(sorted[i]));
        putchar('=');
        put_escaped(value, size);
    }
}

static void visit(const char *root, const char *path) {
    char full[8192], target[4097];
    struct stat status;
    if ((size_t)snprintf(full, sizeof full, "%s/%s", root, path) >= sizeof full) die("too long", path);
    if (lstat(full, &status) < 0) die("lstat", full);
    int is_directory = S_ISDIR(status.st_mode), is_device = S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode);
    put_escaped(path, strlen(path));
    printf("|%o|%o|%u|%u|%llu|%lld.%09ld|%u:%u|%lu|", status.st_mode >> 12, status.st_mode & 07777, status.st_uid,
           status.st_gid, is_directory ? 0 : (unsigned long long)status.st_size, (long long)status.st_mtim.tv_sec,
           status.st_mtim.tv_nsec, is_device ? major(status.st_rdev) : 0, is_device ? minor(status.st_rdev) : 0,
           is_directory ? 0 : (unsigned long)status.st_nlink);
    put_attributes(full);
    putchar('|');
    if (S_ISREG(status.st_mode)) printf("%08x", crc_of_file(full));
    if (S_ISLNK(status.st_mode)) {
        ssize_t length = readlink(full, target, sizeof target);
        if (length < 0) die("readlink", full);
        put_escaped(target, length);
    }
    putchar('\n');
    if (!is_directory) return;
    DIR *directory = opendir(full);
    if (!directory) die("opendir", full);
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        char below[8192];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if ((size_t)snprintf(below, sizeof below, "%s/%s", path, entry->d_name) >= sizeof below) die("too long", path);
        visit(root, below);
    }
    closedir(directory);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: probe DIRECTORY\n");
        return 2;
    }
    visit(arguments[1], ".");
    return fflush(stdout) ? 1 : 0;
}
