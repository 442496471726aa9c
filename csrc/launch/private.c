/* Hiding files that not every user may read. If the caller may read such a file, for example as a
 * member of the file's group, the sandbox must still not see the contents. */
#include "base/base.h"
#include "launch/launch.h"

/* Selects the entries that un_hide_private() visits: returns 1 for a directory, 1 for a file that
 * not every user may read, 0 for any other entry, or -1 with errno set on failure. */
static int may_be_private(const struct un_visit *visit, int directory, const struct dirent *entry)
{
    (void)visit;
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

static int hide_entry(struct un_visit *visit, struct un_launch *launch, int found,
                      const struct stat *status, const char *name, struct un_error *err)
{
    if (S_ISLNK(status->st_mode))
        return 0;
    if (!un_is_public(status->st_mode))
        return un_root_hide(launch, found, name, err);
    return S_ISDIR(status->st_mode) ? un_root_visit(visit, launch, found, name, err) : 0;
}

int un_hide_private(struct un_launch *launch, int directory, const char *name, struct un_error *err)
{
    struct un_visit visit = {.wants = may_be_private, .take = hide_entry};
    return un_root_visit(&visit, launch, directory, name, err);
}
