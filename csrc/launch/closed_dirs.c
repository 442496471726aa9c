/*
 * Finding the directories of the host that only root and the caller can change.
 *
 * runsc resolves the mount point of a bind mount by its path. Another user who owns a directory of
 * the path could meanwhile replace an entry of the directory by a symbolic link, and so move the
 * mount in the sandbox, for example to /usr/bin. So place.c mounts a copy on each such directory.
 * In the sandbox's user namespace, the files of root and those of all other unmapped users appear
 * to belong to the same uid (user_namespaces(7)). Hence the owners are checked before this process
 * enters the namespace, and the directories are recognized there by device and inode.
 */
#include "base/base.h"
#include "launch/launch.h"

bool un_file_ids_contain(const struct un_file_ids *ids, const struct stat *status)
{
    for (size_t i = 0; i < ids->count; i++)
        if (ids->id[i].device == status->st_dev && ids->id[i].inode == status->st_ino)
            return true;
    return false;
}

int un_file_ids_add(struct un_file_ids *ids, const struct stat *status)
{
    if (un_file_ids_contain(ids, status))
        return 0;
    struct un_file_id *more = reallocarray(ids->id, ids->count + 1, sizeof *ids->id);
    if (!more)
        return -1;
    ids->id = more;
    ids->id[ids->count++] = (struct un_file_id){status->st_dev, status->st_ino};
    return 0;
}

bool un_shows_host(const struct un_launch *launch)
{
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    return launch->of_verb[UN_VERB_MACHINE] || launch->of_verb[UN_VERB_GUARDED] ||
           (tree && !strcmp(un_record_source(launch, tree, 0)->path, "/"));
}

/* Looks up a name for un_walk(), following all symbolic links. If only root and the caller can
 * change the directory that contains the name, adds that directory to launch->closed_dirs. */
static enum un_lookup lookup_noting_closed(const struct un_trail *trail, const char *name,
                                           struct un_entry *found, void *arg)
{
    struct un_launch *launch = arg;
    const struct un_place *place = &trail->place[trail->count - 1];
    struct stat status;
    char path[UN_PATH_MAX];
    snprintf(path, sizeof path, "%.*s", (int)(place->length ? place->length : 1), trail->path);
    if (!fstat(place->fd, &status) && un_owner_is_trusted(status.st_uid, path) &&
        !un_others_may_write(place->fd) && un_file_ids_add(&launch->closed_dirs, &status))
        return UN_LOOKUP_FAILED;
    return un_lookup_any_link(trail, name, found, NULL);
}

int un_find_closed_dirs(struct un_launch *launch, struct un_error *err)
{
    if (!launch->of_verb[UN_VERB_BIND] || !un_shows_host(launch))
        return 0;
    un_auto_close int root = un_child(AT_FDCWD, "/");
    if (root < 0)
        return un_launch_fail_file(launch, "/", err);
    UN_EACH_RECORD (record, launch, UN_VERB_BIND) {
        const char *inside = un_record_argument(record, 1);
        un_auto_trail struct un_trail trail;
        un_trail_begin(&trail, root);
        /* Ignore other failures, because the path may exist only in the sandbox. */
        if (un_walk(&trail, inside, lookup_noting_closed, launch) && errno == ENOMEM)
            return un_launch_fail_file(launch, inside, err);
    }
    return 0;
}
