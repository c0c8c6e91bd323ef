/* Lets a chosen write of a program go wrong.
 *
 * Loaded before the C library (LD_PRELOAD), it counts the calls that change files below FAULTS_BELOW: creating, writing,
 * syncing, renaming and removing. At call number FAULTS_AT the program is killed (FAULTS_KIND=kill; half of what is written
 * by that call is), that call alone fails (once), or it and all later ones that need room fail (full) with ENOSPC. How many
 * calls there were is written to FAULTS_COUNT at the end. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum call { CREATE, WRITE, SYNC, RENAME, REMOVE };

static atomic_long calls;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int is_below(int folder, const char *path) {
    char whole[2 * PATH_MAX], here[PATH_MAX], link[64];
    const char *root = setting("FAULTS_BELOW");
    if (!*root) return 0;
    if (path[0] == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        ssize_t length;
        if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        length = readlink(link, here, sizeof here - 1);
        if (length < 0) return 0;
        here[length] = 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
    }
    return strncmp(whole, root, strlen(root)) == 0;
}

static int is_file_below(int file) {
    char link[64], path[PATH_MAX];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    /* Pipes have no path. */
    return path[0] == '/' && is_below(AT_FDCWD, path);
}

/* Whether this call goes wrong without killing: 1 at the moment of the fault, 2 on the full disk after it. */
static int fails(enum call call, int *dies) {
    long at = atol(setting("FAULTS_AT")), number = atomic_fetch_add(&calls, 1) + 1;
    const char *kind = setting("FAULTS_KIND");
    *dies = 0;
    if (at == 0 || number < at) return 0;
    if (!strcmp(kind, "kill")) {
        if (number == at) *dies = 1;
        return 0;
    }
    if (!strcmp(kind, "once")) return number == at && call != REMOVE;
    if (call == RENAME || call == REMOVE) return 0;
    return number == at ? 1 : 2;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* -1 where the call is to fail. */
static int guard(enum call call) {
    int dies, failing = fails(call, &dies);
    if (dies) die();
    if (failing) errno = ENOSPC;
    return failing ? -1 : 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int creates(int folder, const char *path, int flags) {
    struct stat about;
    int is_new;
    if (!(flags & O_CREAT) || !is_below(folder, path)) return 0;
    is_new = fstatat(folder, path, &about, 0) != 0;
    return is_new || (flags & O_TRUNC);
}

#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        int mode;                                                         \
        va_start(rest, flags);                                            \
        mode = va_arg(rest, int);                                         \
        va_end(rest);                                                     \
        if (creates(AT_FDCWD, path, flags) && guard(CREATE)) return -1;   \
        return REAL(name)(path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int folder, const char *path, int flags, ...) {              \
        va_list rest;                                                     \
        int mode;                                                         \
        va_start(rest, flags);                                            \
        mode = va_arg(rest, int);                                         \
        va_end(rest);                                                     \
        if (creates(folder, path, flags) && guard(CREATE)) return -1;     \
        return REAL(name)(folder, path, flags, mode);                     \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *bytes, size_t count) {
    int dies, failing;
    if (!is_file_below(file)) return syscall(SYS_write, file, bytes, count);
    failing = fails(WRITE, &dies);
    if (dies) {
        syscall(SYS_write, file, bytes, count / 2);
        die();
    }
    if (failing == 1 && count > 1) return syscall(SYS_write, file, bytes, count / 2);
    if (failing) {
        errno = ENOSPC;
        return -1;
    }
    return syscall(SYS_write, file, bytes, count);
}

int fsync(int file) {
    return is_file_below(file) && guard(SYNC) ? -1 : REAL(fsync)(file);
}

int fdatasync(int file) {
    return is_file_below(file) && guard(SYNC) ? -1 : REAL(fdatasync)(file);
}

int rename(const char *from, const char *to) {
    return is_below(AT_FDCWD, to) && guard(RENAME) ? -1 : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
    struct stat about;
    int is_new = is_below(AT_FDCWD, path) && stat(path, &about) != 0;
    return is_new && guard(CREATE) ? -1 : REAL(mkdir)(path, mode);
}

int unlink(const char *path) {
    return is_below(AT_FDCWD, path) && guard(REMOVE) ? -1 : REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags) {
    return is_below(folder, path) && guard(REMOVE) ? -1 : REAL(unlinkat)(folder, path, flags);
}

__attribute__((destructor)) static void tell(void) {
    char text[32];
    const char *path = setting("FAULTS_COUNT");
    int file = *path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    if (file < 0) return;
    syscall(SYS_write, file, text, snprintf(text, sizeof text, "%ld", atomic_load(&calls)));
    close(file);
}
