#include "base/base.h"
#include "facts/facts.h"
#include "programs/exec/exec.h"

#include <inttypes.h>

/* Returns this process's effective uid in the parent user namespace. */
static uint32_t uid_outside(void)
{
    struct un_error err;
    uint32_t uid = geteuid();
    un_auto_free struct un_map *map = malloc(sizeof *map);
    if (!map || un_map_read(AT_FDCWD, "/proc/self/uid_map", map, &err))
        return uid;
    const struct un_extent *extent = un_map_find(map, UN_INSIDE, uid);
    return extent ? extent->outside + (uid - extent->inside) : uid;
}

int un_state_directory(char **environment, char path[UN_PATH_MAX])
{
    char here[UN_PATH_MAX], there[UN_PATH_MAX], own[32] = "usernsctl";
    const char *place = un_environment_value(environment, "XDG_RUNTIME_DIR");
    if (!place || !*place) {
        place = un_environment_value(environment, "TMPDIR");
        snprintf(own, sizeof own, "usernsctl-%" PRIu32, uid_outside());
    }
    if (!place || !*place)
        place = "/tmp";
    if (*place == '/')
        return un_path_join(path, place, own);
    if (!getcwd(here, sizeof here) || un_path_join(there, here, place))
        return -1;
    return un_path_join(path, there, own);
}

int un_templates_directory(char **environment, char path[UN_PATH_MAX])
{
    char line[UN_LINE_MAX];
    const char *data = un_environment_value(environment, "XDG_DATA_HOME");
    const char *home = un_environment_value(environment, "HOME");
    if (data && *data == '/')
        return un_path_join(path, data, "usernsctl/templates");
    if (!home && un_user_line("/etc/passwd", UN_SYSTEM_PATH, getuid(), line))
        home = un_home_of(line);
    *path = '\0';
    if (!home || (*home && *home != '/'))
        return 0;
    return un_path_join(path, home, ".local/share/usernsctl/templates");
}
