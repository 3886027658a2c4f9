/* A disk that forgets: loaded into a server with LD_PRELOAD, it keeps what files below one directory were before
 * each change that no sync has covered yet, in a journal beside them. After the server was killed the checker uses
 * the journal to put back what a lost page cache would have lost.
 *
 *   FORGET_DIR      the directory; everything below it is watched, nothing else
 *   FORGET_JOURNAL  a directory on the same file system, outside of FORGET_DIR: journal, and links to removed files
 *   FORGET_CONTROL  a file of CONTROL_BYTES that the checker writes and this library maps
 *
 * Nothing here reaches the disk before the checker needs it: a killed process does not lose its page cache, so a
 * sync is a delay and a mark in the journal. What is not watched: mkdir, links, and files given to the process open.
 * All state is under one lock, so the order of the journal is the order of the changes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS_MAX 65536
#define INODES_MAX 4096
#define COPY_BYTES (1 << 20)
#define CONTROL_BYTES 4096

enum kind { WRITE = 1, SIZE, SYNC, LOST, CREATE, RENAME, UNLINK };

/* One entry of the journal; `bytes` bytes follow. */
struct entry {
    uint32_t kind;
    uint32_t bytes;
    uint64_t seq;
    uint64_t inode;  /* the file's; of CREATE, RENAME and UNLINK the directory's */
    uint64_t a;      /* WRITE: offset; SIZE: size before; SYNC, LOST: seq up to which; others: number of the kept link, or 0 */
    uint64_t b;      /* WRITE: bytes about to be written */
};

/* What the checker asks for, and what happened. */
struct control {
    uint64_t fail_sync_in;   /* the n-th sync from now fails with EIO; 0: none */
    uint64_t fail_write_in;  /* the n-th write from now fails with EIO */
    uint64_t no_space;       /* not 0: whatever needs room fails with ENOSPC */
    uint64_t sync_us_max;    /* a sync takes up to this long */
    uint64_t kill_in;        /* the n-th watched call from now ends in SIGKILL, before or after it */
    uint64_t syncs;
    uint64_t writes;
    uint64_t errors;         /* injected so far */
    uint64_t calls;          /* watched so far */
    uint64_t dirty;          /* journal entries that no sync covers */
};

/* The changes of one inode that no sync covers. */
struct dirty {
    uint64_t inode;
    uint64_t *seqs;
    size_t len, cap;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int active;
static char watched[PATH_MAX];
static size_t watched_len;
static char journal_dir[PATH_MAX];
static int journal = -1;
static uint64_t next_seq = 1;
static int keeps_all;  /* after a failed sync later ones do not make the journal superfluous */
static struct dirty dirty[INODES_MAX];
static size_t dirty_len;
static uint64_t dirty_total;
static struct control own_control;
static struct control *control = &own_control;
static uint64_t random_state;
static uint64_t fd_inode[FDS_MAX];  /* 0: not watched */
static char *fd_path[FDS_MAX];      /* of watched directories */

static void die(const char *what) {
    dprintf(2, "forget: %s: %s\n", what, strerror(errno));
    _exit(99);
}

static ssize_t raw_pread(int fd, void *to, size_t bytes, off_t at) { return syscall(SYS_pread64, fd, to, bytes, at); }
static int raw_fstat(int fd, struct stat *st) { return (int)syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH); }
static int raw_lstat(const char *path, struct stat *st) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
}

static void put(const void *from, size_t bytes) {
    const char *at = from;
    while (bytes > 0) {
        ssize_t done = syscall(SYS_write, journal, at, bytes);
        if (done < 0) {
            if (errno == EINTR) continue;
            die("the journal cannot be written");
        }
        at += done;
        bytes -= (size_t)done;
    }
}

static struct dirty *dirty_of(uint64_t inode) {
    for (size_t i = 0; i < dirty_len; i++)
        if (dirty[i].inode == inode) return &dirty[i];
    if (dirty_len == INODES_MAX) {
        errno = ENFILE;
        die("too many files");
    }
    dirty[dirty_len].inode = inode;
    return &dirty[dirty_len++];
}

static void now_dirty(uint64_t inode, uint64_t seq) {
    struct dirty *of = dirty_of(inode);
    if (of->len == of->cap) {
        of->cap = of->cap ? of->cap * 2 : 64;
        of->seqs = realloc(of->seqs, of->cap * sizeof *of->seqs);
        if (!of->seqs) die("no memory");
    }
    of->seqs[of->len++] = seq;
    control->dirty = ++dirty_total;
}

