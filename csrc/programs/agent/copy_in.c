#include "programs/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define INPUT_SIZE AGENT_DATA_MAX
/* Mode of a new directory while its entries are being created. */
#define OWNER_ONLY 0700
/* Mode bits that are copied: all but the set-user-id, set-group-id and sticky bits. */
#define PERMISSIONS 0777
/* Mode of missing parent directories that are created. */
#define PARENT_MODE 0755

/* A component of the path to the current file: a directory or file that is being created, and the
 * record that announced it. */
struct level {
    int fd;
    bool is_new;
    size_t path_size; /* length of copy->path without the name of this component */
    struct agent_record record;
};

struct copy {
    const struct agent_copying *how;
    const char *name; /* name of the copied tree in its parent directory */
    int depth;        /* number of elements of `levels` in use */
    int parent;
    bool in_file; /* whether the last element of `levels` is a file */
    bool is_complete;
    struct level levels[AGENT_DEPTH_MAX + 2];
    size_t path_size;
    char path[(AGENT_DEPTH_MAX + 2) *
              (AGENT_NAME_MAX + 1)]; /* path of the current file in the tree, for error messages */
    size_t from, to;
    char input[INPUT_SIZE];
};

static bool answer_copy(struct copy *copy, uint32_t kind, int errnum)
{
    struct agent_record record = {
        .kind = kind,
        .mode = (uint32_t)errnum,
        .size = errnum ? (uint32_t)copy->path_size : 0,
    };
    if (write(copy->how->output, &record, sizeof record) != sizeof record)
        return false;
    for (size_t at = 0; at < record.size;) {
        ssize_t part = write(copy->how->output, copy->path + at, record.size - at);
        if (part <= 0)
            return false;
        at += (size_t)part;
    }
    return !errnum;
}

static bool stop_copy(struct copy *copy, int errnum)
{
    return answer_copy(copy, AGENT_STOPPED, errnum);
}

/* ---- reading the records that the host sends ------------------------------------------------- */

/* Reads more input, and appends it to the unprocessed bytes in copy->input. Returns false at end of
 * file or after a read error. */
static bool read_more(struct copy *copy)
{
    if (copy->from == copy->to)
        copy->from = copy->to = 0;
    if (copy->to == INPUT_SIZE) {
        memmove(copy->input, copy->input + copy->from, copy->to - copy->from);
        copy->to -= copy->from;
        copy->from = 0;
    }
    ssize_t size;
    do
        size = read(copy->how->input, copy->input + copy->to, INPUT_SIZE - copy->to);
    while (size < 0 && errno == EINTR);
    copy->to += size > 0 ? (size_t)size : 0;
    return size > 0;
}

/* Returns the next `size` bytes of the input, or NULL if the input ends earlier. The bytes stay
 * valid until the next call. */
static const char *take_input(struct copy *copy, size_t size)
{
    while (copy->to - copy->from < size)
        if (!read_more(copy))
            return NULL;
    const char *found = copy->input + copy->from;
    copy->from += size;
    return found;
}

static bool take_record(struct copy *copy, struct agent_record *record)
{
    const char *bytes = take_input(copy, sizeof *record);
    if (bytes)
        memcpy(record, bytes, sizeof *record);
    return bytes;
}

/* Copies the next `size` bytes of the input to `to`, and appends a NUL. Returns false if the bytes
 * contain a NUL, or if the input ends earlier. */
static bool take_entry_text(struct copy *copy, char *to, size_t size)
{
    const char *bytes = take_input(copy, size);
    if (!bytes || strnlen(bytes, size) != size)
        return false;
    memcpy(to, bytes, size);
    to[size] = '\0';
    return true;
}

static bool is_file_name(const char *name)
{
    for (const char *at = name; *at; at++)
        if (*at == '/')
            return false;
    return *name && strcmp(name, ".") && strcmp(name, "..");
}

/* ---- creating files -------------------------------------------------------------------------- */

static int create_file(int dir, const char *name, int flags, mode_t mode)
{
    return (int)syscall(SYS_openat, dir, name, flags | O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
                        mode);
}

/* Removes the existing file `name` if creating that file has just failed with EEXIST, and if the
 * copy may replace files. Returns whether the caller can try again. */
static bool may_replace(const struct copy *copy, int dir, const char *name)
{
    return errno == EEXIST && copy->how->merges && !syscall(SYS_unlinkat, dir, name, 0);
}

/* Creates and opens the file or directory for `level`. Opens an existing directory instead if the
 * copy may add to it. Returns a descriptor, or -1 with errno set. */
static int open_level(struct copy *copy, int dir, const char *name, struct level *level)
{
    level->is_new = true;
    if (level->record.kind == AGENT_FILE) {
        int flags = O_CREAT | O_EXCL | O_NOFOLLOW;
        mode_t mode = level->record.mode & PERMISSIONS;
        int fd = create_file(dir, name, flags, mode);
        if (fd < 0 && may_replace(copy, dir, name))
            fd = create_file(dir, name, flags, mode);
        return fd;
    }
    if (syscall(SYS_mkdirat, dir, name, OWNER_ONLY)) {
        if (errno != EEXIST || !copy->how->merges)
            return -1;
        level->is_new = false;
    }
    return openat(dir, name, AGENT_OPEN_DIRECTORY);
}

