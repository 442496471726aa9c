/* Reading single facts out of /proc. */
#include "base/procfile.h"

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
    FILE *stream = open_below(proc, file);
    if (!stream)
        return -1;
    if (fscanf(stream, "%" SCNd64, &number) != 1)
        number = -1;
    fclose(stream);
    return number;
}

int64_t un_proc_status(const char *proc, const char *key)
{
    char line[512];
    int64_t number = -1;
    FILE *stream = open_below(proc, "self/status");
    while (stream && number < 0 && fgets(line, sizeof line, stream))
        if (!strncmp(line, key, strlen(key)))
            sscanf(line + strlen(key), "%" SCNd64, &number);
    if (stream)
        fclose(stream);
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

bool un_proc_has_mount(const char *proc, const char *point, bool below)
{
    char line[4096], at[2048];
    bool found = false;
    FILE *stream = open_below(proc, "self/mountinfo");
    /* Field 5 of proc_pid_mountinfo(5). */
    while (stream && !found && fgets(line, sizeof line, stream))
        if (sscanf(line, "%*d %*d %*s %*s %2047s", at) == 1)
            found = below ? is_below(at, point) : !strcmp(at, point);
    if (stream)
        fclose(stream);
    return found;
}

bool un_proc_apparmor(const char *proc, const char *who, char *label, size_t size)
{
    char file[64];
    snprintf(file, sizeof file, "%s/attr/apparmor/current", who);
    FILE *stream = open_below(proc, file);
    bool has = stream && fgets(label, (int)size, stream);
    if (stream)
        fclose(stream);
    if (has)
        label[strcspn(label, "\n")] = '\0';
    return has;
}

bool un_proc_hides(const char *proc)
{
    char line[4096];
    bool hides = false;
    FILE *stream = open_below(proc, "self/mountinfo");
    while (stream && !hides && fgets(line, sizeof line, stream))
        hides = strstr(line, " - proc ") && strstr(line, "hidepid=") &&
                !strstr(line, "hidepid=off") && !strstr(line, "hidepid=0");
    if (stream)
        fclose(stream);
    return hides;
}

bool un_proc_cgroup(const char *proc, const char *controller, char *path, size_t size)
{
    char line[UN_PATH_MAX];
    bool found = false;
    FILE *stream = open_below(proc, "self/cgroup");
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
    if (stream)
        fclose(stream);
    return found;
}
