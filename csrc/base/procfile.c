/* Reading single facts out of /proc. */
#include "base/base.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static FILE *open_below(const char *proc, const char *file)
{
    char path[256];
    int length = snprintf(path, sizeof path, "%s/%s", proc, file);
    return length < (int)sizeof path ? fopen(path, "re") : NULL;
}

int64_t un_proc_number(const char *proc, const char *file)
{
    int64_t number;
    un_auto_fclose FILE *stream = open_below(proc, file);
    if (!stream)
        return -1;
    if (fscanf(stream, "%" SCNd64, &number) != 1)
        number = -1;
    return number;
}

int64_t un_proc_status(const char *proc, const char *key)
{
    char line[512];
    int64_t number = -1;
    un_auto_fclose FILE *stream = open_below(proc, "self/status");
    while (stream && number < 0 && fgets(line, sizeof line, stream))
        if (!strncmp(line, key, strlen(key)))
            sscanf(line + strlen(key), "%" SCNd64, &number);
    return number;
}

/* Nothing is ever in that directory of proc, so that no mount hides anything there: so the kernel
 * counts it (fs/namespace.c, mnt_already_visible()), and systemd has one there on every machine. */
static bool hides_nothing(const char *point)
{
    return !strcmp(point, "/proc/sys/fs/binfmt_misc");
}

static bool is_below(const char *point, const char *top)
{
    size_t length = strlen(top);
    return !strncmp(point, top, length) && point[length] == '/' && !hides_nothing(point);
}

#define POINT_MAX 2048

/* Reads the number and the mount point of the next mount: fields 1 and 5 of
 * proc_pid_mountinfo(5). */
static bool read_mount(FILE *stream, int *id, char point[POINT_MAX])
{
    char line[4096];
    while (stream && fgets(line, sizeof line, stream))
        if (sscanf(line, "%d %*d %*s %*s %2047s", id, point) == 2)
            return true;
    return false;
}

bool un_proc_has_mount(const char *proc, const char *point, bool below)
{
    char at[POINT_MAX];
    int id;
    bool found = false;
    un_auto_fclose FILE *stream = open_below(proc, "self/mountinfo");
    while (!found && read_mount(stream, &id, at))
        found = below ? is_below(at, point) : !strcmp(at, point);
    return found;
}

bool un_proc_shares_root(const char *proc)
{
    char point[POINT_MAX];
    int id, own = -1;
    bool shares = false;
    FILE *stream = open_below(proc, "self/mountinfo");
    /* The last mount at a mount point covers the others. */
    while (read_mount(stream, &id, point))
        own = strcmp(point, "/") ? own : id;
    if (stream)
        fclose(stream);
    stream = open_below(proc, "1/mountinfo");
    while (own >= 0 && !shares && read_mount(stream, &id, point))
        shares = id == own && !strcmp(point, "/");
    if (stream)
        fclose(stream);
    return shares;
}

bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size)
{
    char file[64];
    snprintf(file, sizeof file, "%s/attr/apparmor/current", who);
    un_auto_fclose FILE *stream = open_below(proc, file);
    bool has = stream && fgets(label, (int)size, stream);
    if (has)
        label[strcspn(label, "\n")] = '\0';
    return has;
}

bool un_proc_hides(const char *proc)
{
    char line[4096];
    bool hides = false;
    un_auto_fclose FILE *stream = open_below(proc, "self/mountinfo");
    while (stream && !hides && fgets(line, sizeof line, stream))
        hides = strstr(line, " - proc ") && strstr(line, "hidepid=") &&
                !strstr(line, "hidepid=off") && !strstr(line, "hidepid=0");
    return hides;
}

bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size)
{
    char line[UN_PATH_MAX];
    bool found = false;
    un_auto_fclose FILE *stream = open_below(proc, "self/cgroup");
    while (stream && !found && fgets(line, sizeof line, stream)) {
        /* ID:CONTROLLERS:PATH */
        char *name = strchr(line, ':'), *group = name ? strchr(++name, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        group[strcspn(group, "\n")] = '\0';
        found = !strcmp(name, controller);
        if (found)
            snprintf(path, size, "%s", group);
    }
    return found;
}
