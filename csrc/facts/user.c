/* Looking up users in the user database. */
#include "facts/facts.h"

#include <inttypes.h>

/* Returns whether a line of passwd(5) is the entry of the user `uid`. As in glibc (nss_files), a
 * line that begins with "#" is a comment, and a line that begins with "+" or "-" includes or
 * excludes users of NIS. */
static bool is_of(const char *line, uint32_t uid)
{
    if (strchr("#+-", *line))
        return false;
    const char *end = strchr(line, ':');
    const char *number = end ? strchr(end + 1, ':') : NULL;
    unsigned long found, gid;
    return number && end - line < UN_USER_MAX &&
           sscanf(number + 1, "%lu:%lu:", &found, &gid) == 2 && found == uid;
}

bool un_user_next_line(struct un_lines *passwd, uint32_t uid, char line[UN_LINE_MAX])
{
    bool cut;
    while (un_lines_next(passwd, line, &cut)) {
        size_t blanks = strspn(line, " \t");
        memmove(line, line + blanks, strlen(line + blanks) + 1);
        if (is_of(line, uid))
            return true;
    }
    return false;
}

/* Runs getent(1) for a user that is not in the file `passwd`. getpwuid(3) would find such a user,
 * too, but needs NSS modules, which a static program can't load. */
bool un_user_line(const char *passwd, const char *path, uint32_t uid, char line[UN_LINE_MAX])
{
    char number[11];
    un_auto_lines struct un_lines lines;
    un_lines_open(&lines, passwd);
    if (un_user_next_line(&lines, uid, line))
        return true;
    snprintf(number, sizeof number, "%" PRIu32, uid);
    const char *const words[] = {"getent", "passwd", number};
    if (!un_ask(path, words, line, UN_LINE_MAX) || !is_of(line, uid))
        return false;
    line[strcspn(line, "\n")] = '\0';
    return true;
}
