/* Steps that create directories, symbolic links and resolv.conf in a root filesystem. */
#include "base/base.h"
#include "launch/launch.h"

#define RESOLVER "/etc/resolv.conf"
#define RESOLVER_BYTES_MAX (1 << 16)

/* Opens the parent directory of a path in the sandbox. Returns a descriptor, or -1 after filling in
 * `err`. */
static int open_parent(struct un_launch *launch, const char *inside, struct un_error *err)
{
    un_auto_trail struct un_trail trail;
    char parent[UN_PATH_MAX];
    snprintf(parent, sizeof parent, "%s", inside);
    strrchr(parent, '/')[1] = '\0';
    int fd = -1;
    if (!un_view_walk(&launch->view, parent, &trail)) {
        errno = ENOENT;
        if (!*trail.missing && un_trail_last(&trail)->fd >= 0)
            fd = fcntl(un_trail_last(&trail)->fd, F_DUPFD_CLOEXEC, 3);
    }
    if (fd < 0)
        un_launch_fail_file(launch, inside, err);
    return fd;
}

static const char *last_name(const char *path)
{
    return strrchr(path, '/') + 1;
}

int un_step_directory(struct un_launch *launch, const struct un_record *record,
                      struct un_error *err)
{
    const char *inside = record->arguments;
    un_auto_close int parent = open_parent(launch, inside, err);
    if (parent < 0)
        return -1;
    un_auto_close int created = un_root_make(launch, parent, last_name(inside), true, err);
    if (created < 0)
        return -1;
    mode_t mode = un_argument_mode(un_record_argument(record, 1));
    return un_root_set_mode(launch, created, mode, inside, err);
}

int un_step_link(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    const char *inside = record->arguments;
    un_auto_close int parent = open_parent(launch, inside, err);
    if (parent < 0)
        return -1;
    if (symlinkat(un_record_argument(record, 1), parent, last_name(inside)))
        return un_launch_fail_file(launch, inside, err);
    return 0;
}

/* Reads the host's resolv.conf into `text`. Returns the number of bytes read, or -1 if the file
 * can't be read. */
static ssize_t read_resolver(char *text, size_t size)
{
    char path[UN_PATH_MAX];
    struct stat status;
    int64_t foreign;
    un_auto_close int found = un_open_follow(RESOLVER, path, &foreign);
    if (found < 0)
        return -1;
    bool is_file = !fstat(found, &status) && S_ISREG(status.st_mode);
    un_auto_close int file = is_file ? un_reopen(found, O_RDONLY) : -1;
    return file < 0 ? -1 : un_read_all(file, text, size);
}

/* Returns whether the path `inside` exists in the sandbox or can't be resolved, so that
 * un_step_resolver() has nothing to create. */
static bool is_settled(const struct un_launch *launch, const char *inside)
{
    un_auto_trail struct un_trail trail;
    return un_view_walk(&launch->view, inside, &trail) || !*trail.missing;
}

static int write_resolver(struct un_launch *launch, int place, const char *text, size_t length,
                          struct un_error *err)
{
    un_auto_close int file = un_reopen(place, O_WRONLY);
    if (file < 0 || un_write_all(file, text, length))
        return un_launch_fail_file(launch, RESOLVER, err);
    return 0;
}

static int add_resolver(struct un_launch *launch, const char *text, size_t length,
                        struct un_error *err)
{
    un_auto_trail struct un_trail trail;
    if (un_place_make(launch, RESOLVER, false, false, &trail, err))
        return -1;
    int place = un_trail_last(&trail)->fd;
    if (place < 0)
        return un_place_fail_missing(launch, &trail, err);
    return write_resolver(launch, place, text, length, err);
}

/* If the root filesystem's /etc/resolv.conf is missing, or is a symbolic link to a missing file,
 * usually in /run, creates the file with the contents of the host's resolv.conf. */
int un_step_resolver(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    (void)record;
    if (is_settled(launch, RESOLVER))
        return 0;
    un_auto_free char *text = malloc(RESOLVER_BYTES_MAX);
    ssize_t length = text ? read_resolver(text, RESOLVER_BYTES_MAX) : -1;
    return length < 0 ? 0 : add_resolver(launch, text, (size_t)length, err);
}
