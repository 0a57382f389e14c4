/* A disk that loses its power, below a program that knows nothing of it: preloaded, it stands between libc and
 * the kernel, and keeps beside one directory what of it is durable. chaos/power/__init__.py says how to use it.
 *
 *   POWER_ROOT    the directory; an absolute path without symbolic links. It need not be there yet
 *   POWER_SHADOW  where its durable state is kept: same file system, not below POWER_ROOT, with these directories:
 *       content/<inode>   the durable bytes of a file
 *       dirs/<inode>      the durable names of a directory: symbolic links into content/ and dirs/
 *       pins/<inode>      a hard link to the file itself, so that its number is not given to another
 *       dirty/<inode>     of a file a sync of which failed: what was written since, as pairs of offset and length
 *   POWER_STRIKE  "<n> <pattern>": SIGKILL to the process right before the n-th call that matches (fnmatch), such as
 *                 "1 rename *.part -> *.snap"; the call goes to POWER_SHADOW/struck. Paths begin after POWER_ROOT
 *   POWER_SHADOW/fail  as soon as this file is there: "<n> <how> <pattern>", what the n-th write or sync that matches
 *                 meets. It is gone then, and the call stands in POWER_SHADOW/struck. How:
 *       EIO       the call fails; nothing is written
 *       unsynced  the call fails with EIO, all was written, and nothing of it, or of what was not synced before, is durable
 *       short     half is written, and the call says so
 *       torn      the same, and the next write to a file that matches fails with EIO
 *
 * After a sync that failed the file shows what the disk does not have, and the next sync succeeds without writing it, as on
 * Linux: the pages count as clean. Durable from now on is what is written again and synced, in this process and in later ones.
 *
 * The model is the harshest that POSIX allows: durable are the content and the size of a file when fdatasync or fsync
 * returned, the bytes of one write with RWF_DSYNC when it returned (not what was written before it), the names in a
 * directory when its fsync returned. All of it is read from the live files at that moment, and all of it stands on disk: a
 * forked child goes on with it, and a program that was killed leaves it behind. What a strike hits between two steps of a sync
 * is a part of what was not durable yet; directories change as a whole.
 *
 * Wrapped are the calls that CPython makes for the functions of `os` without dir_fd. A change made by another call is
 * seen at the next sync all the same; only a strike cannot hit it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define TEXT_BYTES (2 * PATH_BYTES + 32)
#define COPY_BYTES (1 << 18)
#define EXIT_CODE 99 /* the shim itself failed: nothing that is seen afterwards is worth anything */

static char root[PATH_BYTES], parent[PATH_BYTES], shadow[PATH_BYTES / 2], pattern[PATH_BYTES];
static const char *root_name;
static long strike_at; /* 0: never */

static struct {
    pthread_mutex_t lock; /* robust: a forked child may be killed while it holds it */
    long matched;
    pid_t owner;
} *shared; /* with forked children */

static void fail(const char *what, const char *path) {
    fprintf(stderr, "power shim: %s %s: %s\n", what, path, strerror(errno));
    _exit(EXIT_CODE);
}

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) fail("find", name);
    return found;
}

static void lock(void) {
    if (pthread_mutex_lock(&shared->lock) == EOWNERDEAD) pthread_mutex_consistent(&shared->lock);
}

static void unlock(void) {
    int error = errno;
    pthread_mutex_unlock(&shared->lock);
    errno = error;
}

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("POWER_ROOT"), *beside = getenv("POWER_SHADOW"), *strike = getenv("POWER_STRIKE");
    if (!where || !beside) return;
    snprintf(parent, sizeof parent, "%s", where);
    snprintf(shadow, sizeof shadow, "%s", beside);
    char *slash = strrchr(parent, '/');
    if (!slash || slash == parent) fail("POWER_ROOT is no absolute path below a directory:", where);
    *slash = 0;
    root_name = slash + 1;
    if (strike && *strike) {
        char *rest;
        strike_at = strtol(strike, &rest, 10);
        if (strike_at < 1 || *rest != ' ') fail("POWER_STRIKE is not '<n> <pattern>':", strike);
        snprintf(pattern, sizeof pattern, "%s", rest + 1);
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) fail("map", "a page");
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->lock, &kind);
    shared->owner = getpid();
    snprintf(root, sizeof root, "%s", where); /* last: from now on the calls below are watched */
}

