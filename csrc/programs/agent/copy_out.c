#include "programs/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Minimum size in bytes of the free space in the buffer for the data of a record. If less is free,
 * the buffer is sent first. */
#define DATA_MIN 4096

/* A buffer for records, so that one system call sends many of them. */
struct sending {
    int output;
    bool lists;   /* whether to send the entries of a directory without their contents */
    bool stopped; /* whether sending has failed, or an error was sent */
    int depth;
    size_t size;
    char bytes[AGENT_DATA_MAX + sizeof(struct agent_record)];
};

static void send_buffer(struct sending *sending)
{
    for (size_t at = 0; at < sending->size && !sending->stopped;) {
        ssize_t part = write(sending->output, sending->bytes + at, sending->size - at);
        if (part > 0)
            at += (size_t)part;
        else if (errno != EINTR)
            sending->stopped = true;
    }
    sending->size = 0;
}

/* Sends the contents of the buffer if fewer than `size` bytes are free. */
static void make_record_room(struct sending *sending, size_t size)
{
    if (size > sizeof sending->bytes - sending->size)
        send_buffer(sending);
}

static void add_record_text(struct sending *sending, const char *text, size_t size)
{
    memcpy(sending->bytes + sending->size, text, size);
    sending->size += size;
}

/* Adds a record to the buffer, followed by a file name, and by the target of a symbolic link unless
 * `target` is NULL. */
static void add_file_record(struct sending *sending, struct agent_record *record, const char *name,
                            const char *target)
{
    size_t length = strlen(name), rest = target ? strlen(target) : 0;
    if (target)
        record->length = length;
    record->size = (uint32_t)(length + rest);
    make_record_room(sending, sizeof *record + record->size);
    add_record_text(sending, (const char *)record, sizeof *record);
    add_record_text(sending, name, length);
    add_record_text(sending, target ? target : "", rest);
}

static bool stop_sending(struct sending *sending, int errnum, const char *name)
{
    struct agent_record record = {.kind = AGENT_STOPPED, .mode = (uint32_t)errnum};
    if (!sending->stopped)
        add_file_record(sending, &record, name, NULL);
    send_buffer(sending);
    sending->stopped = true;
    return false;
}

static void describe_file(struct agent_record *record, uint32_t kind, const struct stat *found)
{
    /* Correct a time before 1970: gVisor rounds its seconds towards zero, and then stores negative
     * nanoseconds in a uint32_t (NsecToStatxTimestamp()). */
    int64_t seconds = found->st_mtim.tv_sec;
    int32_t nanoseconds = (int32_t)found->st_mtim.tv_nsec;
    if (nanoseconds < 0) {
        nanoseconds += 1000000000;
        seconds--;
    }
    *record = (struct agent_record){
        .kind = kind,
        .mode = found->st_mode,
        .nanoseconds = (uint32_t)nanoseconds,
        .seconds = seconds,
        .length = (uint64_t)found->st_size,
    };
}

static void leave_file(struct sending *sending, bool changed)
{
    struct agent_record record = {.kind = AGENT_LEAVE, .mode = changed};
    add_file_record(sending, &record, "", NULL);
}

/* Sends an AGENT_OTHER record for an entry that was replaced or removed after it was listed.
 * Returns whether sending can continue. */
static bool send_changed(struct sending *sending, const char *name)
{
    struct agent_record record = {.kind = AGENT_OTHER};
    add_file_record(sending, &record, name, NULL);
    return !sending->stopped;
}

/* Returns whether a system call that failed with `errnum` shows that the entry was replaced or
 * removed after it was listed. */
static bool is_replaced(int errnum)
{
    return errnum == ENOENT || errnum == ENOTDIR || errnum == ELOOP || errnum == ENXIO;
}

/* Reads at most `most` bytes from `file`, and adds them to the buffer as an AGENT_DATA record.
 * Returns the number of bytes (0 at end of file), or -1 with errno set. */
static ssize_t send_part(struct sending *sending, int file, uint64_t most)
{
    struct agent_record record = {.kind = AGENT_DATA};
    make_record_room(sending, sizeof record + DATA_MIN);
    char *data = sending->bytes + sending->size + sizeof record;
    size_t room = sizeof sending->bytes - sending->size - sizeof record;
    ssize_t size = read(file, data, most < room ? (size_t)most : room);
    if (size > 0) {
        record.size = (uint32_t)size;
        add_record_text(sending, (const char *)&record, sizeof record);
        sending->size += (size_t)size;
    }
    return size;
}

static bool has_changed(int file, const struct stat *before, uint64_t sent)
{
    struct stat now;
    return fstat(file, &now) || now.st_size != before->st_size ||
           now.st_mtim.tv_sec != before->st_mtim.tv_sec ||
           now.st_mtim.tv_nsec != before->st_mtim.tv_nsec ||
           (before->st_size && sent != (uint64_t)before->st_size);
}

/* Sends a regular file that is open as `file`. Sends at most found->st_size bytes, so that copying
 * ends even if the file grows all the time. Files in /proc have the size 0, and are sent up to end
 * of file. */
static bool send_file(struct sending *sending, int file, const struct stat *found, const char *name)
{
    struct agent_record record;
    uint64_t sent = 0, most = found->st_size > 0 ? (uint64_t)found->st_size : UINT64_MAX;
    describe_file(&record, AGENT_FILE, found);
    add_file_record(sending, &record, name, NULL);
    while (sent < most && !sending->stopped) {
        ssize_t part = send_part(sending, file, most - sent);
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return stop_sending(sending, errno, name);
        if (!part)
            break;
        sent += (uint64_t)part;
    }
    leave_file(sending, has_changed(file, found, sent));
    return !sending->stopped;
}