static void now_clean(uint64_t inode, uint64_t upto) {
    struct dirty *of = dirty_of(inode);
    size_t kept = 0;
    for (size_t i = 0; i < of->len; i++)
        if (of->seqs[i] > upto) of->seqs[kept++] = of->seqs[i];
    dirty_total -= of->len - kept;
    of->len = kept;
    control->dirty = dirty_total;
}

static void record(struct entry entry, const void *bytes) {
    entry.seq = next_seq++;
    put(&entry, sizeof entry);
    if (entry.bytes) put(bytes, entry.bytes);
    if (entry.kind != SYNC && entry.kind != LOST) now_dirty(entry.inode, entry.seq);
}

/* What an earlier life of the server left: its unsynced changes are still unsynced. */
static void reload(void) {
    struct stat st;
    if (raw_fstat(journal, &st) < 0) die("the journal cannot be read");
    off_t at = 0;
    struct entry entry;
    while (raw_pread(journal, &entry, sizeof entry, at) == (ssize_t)sizeof entry
           && at + (off_t)sizeof entry + (off_t)entry.bytes <= st.st_size) {
        if (entry.kind == SYNC) now_clean(entry.inode, entry.a);
        else if (entry.kind == LOST) keeps_all = 1;
        else now_dirty(entry.inode, entry.seq);
        next_seq = entry.seq + 1;
        at += (off_t)sizeof entry + (off_t)entry.bytes;
    }
    /* An entry that the kill cut belongs to a change that was never made. */
    if (at < st.st_size && syscall(SYS_ftruncate, journal, at) < 0) die("the journal cannot be cut");
}

static void start(void) {
    const char *dir = getenv("FORGET_DIR");
    const char *beside = getenv("FORGET_JOURNAL");
    const char *controlled = getenv("FORGET_CONTROL");
    if (!dir || !beside) return;
    if (!realpath(dir, watched)) die(dir);
    watched_len = strlen(watched);
    snprintf(journal_dir, sizeof journal_dir, "%s", beside);
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/journal", beside) >= (int)sizeof path) die("FORGET_JOURNAL is too long");
    journal = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) die(path);
    if (controlled) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, controlled, O_RDWR | O_CLOEXEC, 0);
        void *page = fd < 0 ? MAP_FAILED : mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED) die(controlled);
        syscall(SYS_close, fd);
        control = page;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    random_state = ((uint64_t)now.tv_nsec ^ (uint64_t)getpid() << 32) | 1;
    reload();
    active = 1;
}

static int is_active(void) {
    pthread_once(&once, start);
    return active;
}

/* Whether this is the n-th time. */
static int is_due(uint64_t *in) { return *in != 0 && --*in == 0; }

static void kill_now(void) { syscall(SYS_kill, getpid(), 9); }

/* Counts a watched call; returns whether the process has to die after it. */
static int counted(void) {
    control->calls++;
    if (!is_due(&control->kill_in)) return 0;
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    if (random_state >> 63) kill_now();
    return 1;
}

static int is_below(const char *path) {
    return strncmp(path, watched, watched_len) == 0 && (path[watched_len] == '/' || path[watched_len] == 0);
}

/* The absolute name of `path` if it lies in the watched directory. Its last part need not exist. */
static int resolve(int at, const char *path, char *out) {
    char joined[PATH_MAX], parent[PATH_MAX];
    if (path[0] == '/') {
        snprintf(joined, sizeof joined, "%s", path);
    } else if (at >= 0 && at < FDS_MAX && fd_path[at]) {
        if (snprintf(joined, sizeof joined, "%s/%s", fd_path[at], path) >= (int)sizeof joined) return 0;
    } else if (at == AT_FDCWD) {
        char cwd[PATH_MAX];
        if (syscall(SYS_getcwd, cwd, sizeof cwd) < 0) return 0;
        if (snprintf(joined, sizeof joined, "%s/%s", cwd, path) >= (int)sizeof joined) return 0;
    } else {
        return 0;
    }
    char *slash = strrchr(joined, '/');
    if (!slash) return 0;
    const char *name = slash + 1;
    if (*name == 0 || strcmp(name, ".") == 0) return realpath(joined, out) != NULL && is_below(out);
    *slash = 0;
    if (!realpath(slash == joined ? "/" : joined, parent)) return 0;
    return snprintf(out, PATH_MAX, "%s/%s", parent, name) < PATH_MAX && is_below(out);
}

