/*
 * Finding the parent group: the directory in which this process may create control groups for
 * sandboxes (cgroups(7)). The parent group is this process's own control group or a child of that
 * group, so the limits of that group also apply to the sandboxes.
 *
 * In cgroups v1, each controller has its own hierarchy, and only root may create groups. The parent
 * group is a child named TOP of this process's group. If this process's group is the root cgroup,
 * whose directory has the mode 0555, TOP must be created before this process enters a user
 * namespace, because root in a user namespace can't create TOP there.
 *
 * In cgroups v2, the parent group is this process's own group, which must be delegated to the
 * effective user of this process. A group whose children have controllers can't contain processes
 * ("no internal processes"), so the processes of the parent group are moved to a child group named
 * LEAF. systemd permits child groups only in units with delegation (Delegate=,
 * systemd.resource-control(5)).
 */
#include "facts/facts.h"

#include <dirent.h>
#include <inttypes.h>
#include <sys/file.h>
#include <sys/xattr.h>

#define TOP "usernsctl"
#define LEAF "usernsctl-callers"
/* Maximum number of rounds in which processes are moved to another cgroup. Processes that are
 * forked during one round are moved in the next. */
#define ROUNDS_MAX 50

static const char *const controllers[UN_GROUP_PARTS] = {
    [UN_GROUP_MEMORY] = "memory",
    [UN_GROUP_PIDS] = "pids",
    [UN_GROUP_CPU] = "cpu",
};

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), least = strlen(end);
    return length >= least && !strcmp(text + length - least, end);
}

static bool has_mark(int place, const char *name)
{
    char value[2];
    return fgetxattr(place, name, value, sizeof value) == 1 && *value == '1';
}

/* Maximum number of lines of a unit file that are read; a long line counts as several. The user can
 * write anything to the file, and systemd limits only the length of a line, to 1 MiB. */
#define UNIT_PARTS_MAX 16384

/* Returns whether the transient unit file `unit` of the systemd manager of the user `uid` enables
 * delegation, by Delegate=yes or Delegate=CONTROLLERS, but not by Delegate=no. systemd-run(1)
 * creates such files. Reads only the first UNIT_PARTS_MAX lines. */
static bool is_delegated_by_file(const char *users, uint32_t uid, const char *unit)
{
    static const char key[] = "Delegate=";
    char path[UN_PATH_MAX];
    char part[256]; /* a line of the file, or a piece of a long line */
    bool is_delegated = false, begins_line = true;
    struct stat status;
    if (snprintf(path, sizeof path, "%s/%" PRIu32 "/systemd/transient/%s", users, uid, unit) >=
        (int)sizeof path)
        return false;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    bool is_own = fd >= 0 && !fstat(fd, &status) && S_ISREG(status.st_mode) && status.st_uid == uid;
    un_auto_fclose FILE *file = is_own ? fdopen(fd, "r") : NULL;
    if (!file)
        un_close_quietly(fd);
    for (int i = 0; i < UNIT_PARTS_MAX && file && fgets(part, sizeof part, file); i++) {
        if (begins_line && un_begins(part, key))
            is_delegated = !un_begins(part + strlen(key), "no\n");
        begins_line = strchr(part, '\n') != NULL;
    }
    return is_delegated;
}

/* Returns whether the systemd manager of the effective user (user@UID.service) has delegated a
 * cgroup. */
static bool is_delegated_by_user(const struct un_groups *groups, int place, const char *group)
{
    char manager[64];
    struct stat status;
    uint32_t uid = geteuid();
    snprintf(manager, sizeof manager, "/user@%" PRIu32 ".service/", uid);
    return strstr(group, manager) && !fstat(place, &status) && status.st_uid == uid &&
           is_delegated_by_file(groups->users, uid, strrchr(group, '/') + 1);
}

/* Returns whether a cgroup belongs to a systemd unit that is not delegated. The system manager sets
 * an extended attribute on delegated cgroups. User managers don't, so their unit files are read. */
static bool is_of_systemd(const struct un_groups *groups, int place, const char *group)
{
    bool is_unit =
        ends_with(group, ".scope") || ends_with(group, ".service") || ends_with(group, ".slice");
    return is_unit && !has_mark(place, "user.delegate") && !has_mark(place, "trusted.delegate") &&
           !is_delegated_by_user(groups, place, group);
}

static bool may_write(int place, const char *file)
{
    return !faccessat(place, file, W_OK, 0);
}

/* Returns whether `word` is one of the words in `file`, which blanks separate. `place` is the
 * directory of the file. */