/* Appends a name to copy->path. */
static void enter_path(struct copy *copy, const char *name)
{
    size_t length = strlen(name);
    if (copy->path_size && length)
        copy->path[copy->path_size++] = '/';
    memcpy(copy->path + copy->path_size, name, length);
    copy->path_size += length;
}

static int current_directory(const struct copy *copy)
{
    return copy->depth ? copy->levels[copy->depth - 1].fd : copy->parent;
}

/* Reads the name of an entry from the input into `name`. Returns the name of the file to create, or
 * NULL if the name is invalid or not allowed at this point. The root of the tree gets the name
 * copy->name. */
static const char *take_entry_name(struct copy *copy, size_t size, char *name)
{
    if (copy->in_file || copy->is_complete || size > AGENT_NAME_MAX ||
        !take_entry_text(copy, name, size))
        return NULL;
    if (!copy->depth)
        return size ? NULL : copy->name;
    return is_file_name(name) ? name : NULL;
}

static int enter_level(struct copy *copy, const struct agent_record *record)
{
    char text[AGENT_NAME_MAX + 1];
    size_t before = copy->path_size;
    const char *name = take_entry_name(copy, record->size, text);
    if (!name)
        return EPROTO;
    enter_path(copy, text);
    if (copy->depth > AGENT_DEPTH_MAX)
        return ENAMETOOLONG;
    struct level level = {.path_size = before, .record = *record};
    level.fd = open_level(copy, current_directory(copy), name, &level);
    if (level.fd < 0)
        return errno;
    copy->levels[copy->depth++] = level;
    copy->in_file = record->kind == AGENT_FILE;
    return 0;
}

static void set_times(int dir, const char *name, const struct agent_record *record, int flags)
{
    const struct timespec times[] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = record->seconds, .tv_nsec = (long)record->nanoseconds},
    };
    /* Ignore a failure, because many filesystems support only a limited range of times, and some
     * store no times for symbolic links. */
    syscall(SYS_utimensat, dir, name, times, flags);
}

/* Sets the modification time of a newly created directory or file, and the mode of a directory.
 * Returns 0 or an errno. */
static int set_level_attributes(const struct level *level)
{
    if (level->record.kind == AGENT_FILE) {
        set_times(level->fd, NULL, &level->record, 0);
        return 0;
    }
    /* Add the owner's permissions, so that the owner can list and remove the copied directory. Use
     * fchmodat(2), because fchmod(2) fails for a descriptor that was opened with O_PATH. */
    mode_t mode = (level->record.mode & PERMISSIONS) | OWNER_ONLY;
    set_times(level->fd, ".", &level->record, 0);
    return syscall(SYS_fchmodat, level->fd, ".", mode) ? errno : 0;
}

static int leave_level(struct copy *copy)
{
    if (!copy->depth)
        return EPROTO;
    const struct level *level = &copy->levels[--copy->depth];
    int errnum = level->is_new ? set_level_attributes(level) : 0;
    if (close(level->fd) && !errnum)
        errnum = errno;
    copy->in_file = false;
    copy->is_complete = !copy->depth;
    if (!errnum)
        copy->path_size = level->path_size;
    return errnum;
}

static int create_link(struct copy *copy, const struct agent_record *record)
{
    char text[AGENT_NAME_MAX + 1], target[AGENT_PATH_SIZE];
    size_t before = copy->path_size;
    if (!copy->depth || record->length > record->size)
        return EPROTO;
    const char *name = take_entry_name(copy, record->length, text);
    size_t size = record->size - record->length;
    if (!name || size >= sizeof target || !take_entry_text(copy, target, size))
        return EPROTO;
    enter_path(copy, text);
    int dir = current_directory(copy);
    if (syscall(SYS_symlinkat, target, dir, name) &&
        (!may_replace(copy, dir, name) || syscall(SYS_symlinkat, target, dir, name)))
        return errno;
    set_times(dir, name, record, AT_SYMLINK_NOFOLLOW);
    copy->path_size = before;
    return 0;
}

static int write_data(struct copy *copy, size_t left)
{
    if (!copy->in_file || left > AGENT_DATA_MAX)
        return EPROTO;
    while (left) {
        if (copy->from == copy->to && !read_more(copy))
            return EPROTO;
        size_t size = copy->to - copy->from;
        ssize_t part = write(copy->levels[copy->depth - 1].fd, copy->input + copy->from,
                             size < left ? size : left);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return part ? errno : ENOSPC;
        copy->from += (size_t)part;
        left -= (size_t)part;
    }
    return 0;
}

/* Processes one record: creates, extends or completes a directory, file or symbolic link. Returns
 * 0, or an errno: EPROTO if the record is invalid. */