/* ------------------------------------------------------------------ scope */
static int below(const char *path) {
    size_t length = strlen(root);
    return length && !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* Into `path` what `fd` was opened by; whether it is below the root. */
static int below_fd(int fd, char path[PATH_BYTES]) {
    char link[64];
    int error = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = *root ? readlink(link, path, PATH_BYTES - 1) : 0;
    path[length > 0 ? length : 0] = 0;
    errno = error;
    return below(path);
}

static void strike(const char *call, const char *path, const char *to) {
    char text[TEXT_BYTES];
    size_t cut = strlen(root);
    if (!strike_at) return;
    if (to) snprintf(text, sizeof text, "%s %s -> %s", call, path + cut, below(to) ? to + cut : to);
    else snprintf(text, sizeof text, "%s %s", call, path + cut);
    if (fnmatch(pattern, text, 0) || __atomic_add_fetch(&shared->matched, 1, __ATOMIC_SEQ_CST) != strike_at) return;
    char note[PATH_BYTES];
    snprintf(note, sizeof note, "%s/struck", shadow);
    int fd = open(note, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail("write", note);
    kill(shared->owner, SIGKILL);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* --------------------------------------------------------------- failures */
enum failure { NONE, REFUSED, UNSYNCED, SHORT };

static void leave(const char *name, const char *text) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", shadow, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail("write", path);
    close(fd);
}

/* What this write or sync meets, as POWER_SHADOW/fail has it. */
static enum failure meets(const char *call, const char *path) {
    char order[PATH_BYTES], text[TEXT_BYTES], note[2 * PATH_BYTES], how[16], *rest;
    enum failure found = NONE;
    int error = errno;
    snprintf(order, sizeof order, "%s/fail", shadow);
    int absent = access(order, F_OK);
    errno = error;
    if (absent) return NONE;
    lock();
    int fd = open(order, O_RDONLY | O_CLOEXEC), begins = 0;
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[length > 0 ? length : 0] = 0;
    if (fd >= 0) close(fd);
    long at = strtol(text, &rest, 10);
    snprintf(note, sizeof note, "%s %s", call, path + strlen(root));
    if (at > 0 && sscanf(rest, " %15s %n", how, &begins) == 1 && begins && !fnmatch(rest + begins, note, 0)) {
        char next[TEXT_BYTES + 32];
        snprintf(next, sizeof next, "%ld %s %s", at > 1 ? at - 1 : 1, at > 1 ? how : "EIO", rest + begins);
        if (at > 1 || !strcmp(how, "torn")) leave("fail", next);
        else unlink(order);
        if (at == 1) {
            leave("struck", note);
            found = !strcmp(how, "EIO") ? REFUSED : !strcmp(how, "unsynced") ? UNSYNCED : SHORT;
        }
    }
    unlock();
    return found;
}

/* The file of the writes to `st` since a sync of it failed; -1 when none has, unless it has `now`. */
static int dirty(const struct stat *st, int now) {
    char path[PATH_BYTES];
    int error = errno;
    snprintf(path, sizeof path, "%s/dirty/%lu", shadow, (unsigned long)st->st_ino);
    int fd = open(path, O_RDWR | O_APPEND | O_CLOEXEC | (now ? O_CREAT | O_TRUNC : 0), 0600);
    if (fd < 0 && errno != ENOENT) fail("open", path);
    errno = error;
    return fd;
}

/* A sync of `fd` failed: its pages are clean now, whatever the disk has. */
static int sync_failed(int fd) {
    struct stat st;
    if (fstat(fd, &st)) fail("stat", "a file that fails");
    close(dirty(&st, 1));
    errno = EIO;
    return -1;
}

static void note_write(int fd, off_t from, ssize_t length) {
    off_t range[2] = {from, length};
    struct stat st;
    if (length <= 0 || fstat(fd, &st)) return;
    int notes = dirty(&st, 0);
    if (notes < 0) return;
    if (write(notes, range, sizeof range) != sizeof range) fail("note", "a write");
    close(notes);
}

/* ---------------------------------------------------------- durable files */
/* Opens the durable content of the live file `st`; -1 when there is none and the file has no name any more: then it never
 * was durable, and never will be. `live` is a path or, with `at`, a name. */
static int content(const struct stat *st, int at, const char *live, int flags) {
    char path[PATH_BYTES], pin[PATH_BYTES];
    snprintf(path, sizeof path, "%s/content/%lu", shadow, (unsigned long)st->st_ino);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) return fd;
    snprintf(pin, sizeof pin, "%s/pins/%lu", shadow, (unsigned long)st->st_ino);
    if (linkat(at, live, AT_FDCWD, pin, flags) && errno != EEXIST) {
        if (errno == ENOENT) return -1;
        fail("pin", live);
    }
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) fail("create", path);
    return fd;
}