static uint64_t parent_inode(const char *path) {
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    struct stat st;
    if (!slash) return 0;
    *slash = 0;
    return raw_lstat(parent, &st) < 0 ? 0 : (uint64_t)st.st_ino;
}

/* Keeps a file that is about to lose its name. Returns the number of its link, 0 if there was no file. */
static uint64_t keep(const char *path) {
    char link[PATH_MAX];
    uint64_t number = next_seq;
    if (snprintf(link, sizeof link, "%s/kept-%llu", journal_dir, (unsigned long long)number) >= (int)sizeof link) return 0;
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, link, 0) < 0) return 0;
    return number;
}

static void forget_journal(void) {
    if (dirty_total != 0 || keeps_all) return;
    if (syscall(SYS_ftruncate, journal, 0) < 0) die("the journal cannot be emptied");
}

/* Journals what a write of `bytes` at `at` is about to change. */
static void before_write(int fd, off_t at, size_t bytes) {
    static char old[COPY_BYTES];
    struct stat st;
    if (raw_fstat(fd, &st) < 0) return;
    if (at + (off_t)bytes > st.st_size) {
        struct entry size = {.kind = SIZE, .inode = fd_inode[fd], .a = (uint64_t)st.st_size};
        record(size, NULL);
    }
    off_t end = at + (off_t)bytes;
    while (at < end) {
        size_t piece = (size_t)(end - at) < COPY_BYTES ? (size_t)(end - at) : COPY_BYTES;
        ssize_t there = raw_pread(fd, old, piece, at);
        if (there < 0) {
            /* Opened for writing only: read it through another descriptor. */
            char self[64];
            snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
            int again = (int)syscall(SYS_openat, AT_FDCWD, self, O_RDONLY | O_CLOEXEC, 0);
            if (again < 0) die("a file cannot be read");
            there = raw_pread(again, old, piece, at);
            syscall(SYS_close, again);
            if (there < 0) die("a file cannot be read");
        }
        struct entry write = {
            .kind = WRITE, .bytes = (uint32_t)there, .inode = fd_inode[fd], .a = (uint64_t)at, .b = piece};
        record(write, old);
        at += (off_t)piece;
    }
}

static int is_watched(int fd) { return is_active() && fd >= 0 && fd < FDS_MAX && fd_inode[fd] != 0; }

/* Does `call` with everything it changes journalled; -1 and errno if an error was injected. */
#define WRITING(fd, at, bytes, call)                        \
    pthread_mutex_lock(&lock);                              \
    int dies = counted();                                   \
    control->writes++;                                      \
    ssize_t done = -1;                                      \
    if (is_due(&control->fail_write_in)) {                  \
        control->errors++;                                  \
        errno = EIO;                                        \
    } else if (control->no_space && grows(fd, at, bytes)) { \
        control->errors++;                                  \
        errno = ENOSPC;                                     \
    } else {                                                \
        before_write(fd, at, bytes);                        \
        done = call;                                        \
    }                                                       \
    if (dies) kill_now();                                   \
    int error = errno;                                      \
    pthread_mutex_unlock(&lock);                            \
    errno = error;                                          \
    return done

static int grows(int fd, off_t at, size_t bytes) {
    struct stat st;
    return raw_fstat(fd, &st) == 0 && at + (off_t)bytes > st.st_size;
}

static off_t write_at(int fd) {
    int flags = (int)syscall(SYS_fcntl, fd, F_GETFL);
    return syscall(SYS_lseek, fd, 0, flags >= 0 && flags & O_APPEND ? SEEK_END : SEEK_CUR);
}

static size_t total(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    return bytes;
}

