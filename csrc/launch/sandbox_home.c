/* Hiding home directories of the host from a sandbox. */
#include "base/base.h"
#include "launch/launch.h"

/* Directories with programs and settings that a sandbox needs, and that must therefore stay visible
 * even if they are in a home directory. */
static const char *const of_programs[] = {
    "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin",
    "/sbin",           "/bin",           "/etc",      "/lib",
    "/lib32",          "/lib64",         "/opt",      "/usr/lib",
    "/usr/share",
};

/* Returns the first directory in of_programs that is `path` or lies below it, or NULL if
 * of_programs has no such directory. */
static const char *program_directory(const char *path)
{
    for (size_t i = 0; *path && i < sizeof of_programs / sizeof *of_programs; i++)
        if (un_is_below(of_programs[i], path))
            return of_programs[i];
    return NULL;
}

static int refuse_home(struct un_launch *launch, const char *home, const char *kept,
                       struct un_error *err)
{
    un_launch_set_remedy(launch, home, "set HOME to a directory with nothing but your own files");
    return un_fail(err, UN_STEP_HOME, 0, NULL,
                   "the home directory %.300s can't be hidden: the sandbox needs %s", home, kept);
}

static int add_home_directory(struct un_launch *launch, const char *home, struct un_error *err)
{
    un_auto_trail struct un_trail trail;
    return un_place_make(launch, home, true, false, &trail, err);
}

static int hide_found_home(struct un_launch *launch, const char *home, struct un_trail *trail,
                           struct un_error *err)
{
    struct stat status;
    int file = un_trail_last(trail)->fd;
    bool is_complete = !*trail->missing;
    const char *kept = program_directory(trail->path);
    if (file >= 0 && un_root_status(launch, file, home, &status, err))
        return -1;
    if (is_complete && kept && file >= 0)
        /* Fail only if the directory belongs to the caller: in this user namespace, uid 0 is the
         * caller's uid. The home directory of a service user may be a system directory such as
         * /bin, which belongs to the host's root and must stay visible. */
        return status.st_uid == 0 ? refuse_home(launch, home, kept, err) : 0;
    /* Create the missing directories in the root filesystem, unless they would lie in a directory
     * of the host. Mount an empty directory on an existing home directory of the host. */
    if (file < 0 || status.st_dev == launch->root.device)
        return add_home_directory(launch, home, err);
    if (is_complete && S_ISDIR(status.st_mode))
        return un_root_hide(launch, file, home, err);
    return 0;
}

int un_hide_home(struct un_launch *launch, const char *home, struct un_error *err)
{
    un_auto_trail struct un_trail trail;
    if (!un_view_walk(&launch->view, home, &trail))
        return hide_found_home(launch, home, &trail, err);
    /* Ignore a home directory that this process lacks permission to search, because a program in
     * the sandbox lacks that permission, too. */
    return errno == EACCES || errno == EPERM ? 0 : un_launch_fail_file(launch, home, err);
}