static void copy(int in, int out, off_t from, off_t to) {
    char *buffer = malloc(COPY_BYTES);
    if (!buffer) fail("copy", "a file");
    while (from < to) {
        size_t length = to - from < COPY_BYTES ? (size_t)(to - from) : COPY_BYTES;
        ssize_t got = pread(in, buffer, length, from);
        if (got < 0 || pwrite(out, buffer, (size_t)got, from) != got) fail("copy", "a file");
        if (!got) break; /* another thread has cut it */
        from += got;
    }
    free(buffer);
}

/* Bytes `from` to `to` (-1: all that is dirty, and the size) of the live file are durable. */
static void keep(int fd, off_t from, off_t to) {
    char live[64];
    struct stat st;
    snprintf(live, sizeof live, "/proc/self/fd/%d", fd);
    if (fstat(fd, &st)) fail("stat", live);
    if (!S_ISREG(st.st_mode)) return;
    lock();
    int out = content(&st, AT_FDCWD, live, AT_SYMLINK_FOLLOW);
    if (out >= 0) {
        int in = open(live, O_RDONLY | O_CLOEXEC); /* fd may be one that only writes */
        if (in < 0 || fstat(in, &st)) fail("open", live);
        int notes = to < 0 ? dirty(&st, 0) : -1;
        if (notes >= 0) {
            for (off_t range[2]; read(notes, range, sizeof range) == sizeof range;)
                copy(in, out, range[0], range[0] + range[1]);
            if (ftruncate(notes, 0)) fail("cut", "the notes");
            close(notes);
        } else {
            copy(in, out, from, to < 0 ? st.st_size : to);
        }
        if (to < 0 && ftruncate(out, st.st_size)) fail("cut", live);
        close(in);
        close(out);
    }
    unlock();
}

/* ---------------------------------------------------- durable directories */
static void empty(const char *directory) {
    DIR *names = opendir(directory);
    if (!names) return;
    for (struct dirent *one; (one = readdir(names));)
        if (strcmp(one->d_name, ".") && strcmp(one->d_name, "..")) unlinkat(dirfd(names), one->d_name, 0);
    closedir(names);
}

/* A durable name for one that is live. */
static void keep_name(int live, const char *name, int next) {
    struct stat st;
    char to[PATH_BYTES], path[PATH_BYTES];
    if (fstatat(live, name, &st, AT_SYMLINK_NOFOLLOW)) fail("stat", name);
    unsigned long inode = (unsigned long)st.st_ino;
    if (S_ISDIR(st.st_mode)) {
        snprintf(path, sizeof path, "%s/dirs/%lu", shadow, inode);
        if (mkdir(path, 0700) && errno != EEXIST) fail("create", path);
        snprintf(to, sizeof to, "../../dirs/%lu", inode);
    } else if (S_ISREG(st.st_mode)) {
        close(content(&st, live, name, 0));
        snprintf(to, sizeof to, "../../content/%lu", inode);
    } else {
        return;
    }
    if (symlinkat(to, next, name)) fail("link", name);
}

/* The names in the live directory are durable; of the root's parent, only the root's. */
static void keep_names(int fd, const char *directory) {
    char path[PATH_BYTES], next[PATH_BYTES];
    struct stat st;
    if (fstat(fd, &st)) fail("stat", directory);
    if (!S_ISDIR(st.st_mode)) return;
    lock();
    snprintf(path, sizeof path, "%s/dirs/%lu", shadow, (unsigned long)st.st_ino);
    snprintf(next, sizeof next, "%s/dirs/next", shadow);
    empty(next);
    if (mkdir(next, 0700) && errno != EEXIST) fail("create", next);
    int into = open(next, O_RDONLY | O_DIRECTORY | O_CLOEXEC), from = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *names = from < 0 ? NULL : fdopendir(from);
    if (into < 0 || !names) fail("open", directory);
    for (struct dirent *one; (one = readdir(names));) {
        if (!strcmp(one->d_name, ".") || !strcmp(one->d_name, "..")) continue;
        if (strcmp(directory, parent) || !strcmp(one->d_name, root_name)) keep_name(from, one->d_name, into);
    }
    if (mkdir(path, 0700) && errno != EEXIST) fail("create", path);
    if (renameat2(AT_FDCWD, next, AT_FDCWD, path, RENAME_EXCHANGE)) fail("exchange", path);
    closedir(names);
    close(into);
    unlock();
}

