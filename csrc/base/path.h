/* Where programs are looked for: the files that a command's name may stand for, one after the
 * other. Internal; needs no libc. */
#ifndef USERNSCTL_BASE_PATH_H
#define USERNSCTL_BASE_PATH_H

#include <limits.h>
#include <linux/limits.h>
#include <stdbool.h>
#include <stddef.h>

/* What execvp(3) searches where PATH is not set: the current directory is not in it. */
#define UN_DEFAULT_PATH "/bin:/usr/bin"

/* Where the programs of the system are that we start on our own account. */
#define UN_SYSTEM_PATH "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

static inline bool un_has_slash(const char *name)
{
    while (*name && *name != '/')
        name++;
    return *name == '/';
}

/*
 * Writes the next candidate for `name` into `path`, and moves *at behind the directory that it is
 * in; false once there is none. *at starts at a list of directories, separated by colons; an empty
 * one is the current directory. What is too long to be a path is passed over.
 */
static inline bool un_next_candidate(const char **at, const char *name, char path[PATH_MAX])
{
    while (*at) {
        const char *from = *at;
        size_t length = 0;
        for (; *from && *from != ':'; from++)
            if (length < PATH_MAX)
                path[length++] = *from;
        *at = *from ? from + 1 : NULL;
        if (length && length < PATH_MAX)
            path[length++] = '/';
        for (const char *letter = name; *letter; letter++)
            if (length < PATH_MAX)
                path[length++] = *letter;
        if (length < PATH_MAX) {
            path[length] = '\0';
            return true;
        }
    }
    return false;
}

#endif
