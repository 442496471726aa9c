#include "programs/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SETTINGS "/proc/sys"
#define SHARED_MEMORY "/dev/shm"

/* Maximum depth to which directories are listed. /proc/sys is not as deep. */
#define DEPTH_MAX 16
/* Size in bytes of the buffer for the names and contents of the listed files. */
#define TEXT_SIZE 65536
/* Size in bytes of the buffer for the current path, with its NUL. */
#define PATH_SIZE 1024

struct list {
    size_t size; /* number of bytes of `text` in use */
    size_t path_size;
    int depth;
    bool is_whole; /* whether all entries were read and fit into the buffers */
    char path[PATH_SIZE];
    char text[TEXT_SIZE];
};

static void add_leftover(struct list *list, const char *text, size_t size)
{
    if (size > sizeof list->text - list->size) {
        list->is_whole = false;
        return;
    }
    memcpy(list->text + list->size, text, size);
    list->size += size;
}

/* Appends a slash and `name` to list->path, or only `name` if the path is empty. Returns false if
 * the path becomes too long. */
static bool append_name(struct list *list, const char *name)
{
    size_t size = strlen(name);
    if (size + 2 > sizeof list->path - list->path_size)
        return list->is_whole = false;
    if (list->path_size)
        list->path[list->path_size++] = '/';
    memcpy(list->path + list->path_size, name, size + 1);
    list->path_size += size;
    return true;
}

static void cut_path(struct list *list, size_t path_size)
{
    list->path_size = path_size;
    list->path[path_size] = '\0';
}

static void add_path(struct list *list)
{
    add_leftover(list, list->path, list->path_size + 1);
}

static void add_content(struct list *list, int fd)
{
    ssize_t got;
    char *at;
    do {
        at = list->text + list->size;
        got = read(fd, at, sizeof list->text - list->size);
        list->size += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    add_leftover(list, "", 1);
}

static bool add_setting(const char *name, void *arg);

static void add_leftover_directory(struct list *list)
{
    if (++list->depth > DEPTH_MAX || !agent_each_entry(AT_FDCWD, list->path, add_setting, list))
        list->is_whole = false;
    list->depth--;
}

/* Adds a file of /proc/sys to the list if the file is writable. Ignores a write-only file, because
 * such a file stores no setting, and writing to it only triggers an action. */
static void add_file(struct list *list, mode_t mode)
{
    if (!(mode & 0222))
        return;
    int fd = open(list->path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        list->is_whole = list->is_whole && errno == EACCES;
        return;
    }
    add_path(list);
    add_content(list, fd);
    close(fd);
}

static bool add_setting(const char *name, void *arg)
{
    struct list *list = arg;
    struct stat found;
    size_t path_size = list->path_size;
    if (!append_name(list, name))
        return false;
    if (syscall(SYS_newfstatat, AT_FDCWD, list->path, &found, AT_SYMLINK_NOFOLLOW, 0))
        list->is_whole = false;
    else if (S_ISDIR(found.st_mode))
        add_leftover_directory(list);
    else
        add_file(list, found.st_mode);
    cut_path(list, path_size);
    return list->is_whole;
}

static bool add_name(const char *name, void *arg)
{
    struct list *list = arg;
    size_t path_size = list->path_size;
    if (append_name(list, name)) {
        add_path(list);
        add_leftover(list, "", 1);
    }
    cut_path(list, path_size);
    return list->is_whole;
}

static void add_shared_memory(struct list *list)
{
    append_name(list, SHARED_MEMORY);
    /* Ignore ENOENT, because a root filesystem may lack /dev/shm. */
    if (!agent_each_entry(AT_FDCWD, list->path, add_name, list) && errno != ENOENT)
        list->is_whole = false;
    cut_path(list, 0);
}

static void add_settings(struct list *list)
{
    append_name(list, SETTINGS);
    add_leftover_directory(list);
    cut_path(list, 0);
}

/* Mounts a new proc filesystem on /proc, because each proc mount of gVisor caches the values of
 * some settings when they are first read. Returns whether that succeeded. */
static bool mount_another_proc(void)
{
    return !syscall(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS) &&
           !syscall(SYS_mount, "none", "/proc", "proc", 0, NULL);
}

bool agent_print_leftovers(void)
{
    static struct list list;
    list.is_whole = true;
    add_shared_memory(&list);
    add_settings(&list);
    if (!mount_another_proc())
        return false;
    add_settings(&list);
    for (size_t at = 0; list.is_whole && at < list.size;) {
        ssize_t part = write(STDOUT_FILENO, list.text + at, list.size - at);
        if (part <= 0)
            return false;
        at += (size_t)part;
    }
    return list.is_whole;
}