/* --------------------------------------------------------- what is wrapped */
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (!(flags & (O_CREAT | O_TRUNC)) || !below(path)) return REAL(open64)(path, flags, mode);
    strike("create", path, NULL);
    lock();
    int fd = REAL(open64)(path, flags, mode);
    unlock();
    return fd;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    char path[PATH_BYTES];
    if (!below_fd(fd, path)) return REAL(pwrite64)(fd, data, length, offset);
    strike("write", path, NULL);
    enum failure failure = meets("write", path);
    if (failure == REFUSED) {
        errno = EIO;
        return -1;
    }
    ssize_t written = REAL(pwrite64)(fd, data, failure == SHORT ? (length + 1) / 2 : length, offset);
    note_write(fd, offset, written);
    return failure == UNSYNCED ? sync_failed(fd) : written;
}

/* The first half of what is to be written, at least a byte. */
static ssize_t write_half(int fd, const struct iovec *buffers, int count, off64_t offset, int flags) {
    struct iovec *half = malloc((size_t)count * sizeof *half);
    size_t total = 0;
    int used = 0;
    for (int i = 0; i < count; i++) total += buffers[i].iov_len;
    if (!half) fail("cut", "a write");
    for (size_t rest = (total + 1) / 2; rest; used++) {
        half[used] = buffers[used];
        if (half[used].iov_len > rest) half[used].iov_len = rest;
        rest -= half[used].iov_len;
    }
    ssize_t written = REAL(pwritev64v2)(fd, half, used, offset, flags);
    free(half);
    return written;
}

ssize_t pwritev64v2(int fd, const struct iovec *buffers, int count, off64_t offset, int flags) {
    char path[PATH_BYTES];
    if (!below_fd(fd, path)) return REAL(pwritev64v2)(fd, buffers, count, offset, flags);
    const char *call = flags & RWF_DSYNC ? "write+sync" : "write";
    strike(call, path, NULL);
    enum failure failure = meets(call, path);
    if (failure == REFUSED) {
        errno = EIO;
        return -1;
    }
    ssize_t written = failure == SHORT ? write_half(fd, buffers, count, offset, flags)
                                       : REAL(pwritev64v2)(fd, buffers, count, offset, flags);
    if (failure == UNSYNCED) return sync_failed(fd);
    if (written > 0 && flags & (RWF_DSYNC | RWF_SYNC)) keep(fd, offset, offset + written);
    else note_write(fd, offset, written);
    return written;
}

int ftruncate64(int fd, off64_t size) {
    char path[PATH_BYTES];
    if (below_fd(fd, path)) strike("truncate", path, NULL);
    return REAL(ftruncate64)(fd, size);
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    char path[PATH_BYTES];
    if (below_fd(fd, path)) strike("preallocate", path, NULL);
    return REAL(posix_fallocate64)(fd, offset, length);
}

int fdatasync(int fd) {
    char path[PATH_BYTES];
    int watched = below_fd(fd, path);
    if (watched) strike("sync", path, NULL);
    if (watched && meets("sync", path) != NONE) return sync_failed(fd);
    int result = REAL(fdatasync)(fd);
    if (watched && !result) keep(fd, 0, -1);
    return result;
}

int fsync(int fd) {
    char path[PATH_BYTES];
    int watched = below_fd(fd, path);
    if (watched) strike("sync", path, NULL);
    if (watched && meets("sync", path) != NONE) return sync_failed(fd);
    int result = REAL(fsync)(fd);
    if (!result && watched) keep(fd, 0, -1);
    if (!result && *root && (watched || !strcmp(path, parent))) keep_names(fd, path);
    return result;
}

int rename(const char *old, const char *new) {
    if (!below(old)) return REAL(rename)(old, new);
    strike("rename", old, new);
    lock();
    int result = REAL(rename)(old, new);
    unlock();
    return result;
}

int unlink(const char *path) {
    if (!below(path)) return REAL(unlink)(path);
    strike("unlink", path, NULL);
    lock();
    int result = REAL(unlink)(path);
    unlock();
    return result;
}

int mkdir(const char *path, mode_t mode) {
    if (!below(path)) return REAL(mkdir)(path, mode);
    strike("mkdir", path, NULL);
    lock();
    int result = REAL(mkdir)(path, mode);
    struct stat st;
    if (!result && !stat(path, &st)) { /* its number may have been that of a directory that was removed */
        char stale[PATH_BYTES];
        snprintf(stale, sizeof stale, "%s/dirs/%lu", shadow, (unsigned long)st.st_ino);
        empty(stale);
    }
    unlock();
    return result;
}