static int copy_record(struct copy *copy, const struct agent_record *record)
{
    switch (record->kind) {
    case AGENT_DIRECTORY:
    case AGENT_FILE:
        return enter_level(copy, record);
    case AGENT_LINK:
        return create_link(copy, record);
    case AGENT_DATA:
        return write_data(copy, record->size);
    case AGENT_LEAVE:
        return leave_level(copy);
    default:
        return EPROTO;
    }
}

static bool copy_records(struct copy *copy)
{
    struct agent_record record;
    while (take_record(copy, &record)) {
        if (record.kind == AGENT_DONE && copy->is_complete)
            return answer_copy(copy, AGENT_DONE, 0);
        int errnum = copy_record(copy, &record);
        if (errnum)
            return stop_copy(copy, errnum);
    }
    return stop_copy(copy, EPROTO);
}

/* ---- creating a directory tree and its missing parent directories ---------------------------- */

/* Creates the missing parent directories of `path`. Modifies the string `path` temporarily. */
static void create_parents(char *path)
{
    for (char *at = path + 1; *at; at++)
        if (*at == '/') {
            *at = '\0';
            syscall(SYS_mkdirat, AT_FDCWD, path, PARENT_MODE);
            *at = '/';
        }
}

/* Stores in copy->parent a descriptor of the parent directory of copy->how->path, and in copy->name
 * the last component of that path. `path` is a buffer of AGENT_PATH_SIZE bytes. Returns false with
 * errno set on failure. */
static bool open_tree_parent(struct copy *copy, char *path)
{
    size_t length = strnlen(copy->how->path, AGENT_PATH_SIZE), slash = 0;
    if (length == AGENT_PATH_SIZE) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(path, copy->how->path, length + 1);
    if (copy->how->parents)
        create_parents(path);
    for (size_t i = 0; i < length; i++)
        if (path[i] == '/')
            slash = i;
    copy->name = copy->how->path + slash + 1;
    path[slash + 1] = '\0';
    copy->parent = openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return copy->parent >= 0;
}

static void begin_copy(struct copy *copy, const struct agent_copying *how)
{
    copy->how = how;
    copy->depth = 0;
    copy->in_file = copy->is_complete = false;
    copy->path_size = copy->from = copy->to = 0;
}

static void close_levels(struct copy *copy)
{
    while (copy->depth)
        close(copy->levels[--copy->depth].fd);
}

bool agent_copy_in(const struct agent_copying *how)
{
    static struct copy copy;
    char path[AGENT_PATH_SIZE];
    begin_copy(&copy, how);
    if (!open_tree_parent(&copy, path))
        return stop_copy(&copy, errno);
    bool is_whole = copy_records(&copy);
    close_levels(&copy);
    close(copy.parent);
    return is_whole;
}

/* ---- writing a single file ------------------------------------------------------------------- */

/* Creates the file `path`, or opens and truncates an existing regular file. Sets *is_new if the
 * file was created. Returns a descriptor, or -1 with errno set. */
static int open_written(const char *path, bool *is_new)
{
    struct stat found;
    int fd = create_file(AT_FDCWD, path, O_CREAT | O_EXCL, 0600);
    *is_new = fd >= 0;
    if (*is_new || errno != EEXIST)
        return fd;
    fd = create_file(AT_FDCWD, path, O_CREAT, 0600);
    if (fd < 0)
        return fd;
    int errnum = fstat(fd, &found) ? errno : S_ISREG(found.st_mode) ? 0 : EINVAL;
    if (!errnum && syscall(SYS_ftruncate, fd, 0L))
        errnum = errno;
    if (!errnum)
        return fd;
    close(fd);
    errno = errnum;
    return -1;
}

static int write_content(struct copy *copy)
{
    struct agent_record record;
    struct level *level = copy->levels;
    while (take_record(copy, &record)) {
        if (record.kind == AGENT_DONE)
            return syscall(SYS_fchmod, level->fd, record.mode & PERMISSIONS) ? errno : 0;
        int errnum = record.kind == AGENT_DATA ? write_data(copy, record.size) : EPROTO;
        if (errnum)
            return errnum;
    }
    return EPROTO;
}

bool agent_write_file(const struct agent_copying *how)
{
    static struct copy copy;
    char path[AGENT_PATH_SIZE];
    bool is_new;
    begin_copy(&copy, how);
    if (how->parents) {
        if (!open_tree_parent(&copy, path))
            return stop_copy(&copy, errno);
        close(copy.parent);
    }
    copy.levels[0].fd = open_written(how->path, &is_new);
    if (copy.levels[0].fd < 0)
        return stop_copy(&copy, errno);
    copy.depth = 1;
    copy.in_file = true;
    int errnum = write_content(&copy);
    close_levels(&copy);
    if (!errnum)
        return answer_copy(&copy, AGENT_DONE, 0);
    if (is_new)
        syscall(SYS_unlinkat, AT_FDCWD, how->path, 0);
    return stop_copy(&copy, errnum);
}
