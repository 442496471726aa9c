/* The caller's homes, which stay hidden. Internal. */
#ifndef USERNSCTL_EXEC_HOMES_H
#define USERNSCTL_EXEC_HOMES_H

#include "include/usernsctl.h"

#define UN_HOMES_MAX 4

struct un_homes {
    const char *list[UN_HOMES_MAX + 1]; /* ends with NULL */
    char path[UN_HOMES_MAX][UN_PATH_MAX];
    size_t count;
};

/* Finds them: by HOME, which may be NULL, and by the user database, as absolute paths; where links
 * lead elsewhere, those, too. To be called outside of the namespaces. */
void un_homes_find(struct un_homes *homes, const char *home);
/* The home in a line of passwd(5), which is cut there; NULL: the line has none, or was cut. */
char *un_home_of(char *line);

#endif
