/* Writing and reading the files setgroups, uid_map and gid_map of a process. */
#include "base/base.h"
#include "sys/sys.h"

static const int file_of[] = {[UN_UID] = UN_FILE_UID_MAP, [UN_GID] = UN_FILE_GID_MAP};

static const char *policy_of(const struct un_plan *plan)
{
    if (plan->setgroups == UN_SETGROUPS_AUTO)
        return NULL;
    return plan->setgroups == UN_SETGROUPS_DENY ? "deny" : "allow";
}

void un_own_maps_of(const struct un_plan *plan, char text[2][UN_MAP_TEXT_MAX],
                    struct un_own_maps *maps)
{
    maps->policy = policy_of(plan);
    maps->is_root = plan->is_root;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        bool ours = plan->writer[kind] == UN_WRITER_SELF;
        if (ours)
            un_map_format(&plan->map.of[kind], text[kind]);
        maps->map[kind] = ours ? text[kind] : NULL;
    }
}

static int write_map_file(int dir, int file, const char *text, struct un_error *err)
{
    un_auto_close int fd = un_map_file_open(dir, file, err);
    if (fd < 0)
        return -1;
    return un_map_file_write(fd, file, text, err);
}

int un_write_maps(int dir, const struct un_plan *plan, struct un_error *err)
{
    char text[UN_MAP_TEXT_MAX];
    const char *policy = policy_of(plan);
    if (policy && write_map_file(dir, UN_FILE_SETGROUPS, policy, err))
        return -1;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        if (plan->writer[kind] != UN_WRITER_SELF && plan->writer[kind] != UN_WRITER_PARENT)
            continue;
        un_map_format(&plan->map.of[kind], text);
        if (write_map_file(dir, file_of[kind], text, err))
            return -1;
    }
    return 0;
}

int un_map_read(int dir, const char *name, struct un_map *map, struct un_error *err)
{
    /* Each line of a map in /proc has 33 bytes, because the kernel pads each number to ten
     * columns. */
    char text[UN_MAP_MAX * 33 + 1];
    if (un_read_file(dir, name, text, sizeof text) < 0)
        return un_fail_errno(err, UN_STEP_FACTS, name);
    return un_map_parse(text, map, err);
}

int un_verify_maps(int dir, const struct un_plan *plan, struct un_error *err)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        struct un_map written;
        if (un_map_read(dir, un_map_files[file_of[kind]].name, &written, err))
            return -1;
        if (!un_map_equal(&written, &plan->map.of[kind]))
            return un_fail(err, un_map_files[file_of[kind]].step, 0, "map-not-written",
                           "the kernel's map differs from the planned map");
    }
    return 0;
}

int un_setgroups_read(int dir, int *setgroups, struct un_error *err)
{
    char text[sizeof "deny"];
    if (un_read_file(dir, "setgroups", text, sizeof text) < 0)
        return un_fail_errno(err, UN_STEP_FACTS, "setgroups");
    *setgroups = strcmp(text, "deny") ? UN_SETGROUPS_ALLOW : UN_SETGROUPS_DENY;
    return 0;
}