static bool send_entry(const char *name, void *arg);

struct directory {
    struct sending *sending;
    int fd;
};

static bool send_entries(struct sending *sending, int fd, const char *name)
{
    struct directory directory = {.sending = sending, .fd = fd};
    if (agent_each_entry(fd, ".", send_entry, &directory))
        return true;
    return sending->stopped ? false : stop_sending(sending, errno, name);
}

static bool send_directory(struct sending *sending, int fd, const struct stat *found,
                           const char *name)
{
    struct agent_record record;
    if (sending->depth == AGENT_DEPTH_MAX)
        return stop_sending(sending, ENAMETOOLONG, name);
    describe_file(&record, AGENT_DIRECTORY, found);
    add_file_record(sending, &record, name, NULL);
    sending->depth++;
    if (!send_entries(sending, fd, ""))
        return false;
    sending->depth--;
    leave_file(sending, false);
    return !sending->stopped;
}

static bool send_link(struct sending *sending, int dir, const struct stat *found, const char *name)
{
    char target[AGENT_PATH_SIZE];
    struct agent_record record;
    long size = syscall(SYS_readlinkat, dir, name, target, sizeof target, 0);
    if (size < 0 && (errno == EINVAL || is_replaced(errno)))
        return send_changed(sending, name);
    if (size < 0 || size == sizeof target)
        return stop_sending(sending, size < 0 ? errno : ENAMETOOLONG, name);
    target[size] = '\0';
    describe_file(&record, AGENT_LINK, found);
    add_file_record(sending, &record, name, target);
    return !sending->stopped;
}

/* Opens the directory or regular file `name` in `dir`, and sends it. */
static bool send_opened(struct sending *sending, int dir, const char *name, bool is_directory)
{
    int flags = is_directory ? AGENT_OPEN_DIRECTORY : AGENT_OPEN_FILE | O_NOFOLLOW;
    int fd = openat(dir, name, flags);
    struct stat found;
    bool sent;
    if (fd < 0)
        return is_replaced(errno) ? send_changed(sending, name)
                                  : stop_sending(sending, errno, name);
    if (fstat(fd, &found))
        sent = stop_sending(sending, errno, name);
    else if (is_directory)
        sent = send_directory(sending, fd, &found, name);
    else if (S_ISREG(found.st_mode))
        sent = send_file(sending, fd, &found, name);
    else
        sent = send_changed(sending, name);
    close(fd);
    return sent;
}

static uint32_t kind_of(mode_t mode)
{
    if (S_ISDIR(mode))
        return AGENT_DIRECTORY;
    return S_ISREG(mode) ? AGENT_FILE : S_ISLNK(mode) ? AGENT_LINK : AGENT_OTHER;
}

static bool send_entry(const char *name, void *arg)
{
    const struct directory *directory = arg;
    struct sending *sending = directory->sending;
    struct stat found;
    struct agent_record record;
    if (syscall(SYS_newfstatat, directory->fd, name, &found, AT_SYMLINK_NOFOLLOW, 0))
        return is_replaced(errno) ? send_changed(sending, name)
                                  : stop_sending(sending, errno, name);
    uint32_t kind = kind_of(found.st_mode);
    if (kind == AGENT_LINK)
        return send_link(sending, directory->fd, &found, name);
    if (!sending->lists && kind != AGENT_OTHER)
        return send_opened(sending, directory->fd, name, kind == AGENT_DIRECTORY);
    describe_file(&record, kind, &found);
    add_file_record(sending, &record, name, NULL);
    return !sending->stopped;
}

/* Opens a regular file or a directory. Fails with EINVAL for a file of another type, because
 * opening a FIFO or device could block or have side effects. */
static int open_path(const char *path, struct stat *found)
{
    if (syscall(SYS_newfstatat, AT_FDCWD, path, found, 0, 0))
        return -1;
    if (!S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode)) {
        errno = EINVAL;
        return -1;
    }
    int fd = open(path, AGENT_OPEN_FILE);
    if (fd < 0 || !fstat(fd, found))
        return fd;
    int errnum = errno;
    close(fd);
    errno = errnum;
    return -1;
}

static bool send_path(struct sending *sending, int fd, const struct stat *found,
                      enum agent_sending what)
{
    if (S_ISREG(found->st_mode) && what != AGENT_SEND_ENTRIES)
        return send_file(sending, fd, found, "");
    if (!S_ISDIR(found->st_mode))
        return stop_sending(sending, S_ISREG(found->st_mode) ? ENOTDIR : EINVAL, "");
    if (what == AGENT_SEND_FILE)
        return stop_sending(sending, EISDIR, "");
    if (sending->lists)
        return send_entries(sending, fd, "");
    return send_directory(sending, fd, found, "");
}

bool agent_copy_out(int output, const char *path, enum agent_sending what)
{
    static struct sending sending;
    struct agent_record done = {.kind = AGENT_DONE};
    struct stat found;
    sending.output = output;
    sending.lists = what == AGENT_SEND_ENTRIES;
    sending.stopped = false;
    sending.depth = 0;
    sending.size = 0;
    int fd = open_path(path, &found);
    if (fd < 0)
        return stop_sending(&sending, errno, "");
    bool sent = send_path(&sending, fd, &found, what);
    close(fd);
    if (!sent)
        return false;
    add_file_record(&sending, &done, "", NULL);
    send_buffer(&sending);
    return !sending.stopped;
}