static bool lists(int place, const char *file, const char *word)
{
    char text[1024];
    if (un_read_file(place, file, text, sizeof text) < 0)
        return false;
    char *rest = NULL;
    for (const char *at = strtok_r(text, " \n", &rest); at; at = strtok_r(NULL, " \n", &rest))
        if (!strcmp(at, word))
            return true;
    return false;
}

bool un_group_any_process(int group, bool (*visit)(pid_t pid, void *arg), void *arg)
{
    char line[32];
    bool found = false;
    int fd = openat(group, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    un_auto_fclose FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    if (!file)
        un_close_quietly(fd);
    while (file && !found && fgets(line, sizeof line, file)) {
        pid_t pid = (pid_t)strtol(line, NULL, 10);
        found = pid > 0 && visit(pid, arg);
    }
    return found;
}

static bool is_pid(pid_t pid, void *arg)
{
    const pid_t *wanted = arg;
    return pid == *wanted;
}

bool un_group_has_process(int group, pid_t pid)
{
    return un_group_any_process(group, is_pid, &pid);
}

/* Returns whether this process is in the cgroup `group` below the mount point `mount`. In a
 * container that sees the cgroups of its host but has its own cgroup namespace, the path in
 * /proc/self/cgroup may lead to another cgroup. */
static bool has_this_process(const struct un_groups *groups, int mount, const char *group)
{
    if (groups->is_copy)
        return true;
    un_auto_close int dir =
        openat(mount, group[1] ? group + 1 : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool is_found = dir >= 0 && un_group_has_process(dir, getpid());
    errno = EACCES;
    return is_found;
}

/* Opens this process's cgroup, or the parent of this cgroup if the cgroup's name is LEAF. Stores in
 * `group` the path of this process's cgroup. Returns a descriptor, or -1. */
static int open_own(const struct un_groups *groups, const char *controller, char group[UN_PATH_MAX])
{
    char path[UN_PATH_MAX];
    un_auto_close int mount = un_group_find(groups, controller, group);
    if (mount < 0 || !has_this_process(groups, mount, group))
        return -1;
    memcpy(path, group, sizeof path);
    if (!*controller && ends_with(path, "/" LEAF))
        path[strlen(path) - strlen("/" LEAF)] = '\0';
    return openat(mount, *path && path[1] ? path + 1 : ".",
                  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Returns whether this process may create cgroups in the version 2 cgroup that is open as `place`.
 * `group` is the path of this process's cgroup: `place` itself, or its child LEAF, which only
 * exists in delegated units. */
static bool may_make(const struct un_groups *groups, int place, const char *controller,
                     const char *group)
{
    return may_write(place, ".") && may_write(place, "cgroup.procs") &&
           may_write(place, "cgroup.subtree_control") &&
           lists(place, "cgroup.controllers", controller) && !is_of_systemd(groups, place, group);
}

/* Opens the cgroup TOP in the version 1 cgroup that is open as `own`. Returns a descriptor, or -1
 * with errno set. */
static int open_top(int own)
{
    int top = openat(own, TOP, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (top < 0 || may_write(top, "."))
        return top;
    close(top);
    errno = EACCES;
    return -1;
}

int un_group_place(const struct un_groups *groups, enum un_group_part part, int *version)
{
    char group[UN_PATH_MAX];
    *version = 1;
    un_auto_close int own = open_own(groups, controllers[part], group);
    if (own >= 0) {
        mkdirat(own, TOP, 0755);
        return open_top(own);
    }
    *version = 2;
    int place = open_own(groups, "", group);
    if (place < 0 || may_make(groups, place, controllers[part], group))
        return place;
    close(place);
    errno = EACCES;
    return -1;
}

/* Returns the cgroup version (1 or 2) in which un_group_place() would find a parent group, or 0 if
 * un_group_place() would fail. Creates no cgroup. */
static int find_version(const struct un_groups *groups, enum un_group_part part)
{
    char group[UN_PATH_MAX];
    un_auto_close int own = open_own(groups, controllers[part], group);
    if (own >= 0) {
        un_auto_close int top = open_top(own);
        return top >= 0 || (errno == ENOENT && may_write(own, ".")) ? 1 : 0;
    }
    un_auto_close int place = open_own(groups, "", group);
    return place >= 0 && may_make(groups, place, controllers[part], group) ? 2 : 0;
}

void un_group_release(int place, int version)
{
    if (version == 1)
        unlinkat(place, "../" TOP, AT_REMOVEDIR);
    close(place);
}

int un_group_write(int group, const char *file, const char *text)
{
    un_auto_close int fd = openat(group, file, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 || write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

static bool move_process(pid_t pid, void *arg)
{
    char text[24];
    const int *to = arg;
    snprintf(text, sizeof text, "%d", (int)pid);
    un_group_write(*to, "cgroup.procs", text);
    return false;
}

int un_group_prepare(int place, enum un_group_part part, int version)
{
    char word[16];
    if (version == 1 || lists(place, "cgroup.subtree_control", controllers[part]))
        return 0;
    snprintf(word, sizeof word, "+%s", controllers[part]);
    /* Only the root cgroup of the host has no cgroup.type. Do not move its processes, because the
     * root cgroup may have both processes and children with controllers. */
    if (faccessat(place, "cgroup.type", F_OK, 0))
        return un_group_write(place, "cgroup.subtree_control", word);
    if (mkdirat(place, LEAF, 0755) && errno != EEXIST)
        return -1;
    un_auto_close int leaf = openat(place, LEAF, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int round = 0; leaf >= 0 && round < ROUNDS_MAX; round++) {
        /* Move the processes before the controller is enabled. With processes in the cgroup, the
         * kernel denies the memory controller (EBUSY), and makes the child cgroups unusable with
         * the controllers cpu and pids ("domain invalid", cgroups(7)). */
        un_group_any_process(place, move_process, &leaf);
        if (!un_group_write(place, "cgroup.subtree_control", word))
            return 0;
    }
    return -1;
}

static bool has_name(int place, const char *name, int group)
{
    struct stat open, named;
    return !fstat(group, &open) && !fstatat(place, name, &named, AT_SYMLINK_NOFOLLOW) &&
           open.st_ino == named.st_ino;
}

/* Removes the cgroup of a sandbox, unless the cgroup is locked. The kernel never removes a cgroup
 * with processes or children. But the cgroup of a sandbox that is just starting is still empty, and
 * only its lock protects it. Between open(2) and flock(2), another process may have removed the
 * opened cgroup, and a sandbox may have created a new cgroup of the same name. has_name() detects
 * that. */
static void remove_unlocked(int place, const char *name)
{
    un_auto_close int group = openat(place, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (group >= 0 && !flock(group, LOCK_EX | LOCK_NB) && has_name(place, name, group))
        unlinkat(place, name, AT_REMOVEDIR);
}

void un_group_sweep(int place)
{
    int copy = openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *all = copy < 0 ? NULL : fdopendir(copy);
    if (!all)
        un_close_quietly(copy);
    for (const struct dirent *entry; all && (entry = readdir(all));)
        if (un_begins(entry->d_name, UN_GROUP_PREFIX))
            remove_unlocked(place, entry->d_name);
    if (all)
        closedir(all);
}

void un_group_versions(int versions[UN_GROUP_PARTS])
{
    for (int part = 0; part < UN_GROUP_PARTS; part++)
        versions[part] = find_version(&un_groups_here, (enum un_group_part)part);
}

/* Returns whether TOP must be created before this process enters a user namespace: the mode of the
 * directory of this process's version 1 cgroup denies writing even to the owner, as that of the
 * root cgroup does. TOP may stay in the root cgroup, because the root cgroup is never removed. */
static bool is_closed(enum un_group_part part)
{
    char group[UN_PATH_MAX];
    struct stat status;
    un_auto_close int own = open_own(&un_groups_here, controllers[part], group);
    return own >= 0 && !fstat(own, &status) && !(status.st_mode & S_IWUSR);
}

void un_groups_prepare(uint64_t parts)
{
    for (int part = 0; part < UN_GROUP_PARTS; part++) {
        int version =
            parts & 1U << part ? find_version(&un_groups_here, (enum un_group_part)part) : 0;
        if (version != 2 && !(version == 1 && is_closed((enum un_group_part)part)))
            continue;
        un_auto_close int place =
            un_group_place(&un_groups_here, (enum un_group_part)part, &version);
        if (place >= 0)
            un_group_prepare(place, (enum un_group_part)part, version);
    }
}

void un_groups_sweep(uint64_t parts)
{
    for (int part = 0; part < UN_GROUP_PARTS; part++) {
        int version, place = -1;
        if (parts & 1U << part)
            place = un_group_place(&un_groups_here, (enum un_group_part)part, &version);
        if (place < 0)
            continue;
        un_group_sweep(place);
        un_group_release(place, version);
    }
}