ssize_t pwrite64(int fd, const void *from, size_t bytes, off_t at) {
    if (!is_watched(fd)) return syscall(SYS_pwrite64, fd, from, bytes, at);
    WRITING(fd, at, bytes, syscall(SYS_pwrite64, fd, from, bytes, at));
}
ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) { return pwrite64(fd, from, bytes, at); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    if (!is_watched(fd)) return syscall(SYS_pwritev, fd, parts, count, at, 0);
    WRITING(fd, at, total(parts, count), syscall(SYS_pwritev, fd, parts, count, at, 0));
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

ssize_t write(int fd, const void *from, size_t bytes) {
    if (!is_watched(fd)) return syscall(SYS_write, fd, from, bytes);
    WRITING(fd, write_at(fd), bytes, syscall(SYS_write, fd, from, bytes));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!is_watched(fd)) return syscall(SYS_writev, fd, parts, count);
    WRITING(fd, write_at(fd), total(parts, count), syscall(SYS_writev, fd, parts, count));
}

static int resize(int fd, off_t size) {
    if (!is_watched(fd)) return (int)syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int dies = counted();
    struct stat st;
    if (raw_fstat(fd, &st) == 0) {
        if (st.st_size > size) before_write(fd, size, (size_t)(st.st_size - size));
        struct entry entry = {.kind = SIZE, .inode = fd_inode[fd], .a = (uint64_t)st.st_size};
        record(entry, NULL);
    }
    int done = (int)syscall(SYS_ftruncate, fd, size);
    if (dies) kill_now();
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int ftruncate64(int fd, off_t size) { return resize(fd, size); }
int ftruncate(int fd, off_t size) { return resize(fd, size); }

static int allocate(int fd, int mode, off_t at, off_t bytes) {
    if (!is_watched(fd)) return (int)syscall(SYS_fallocate, fd, mode, at, bytes);
    pthread_mutex_lock(&lock);
    int dies = counted();
    int done = -1;
    if (control->no_space) {
        control->errors++;
        errno = ENOSPC;
    } else {
        struct stat st;
        if (raw_fstat(fd, &st) == 0) {
            /* A mode changes what is there: zeroes or a hole. */
            if (mode & ~1) before_write(fd, at, (size_t)(st.st_size > at + bytes ? bytes : st.st_size > at ? st.st_size - at : 0));
            struct entry entry = {.kind = SIZE, .inode = fd_inode[fd], .a = (uint64_t)st.st_size};
            record(entry, NULL);
        }
        done = (int)syscall(SYS_fallocate, fd, mode, at, bytes);
    }
    if (dies) kill_now();
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int fallocate64(int fd, int mode, off_t at, off_t bytes) { return allocate(fd, mode, at, bytes); }
int fallocate(int fd, int mode, off_t at, off_t bytes) { return allocate(fd, mode, at, bytes); }
int posix_fallocate64(int fd, off_t at, off_t bytes) { return allocate(fd, 0, at, bytes) < 0 ? errno : 0; }
int posix_fallocate(int fd, off_t at, off_t bytes) { return posix_fallocate64(fd, at, bytes); }

static int sync_file(int fd) {
    pthread_mutex_lock(&lock);
    int dies = counted();
    uint64_t inode = fd_inode[fd];
    uint64_t upto = next_seq - 1;
    int fails = is_due(&control->fail_sync_in);
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    uint64_t delay_us = control->sync_us_max ? (random_state >> 33) % (control->sync_us_max + 1) : 0;
    pthread_mutex_unlock(&lock);
    if (delay_us) {
        struct timespec delay = {.tv_sec = (time_t)(delay_us / 1000000), .tv_nsec = (long)(delay_us % 1000000) * 1000};
        syscall(SYS_nanosleep, &delay, NULL);
    }
    pthread_mutex_lock(&lock);
    control->syncs++;
    if (fails) {
        control->errors++;
        keeps_all = 1;
    }
    struct entry entry = {.kind = fails ? LOST : SYNC, .inode = inode, .a = upto};
    record(entry, NULL);
    if (!fails) {
        now_clean(inode, upto);
        forget_journal();
    }
    if (dies) kill_now();
    pthread_mutex_unlock(&lock);
    errno = EIO;
    return fails ? -1 : 0;
}
int fdatasync(int fd) { return is_watched(fd) ? sync_file(fd) : (int)syscall(SYS_fdatasync, fd); }
int fsync(int fd) { return is_watched(fd) ? sync_file(fd) : (int)syscall(SYS_fsync, fd); }

static int open_file(int at, const char *path, int flags, mode_t mode) {
    char name[PATH_MAX];
    if (!is_active() || !resolve(at, path, name)) return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat st;
    int exists = raw_lstat(name, &st) == 0;
    int changes = (flags & O_CREAT && !exists) || (flags & O_TRUNC && exists);
    int dies = changes && counted();
    int fd = -1;
    if (flags & O_CREAT && !exists && control->no_space) {
        control->errors++;
        errno = ENOSPC;
    } else {
        if (flags & O_CREAT && !exists) {
            struct entry entry = {.kind = CREATE, .bytes = (uint32_t)strlen(name), .inode = parent_inode(name)};
            record(entry, name);
        }
        fd = (int)syscall(SYS_openat, at, path, flags & ~O_TRUNC, mode);
    }
    if (fd >= FDS_MAX) die("too many descriptors");
    if (fd >= 0 && raw_fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) {
        fd_inode[fd] = (uint64_t)st.st_ino;
        fd_path[fd] = S_ISDIR(st.st_mode) ? strdup(name) : NULL;
        if (flags & O_TRUNC && st.st_size > 0) {
            before_write(fd, 0, (size_t)st.st_size);
            struct entry entry = {.kind = SIZE, .inode = fd_inode[fd], .a = (uint64_t)st.st_size};
            record(entry, NULL);
            if (syscall(SYS_ftruncate, fd, 0) < 0) die("a file cannot be cut");
        }
    }
    if (dies) kill_now();
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE_OF(flags)                                   \
    mode_t mode = 0;                                     \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) { \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        mode = va_arg(rest, mode_t);                     \
        va_end(rest);                                    \
    }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_file(AT_FDCWD, path, flags, mode); }
int open(const char *path, int flags, ...) { MODE_OF(flags) return open_file(AT_FDCWD, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_file(at, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_file(at, path, flags, mode); }

/* A second descriptor of a watched file is watched as well. */
static int copied(int fd, int copy) {
    if (copy >= FDS_MAX) die("too many descriptors");
    if (copy >= 0 && is_watched(fd)) {
        pthread_mutex_lock(&lock);
        fd_inode[copy] = fd_inode[fd];
        fd_path[copy] = fd_path[fd] ? strdup(fd_path[fd]) : NULL;
        pthread_mutex_unlock(&lock);
    }
    return copy;
}
int dup(int fd) { return copied(fd, (int)syscall(SYS_dup, fd)); }

static int control_fd(int fd, int command, long argument) {
    int done = (int)syscall(SYS_fcntl, fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, done) : done;
}
#define ARGUMENT_OF(last)               \
    va_list rest;                       \
    va_start(rest, last);               \
    long argument = va_arg(rest, long); \
    va_end(rest);
int fcntl(int fd, int command, ...) { ARGUMENT_OF(command) return control_fd(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT_OF(command) return control_fd(fd, command, argument); }

int close(int fd) {
    if (is_watched(fd)) {
        pthread_mutex_lock(&lock);
        fd_inode[fd] = 0;
        free(fd_path[fd]);
        fd_path[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_close, fd);
}

static int rename_file(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char names[2 * PATH_MAX];
    char old[PATH_MAX], new[PATH_MAX];
    if (!is_active() || !resolve(from_at, from, old) || !resolve(to_at, to, new))
        return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    int dies = counted();
    struct stat st;
    if (raw_lstat(old, &st) == 0) {
        int bytes = snprintf(names, sizeof names, "%s%c%s", old, 0, new);
        struct entry entry = {.kind = RENAME, .bytes = (uint32_t)bytes, .inode = parent_inode(new), .a = keep(new)};
        record(entry, names);
    }
    int done = (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (dies) kill_now();
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int rename(const char *from, const char *to) { return rename_file(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return rename_file(from_at, from, to_at, to, 0); }
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    return rename_file(from_at, from, to_at, to, flags);
}

static int remove_file(int at, const char *path, int flags) {
    char name[PATH_MAX];
    if (flags || !is_active() || !resolve(at, path, name)) return (int)syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_lock(&lock);
    int dies = counted();
    uint64_t kept = keep(name);
    if (kept) {
        struct entry entry = {.kind = UNLINK, .bytes = (uint32_t)strlen(name), .inode = parent_inode(name), .a = kept};
        record(entry, name);
    }
    int done = (int)syscall(SYS_unlinkat, at, path, flags);
    if (dies) kill_now();
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
int unlink(const char *path) { return remove_file(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return remove_file(at, path, flags); }
