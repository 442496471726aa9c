/* Functions that read single values from files in /proc. */
#include "base/base.h"

/* Maximum length of the part of a line of /proc/PID/cgroup before the path, and of the newline. The
 * part consists of the hierarchy's number and its controllers or name. The kernel has 14
 * controllers, and a name has at most 64 bytes (cgroups(7)). */
#define CGROUP_PREFIX_MAX 512

int64_t un_proc_number(const char *proc, const char *file)
{
    char path[UN_PATH_MAX], text[32], *end;
    if (un_path_join(path, proc, file) || un_read_file(AT_FDCWD, path, text, sizeof text) < 0)
        return -1;
    int64_t number = strtoll(text, &end, 10);
    return end == text ? -1 : number;
}

int64_t un_proc_status(const char *proc, const char *key)
{
    char path[UN_PATH_MAX];
    return un_path_join(path, proc, "self/status") ? -1 : un_field_number(path, key);
}

static int read_mounts(const char *proc, const char *file, struct un_mounts *mounts)
{
    char path[UN_PATH_MAX] = "";
    un_path_join(path, proc, file);
    return un_mounts_read(mounts, path);
}

/* Returns whether a mount on `point` hides no files. The only such mount point is
 * /proc/sys/fs/binfmt_misc, a directory that is always empty in procfs. The kernel, too, ignores a
 * mount there (mnt_already_visible() in fs/namespace.c), and systemd creates one on every host. */
static bool hides_nothing(const char *point)
{
    return !strcmp(point, "/proc/sys/fs/binfmt_misc");
}

bool un_proc_has_mount(const char *proc, const char *point, bool below)
{
    un_auto_mounts struct un_mounts mounts;
    read_mounts(proc, "self/mountinfo", &mounts);
    for (size_t i = 0; i < mounts.count; i++) {
        const char *at = mounts.mount[i].point;
        bool is_at = !strcmp(at, point);
        if (below ? !is_at && un_is_below(at, point) && !hides_nothing(at) : is_at)
            return true;
    }
    return false;
}

bool un_proc_shares_root(const char *proc)
{
    int own = -1;
    un_auto_mounts struct un_mounts ours, others;
    read_mounts(proc, "self/mountinfo", &ours);
    read_mounts(proc, "1/mountinfo", &others);
    /* Use the last mount on "/" in mountinfo, because it is mounted on top of the earlier
     * mounts. */
    for (size_t i = 0; i < ours.count; i++)
        own = strcmp(ours.mount[i].point, "/") ? own : ours.mount[i].id;
    for (size_t i = 0; i < others.count && own >= 0; i++)
        if (others.mount[i].id == own && !strcmp(others.mount[i].point, "/"))
            return true;
    return false;
}

bool un_proc_hides(const char *proc)
{
    un_auto_mounts struct un_mounts mounts;
    read_mounts(proc, "self/mountinfo", &mounts);
    for (size_t i = 0; i < mounts.count; i++) {
        const char *hides = strstr(mounts.mount[i].options, "hidepid=");
        if (!strcmp(mounts.mount[i].type, "proc") && hides && !un_begins(hides, "hidepid=off") &&
            !un_begins(hides, "hidepid=0"))
            return true;
    }
    return false;
}

const char *un_proc_stat(int at, const char *file, char *text, size_t size)
{
    const char *end = un_read_file(at, file, text, size) > 0 ? strrchr(text, ')') : NULL;
    return end && end[1] == ' ' && end[2] ? end + 2 : NULL;
}

bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size)
{
    char path[UN_PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s/attr/apparmor/current", proc, who) >= UN_PATH_MAX ||
        un_read_file(AT_FDCWD, path, label, size) <= 0)
        return false;
    label[strcspn(label, "\n")] = '\0';
    return true;
}

/* Returns whether a comma-separated list, such as "cpu,cpuacct", contains `name`. */
static bool lists(const char *names, const char *name)
{
    size_t length = strlen(name);
    while (strncmp(names, name, length) != 0 || (names[length] && names[length] != ',')) {
        names = strchr(names, ',');
        if (!names)
            return false;
        names++;
    }
    return true;
}

bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size)
{
    /* The buffer must hold every possible line. If fgets(3) split a longer line, its end would be
     * parsed as a separate line, because a path may contain colons. */
    char line[UN_PATH_MAX + CGROUP_PREFIX_MAX];
    if (un_path_join(line, proc, "self/cgroup"))
        return false;
    un_auto_fclose FILE *file = fopen(line, "re");
    while (file && fgets(line, sizeof line, file)) {
        char *name = strchr(line, ':'), *group = name ? strchr(++name, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        /* The line of version 2 has an empty list of controllers (cgroups(7)). */
        if (*controller ? !lists(name, controller) : *name)
            continue;
        return snprintf(path, size, "%s", group) < (int)size;
    }
    return false;
}
