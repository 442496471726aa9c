/* Making directories of the host, or of another root filesystem, visible in a sandbox. */
#include "base/base.h"
#include "launch/launch.h"

/* Opens the entry `name` of the host's root directory. Returns a descriptor, or -1 with errno
 * set. */
static int open_of_machine(const char *name)
{
    char path[UN_PATH_MAX];
    un_auto_close int top = un_open_own("/", path);
    return top < 0 ? -1 : un_child(top, name);
}

typedef int show_function(struct un_launch *launch, int found, int target, const char *name,
                          struct un_error *err);

static int show_as_it_is(struct un_launch *launch, int found, int target, const char *name,
                         struct un_error *err)
{
    (void)launch;
    return un_bind(found, target, UN_ATTR_HARMLESS | UN_ATTR_RDONLY, name, err);
}

static int show_copy(struct un_launch *launch, int found, int target, const char *name,
                     struct un_error *err)
{
    (void)name;
    return un_snapshot(launch, found, target, err);
}

static int show_found(struct un_launch *launch, int found, const char *name, show_function *show,
                      struct un_error *err)
{
    struct stat status;
    if (un_root_status(launch, found, name, &status, err))
        return -1;
    if (S_ISLNK(status.st_mode))
        return un_root_copy_link(launch, found, launch->view.top, name, err);
    if (!S_ISDIR(status.st_mode))
        return 0;
    un_auto_close int target = un_root_make(launch, launch->view.top, name, true, err);
    if (target < 0)
        return -1;
    return show(launch, found, target, name, err);
}

static int show_of_machine(struct un_launch *launch, const char *name, show_function *show,
                           struct un_error *err)
{
    un_auto_close int found = open_of_machine(name);
    if (found < 0)
        return errno == ENOENT ? 0 : un_launch_fail_file(launch, name, err);
    return show_found(launch, found, name, show, err);
}

/* Called after a step that hides the private files of a host directory. If the step has failed
 * (`failed`) because the caller lacks permission to list the directory, sets the cause of `err` to
 * host-directory-unreadable. Returns `failed`. */
static int name_cause(int failed, struct un_error *err)
{
    if (failed && err->step == UN_STEP_SANDBOX && err->errnum == EACCES && !err->cause)
        err->cause = "host-directory-unreadable";
    return failed;
}

int un_step_machine(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    return show_of_machine(launch, record->arguments, show_as_it_is, err);
}

int un_step_snapshot(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    return name_cause(show_of_machine(launch, record->arguments, show_copy, err), err);
}

static int hide_private(struct un_launch *launch, const char *inside, struct un_error *err)
{
    un_auto_trail struct un_trail trail;
    if (un_view_walk(&launch->view, inside, &trail))
        return un_launch_fail_file(launch, inside, err);
    int directory = un_trail_last(&trail)->fd;
    bool is_there = !*trail.missing && directory >= 0 && un_view_is_directory(&trail);
    return is_there ? name_cause(un_hide_private(launch, directory, inside, err), err) : 0;
}

int un_step_hide_private(struct un_launch *launch, const struct un_record *record,
                         struct un_error *err)
{
    return hide_private(launch, record->arguments, err);
}

/* Makes a directory of the host visible in the sandbox, except for its private files, which not
 * every user may read. If the caller is not root, bind-mounts the directory, and mounts an empty
 * file on each private file. If the caller is root, copies the other files instead: runsc, which
 * then runs as root, could read a private file that is created in the directory after the
 * mounts. */
int un_step_guarded(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    char inside[NAME_MAX + 2];
    if (launch->is_root)
        return un_step_snapshot(launch, record, err);
    snprintf(inside, sizeof inside, "/%s", record->arguments);
    return un_step_machine(launch, record, err) ? -1 : hide_private(launch, inside, err);
}

/* Entries of a root directory that un_root_mirror() omits, because gVisor mounts its own
 * filesystems on them. */
static const char *const of_gvisor[] = {"dev", "proc", "sys", NULL};

static int show_tree(struct un_launch *launch, const struct un_source *source, struct un_error *err)
{
    /* The scratch tmpfs may be mounted on a directory in the source and hide the contents of that
     * directory. So mirror a new bind mount of the source, which does not include the tmpfs
     * (scratch.c). */
    un_auto_close int copy = un_root_show(launch, source->fd, launch->root.spare,
                                          UN_ATTR_HARMLESS | UN_ATTR_RDONLY, NULL, err);
    if (copy < 0)
        return -1;
    int failed = un_root_mirror(launch, copy, launch->view.top, of_gvisor, err);
    bool may_not = err->errnum == EACCES || err->errnum == EPERM;
    if (failed && err->step == UN_STEP_SANDBOX && may_not) {
        un_launch_set_remedy(launch, source->path, NULL);
        un_fail(err, UN_STEP_ROOTFS, err->errnum, "rootfs-unreadable",
                "the root filesystem %.400s can't be read", source->path);
    }
    return failed;
}

int un_step_tree(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    static const char *const names[] = {"dev", "proc", "sys", "tmp"};
    if (show_tree(launch, un_record_source(launch, record, 0), err))
        return -1;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (mkdirat(launch->view.top, names[i], 0777) && errno != EEXIST)
            return un_launch_fail_file(launch, names[i], err);
    return 0;
}
