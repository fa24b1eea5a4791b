/* Faults of the system for a program under test: preloaded (LD_PRELOAD), it stands between the
 * program and the C library and makes chosen calls slow or fail, and the clocks wrong.
 *
 * What it does is read from a small file that is mapped shared (FAULTS_CONTROL), so that a test
 * changes it while the program runs; faults.rs writes it and has the same layout. A call is
 * touched when the path of its file holds the text `path`. Calls are counted in any case. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* `*64` are calls of their own here: no header may turn one into the other. */
#undef _FILE_OFFSET_BITS

enum { WRITE, SYNC, TRUNCATE, ALLOCATE, READ, OPEN, CLASSES };

struct class {
    int64_t delay_us; /* slept before the call */
    int64_t error;    /* errno it fails with; 0 = none */
    int64_t skip;     /* calls that still pass before the first fails */
    int64_t left;     /* calls that still fail; -1 = all */
    int64_t calls;    /* seen on the path */
    int64_t failed;   /* of them made to fail */
};

struct control {
    struct class classes[CLASSES];
    int64_t wall_offset_s;
    int64_t monotonic_offset_us;
    char path[256];    /* "" = no file at all */
    char boot_id[256]; /* opened instead of the kernel's; "" = the kernel's */
};

static struct control none;
static struct control *volatile control = &none;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void attach(void) {
    const char *name = getenv("FAULTS_CONTROL");
    if (!name) return;
    int fd = open(name, O_RDWR | O_CLOEXEC);
    void *at = MAP_FAILED;
    if (fd >= 0) at = mmap(0, sizeof none, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        /* A test that believes in faults that are not there proves nothing. */
        static const char said[] = "faults: FAULTS_CONTROL cannot be mapped\n";
        if (write(2, said, sizeof said - 1) < 0) abort();
        abort();
    }
    close(fd);
    control = at;
}

/* The errno a call shall fail with now, 0 = it goes through. Sleeps if it shall be slow. */
static int strike(int which, const char *path) {
    struct control *now = control;
    if (!now->path[0] || !strstr(path, now->path)) return 0;
    struct class *class = &now->classes[which];
    class->calls++;
    if (class->delay_us > 0) {
        struct timespec rest = {class->delay_us / 1000000, class->delay_us % 1000000 * 1000};
        while (nanosleep(&rest, &rest) < 0 && errno == EINTR) {}
    }
    if (!class->error || class->left == 0) return 0;
    if (class->skip > 0) {
        class->skip--;
        return 0;
    }
    if (class->left > 0) class->left--;
    class->failed++;
    return (int)class->error;
}

static int strike_fd(int which, int fd) {
    char link[32], path[512];
    if (!control->path[0]) return 0;
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, path, sizeof path - 1);
    path[bytes < 0 ? 0 : bytes] = 0;
    int error = strike(which, path);
    errno = saved;
    return error;
}

#define GUARD(which, fd, failed) \
    do { \
        int error = strike_fd(which, fd); \
        if (error) { \
            errno = error; \
            return failed; \
        } \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    GUARD(WRITE, fd, -1);
    return real(fd, bytes, count);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    GUARD(WRITE, fd, -1);
    return real(fd, parts, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(pwrite);
    GUARD(WRITE, fd, -1);
    return real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    GUARD(WRITE, fd, -1);
    return real(fd, bytes, count, at);
}

ssize_t read(int fd, void *bytes, size_t count) {
    REAL(read);
    GUARD(READ, fd, -1);
    return real(fd, bytes, count);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t at) {
    REAL(pread);
    GUARD(READ, fd, -1);
    return real(fd, bytes, count, at);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    REAL(pread64);
    GUARD(READ, fd, -1);
    return real(fd, bytes, count, at);
}

int fsync(int fd) {
    REAL(fsync);
    GUARD(SYNC, fd, -1);
    return real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    GUARD(SYNC, fd, -1);
    return real(fd);
}

int ftruncate(int fd, off_t bytes) {
    REAL(ftruncate);
    GUARD(TRUNCATE, fd, -1);
    return real(fd, bytes);
}

int ftruncate64(int fd, off64_t bytes) {
    REAL(ftruncate64);
    GUARD(TRUNCATE, fd, -1);
    return real(fd, bytes);
}

int fallocate(int fd, int mode, off_t from, off_t bytes) {
    REAL(fallocate);
    GUARD(ALLOCATE, fd, -1);
    return real(fd, mode, from, bytes);
}

int fallocate64(int fd, int mode, off64_t from, off64_t bytes) {
    REAL(fallocate64);
    GUARD(ALLOCATE, fd, -1);
    return real(fd, mode, from, bytes);
}

/* These two return the error. */
int posix_fallocate(int fd, off_t from, off_t bytes) {
    REAL(posix_fallocate);
    int error = strike_fd(ALLOCATE, fd);
    return error ? error : real(fd, from, bytes);
}

int posix_fallocate64(int fd, off64_t from, off64_t bytes) {
    REAL(posix_fallocate64);
    int error = strike_fd(ALLOCATE, fd);
    return error ? error : real(fd, from, bytes);
}

static const char *redirected(const char *path) {
    int boot_id = !strcmp(path, "/proc/sys/kernel/random/boot_id");
    return boot_id && control->boot_id[0] ? control->boot_id : path;
}

#define OPEN_BODY \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    int error = strike(OPEN, path); \
    if (error) { \
        errno = error; \
        return -1; \
    } \
    return real(redirected(path), flags, mode)

int open(const char *path, int flags, ...) {
    REAL(open);
    OPEN_BODY;
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    OPEN_BODY;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    REAL(clock_gettime);
    int failed = real(clock, time);
    if (failed) return failed;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) {
        time->tv_sec += control->wall_offset_s;
    } else if (clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME) {
        int64_t nanos = time->tv_nsec + control->monotonic_offset_us % 1000000 * 1000;
        time->tv_sec += control->monotonic_offset_us / 1000000 + nanos / 1000000000;
        time->tv_nsec = nanos % 1000000000;
    }
    return 0;
}

int gettimeofday(struct timeval *time, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(time, zone);
    if (!failed) time->tv_sec += control->wall_offset_s;
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
