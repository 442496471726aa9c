/* Hiding files that the caller may read as a member of a group, but programs inside must not. */
#include "base/base.h"
#include "launch/launch.h"

static int hide_below(struct un_launch *launch, int directory, const char *name, int depth,
                      struct un_error *err);

/* Returns whether an entry must be opened for a further check, judged by its type and mode: 1 or 0,
 * or -1 with errno. */
static int may_be_private(int directory, const struct dirent *entry)
{
    struct stat status;
    if (entry->d_type == DT_LNK)
        return 0;
    if (entry->d_type == DT_DIR)
        return 1;
    if (fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
        return -1;
    if (S_ISLNK(status.st_mode))
        return 0;
    return S_ISDIR(status.st_mode) || !un_is_public(status.st_mode);
}

static int hide_entry(struct un_launch *launch, int found, const char *name, int depth,
                      struct un_error *err)
{
    struct stat status;
    if (un_root_status(launch, found, name, &status, err))
        return -1;
    if (S_ISLNK(status.st_mode))
        return 0;
    if (!un_is_public(status.st_mode))
        return un_root_hide(launch, found, name, err);
    return S_ISDIR(status.st_mode) ? hide_below(launch, found, name, depth + 1, err) : 0;
}

static int hide_all(struct un_launch *launch, DIR *listing, int directory, const char *name,
                    int depth, struct un_error *err)
{
    int failed = 0;
    const struct dirent *entry;
    while (!failed && (entry = un_root_next(launch, listing, name, &failed, err))) {
        int wanted = may_be_private(directory, entry);
        if (!wanted)
            continue;
        int found = wanted > 0 ? un_child(directory, entry->d_name) : -1;
        if (found < 0 && errno == ENOENT)
            continue;
        failed = found < 0 ? un_launch_fail_file(launch, entry->d_name, err)
                           : hide_entry(launch, found, entry->d_name, depth, err);
        un_close_quietly(found);
    }
    return failed;
}

static int hide_below(struct un_launch *launch, int directory, const char *name, int depth,
                      struct un_error *err)
{
    if (depth == UN_DEPTH_MAX) {
        errno = ELOOP;
        return un_launch_fail_file(launch, name, err);
    }
    DIR *listing = un_root_list(launch, directory, name, err);
    if (!listing)
        return -1;
    int failed = hide_all(launch, listing, directory, name, depth, err);
    closedir(listing);
    return failed;
}

int un_hide_private(struct un_launch *launch, int directory, const char *name, struct un_error *err)
{
    return hide_below(launch, directory, name, 0, err);
}
