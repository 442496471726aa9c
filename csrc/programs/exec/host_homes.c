#include "base/base.h"
#include "facts/facts.h"
#include "programs/exec/exec.h"

/* Normalizes a path lexically, without accessing the filesystem: removes empty components and ".",
 * and resolves "..". */
static void normalise(const char *path, char normal[UN_PATH_MAX])
{
    size_t length = 0;
    while (*path) {
        size_t more = strcspn(path, "/");
        bool is_up = more == 2 && !strncmp(path, "..", 2);
        bool is_name = more && !is_up && !(more == 1 && *path == '.');
        while (is_up && length && normal[--length] != '/')
            continue;
        if (is_name && length + more + 1 < UN_PATH_MAX) {
            normal[length++] = '/';
            memcpy(normal + length, path, more);
            length += more;
        }
        path += more + (path[more] == '/');
    }
    normal[length] = '\0';
}

/* Adds a home directory to the list, unless the list contains it already, or it is the root
 * directory. */
static void note_home(struct un_homes *homes, const char *path)
{
    for (size_t i = 0; i < homes->count; i++)
        if (!strcmp(homes->list[i], path))
            return;
    if (!*path || !strcmp(path, "/"))
        return;
    strcpy(homes->path[homes->count], path);
    homes->list[homes->count] = homes->path[homes->count];
    homes->list[++homes->count] = NULL;
}

static void add_home(struct un_homes *homes, const char *path)
{
    char normal[UN_PATH_MAX], *real;
    if (!path || *path != '/')
        return;
    normalise(path, normal);
    note_home(homes, normal);
    real = realpath(normal, NULL);
    if (real && strlen(real) < UN_PATH_MAX)
        note_home(homes, real);
    free(real);
}

char *un_home_of(char *line)
{
    for (int field = 0; line && field < 5; field++) {
        char *colon = strchr(line, ':');
        line = colon ? colon + 1 : NULL;
    }
    char *end = line ? strchr(line, ':') : NULL;
    if (end)
        *end = '\0';
    return end ? line : NULL;
}

void un_homes_find(struct un_homes *homes, const char *home)
{
    char line[UN_LINE_MAX];
    homes->count = 0;
    homes->list[0] = NULL;
    add_home(homes, home);
    if (un_user_line("/etc/passwd", UN_SYSTEM_PATH, getuid(), line))
        add_home(homes, un_home_of(line));
}
