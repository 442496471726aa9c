/* Whether what a sandbox may write to is, lies in or has below it a file system that is the
 * kernel's face: the same rule as machine_part() of Python. */
#include "launch/kernel_files.h"
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const kernel_types[] = {
    "binfmt_misc", "bpf",        "cgroup",    "cgroup2", "configfs", "debugfs", "devpts",
    "devtmpfs",    "efivarfs",   "fusectl",   "mqueue",  "nsfs",     "proc",    "pstore",
    "resctrl",     "securityfs", "selinuxfs", "smackfs", "sysfs",    "tracefs",
};

static bool is_kernel_type(const char *type)
{
    for (size_t i = 0; i < sizeof kernel_types / sizeof *kernel_types; i++)
        if (!strcmp(type, kernel_types[i]))
            return true;
    return false;
}

/* Whether a path is `top`, or below it. The root directory is "". */
static bool is_below(const char *path, const char *top)
{
    size_t length = strlen(top);
    return !strncmp(path, top, length) && (!path[length] || path[length] == '/');
}

/* The id of the mount that a file was reached by; -1: /proc does not tell. */
static int mount_id(int fd)
{
    char name[64], line[128];
    int id = -1;
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
    FILE *file = fopen(name, "re");
    while (file && id < 0 && fgets(line, sizeof line, file))
        sscanf(line, "mnt_id: %d", &id);
    if (file)
        fclose(file);
    return id;
}

/* Undoes the escapes of mountinfo, \ooo (proc_pid_mountinfo(5)). */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned code;
        bool is_escape = *from == '\\' && sscanf(from + 1, "%3o", &code) == 1;
        *to = is_escape ? (char)code : *from;
        from += is_escape ? 4 : 1;
    }
    *to = '\0';
}

/* The type of the mount in a line, if it is the kernel's, and has the source or lies below it. */
static bool shows_kernel(char *line, int id, const char *path, char type[32])
{
    char point[UN_PATH_MAX];
    int found;
    const char *rest = strstr(line, " - ");
    if (!rest || sscanf(line, "%d %*d %*s %*s %4095s", &found, point) != 2 ||
        sscanf(rest + 3, "%31s", type) != 1 || !is_kernel_type(type))
        return false;
    unescape(point);
    return found == id || (is_below(point, path) && strcmp(point, path) != 0);
}

static bool find_kernel(const struct un_source *source, const char *path, char type[32])
{
    static const char *const tops[] = {"/proc", "/sys"};
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (is_below(path, tops[i]) || is_below(tops[i], path)) {
            strcpy(type, tops[i]);
            return true;
        }
    char line[4 * UN_PATH_MAX];
    bool found = false;
    int id = mount_id(source->fd);
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (file && !found && fgets(line, sizeof line, file))
        found = shows_kernel(line, id, path, type);
    /* What can't be told is no permission. */
    if (!file || id < 0)
        strcpy(type, "what /proc does not tell");
    if (file)
        fclose(file);
    return found || !file || id < 0;
}

static int check(struct un_launch *launch, const struct un_source *source, struct un_error *err)
{
    char type[32];
    const char *path = strcmp(source->path, "/") ? source->path : "";
    /* Devices are for being written to. */
    if (is_below(path, "/dev") || !find_kernel(source, path, type))
        return 0;
    un_launch_tell(launch, source->path, "show it without :rw, or only what is needed of it");
    return un_fail(
        err, UN_STEP_BIND, 0, "bind-writes-machine",
        "%.300s: %s can't be written to from a sandbox: it acts on this machine's kernel",
        source->path, type);
}

int un_refuse_kernel_files(struct un_launch *launch, struct un_error *err)
{
    for (size_t i = 0; i < launch->record_count; i++) {
        const struct un_record *record = &launch->record[i];
        if (record->verb != UN_VERB_BIND || strcmp(un_record_word(record, 2), "rw") != 0)
            continue;
        const struct un_source *source = un_record_source(launch, record, 0);
        if (source->is_ours && check(launch, source, err))
            return -1;
    }
    return 0;
}
