/* Reading the facts that decide which ids the caller may map: the user name, the subordinate id
 * ranges, and the state of newuidmap and newgidmap, called helpers here. */
#include "base/base.h"
#include "facts/facts.h"
#include "map/map.h"

#include <elf.h>
#include <inttypes.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

/* Maximum size of the output of getsubids(1): a line for each range, and as many ranges as a map
 * can have extents. */
#define SUBIDS_TEXT_MAX (UN_MAP_MAX * (sizeof "339:  4294967295 4294967295\n" + UN_USER_MAX))

/* Searches the directory that contains the program `other` for the executable `name`. Stores the
 * path of the executable in `found`, and its status in `status`. Returns false if that directory
 * has no such executable. */
static bool find_helper_beside(const char *other, const char *name, char found[UN_PATH_MAX],
                               struct stat *status)
{
    const char *slash = strrchr(other, '/');
    if (!slash)
        return false;
    int length = snprintf(found, UN_PATH_MAX, "%.*s/%s", (int)(slash - other), other, name);
    return length < UN_PATH_MAX && un_is_program(found, status);
}

/* Parses the user name and the gid in a line of passwd(5). */
static void take_passwd(const char *line, struct un_facts *facts)
{
    const char *end = strchr(line, ':');
    const char *number = end ? strchr(end + 1, ':') : NULL;
    unsigned long gid;
    if (!number || sscanf(number + 1, "%*u:%lu:", &gid) != 1)
        return;
    memcpy(facts->user, line, (size_t)(end - line));
    facts->user[end - line] = '\0';
    facts->user_gid = (int64_t)gid;
}

/* Returns whether nsswitch.conf(5) names a source of subordinate ranges other than "files". */
static bool has_other_source(const char *nsswitch)
{
    char line[UN_LINE_MAX], source[64];
    un_auto_lines struct un_lines lines;
    bool other = false, cut;
    un_lines_open(&lines, nsswitch);
    while (un_lines_next(&lines, line, &cut))
        if (sscanf(line, " subid: %63s", source) == 1)
            other = strcmp(source, "files") != 0;
    return other;
}

/* Returns whether GRANT_AUX_GROUP_SUBIDS is set in login.defs(5). If so, newuidmap and newgidmap
 * also work for a process whose gid is not that of its user's primary group. The last line with
 * this setting counts, and the value may be in quotation marks (def_load() in shadow's
 * getdef.c). */
static bool grants_any_group(const char *login)
{
    static const char name[] = "GRANT_AUX_GROUP_SUBIDS";
    char line[UN_LINE_MAX];
    un_auto_lines struct un_lines lines;
    bool granted = false, cut;
    un_lines_open(&lines, login);
    while (un_lines_next(&lines, line, &cut)) {
        for (size_t end = strlen(line); end && strchr(" \t", line[end - 1]);)
            line[--end] = '\0';
        char *at = line + strspn(line, " \t");
        size_t length = strcspn(at, " \t");
        if (length != strlen(name) || strncmp(at, name, length))
            continue;
        at += length + strspn(at + length, " \"\t");
        at[strcspn(at, "\"")] = '\0';
        granted = !strcasecmp(at, "yes");
    }
    return granted;
}

/* Parses the output of getsubids(1), which has one line per range, such as "0: user 100000 65536".
 * Returns a message about malformed output, or NULL if the output is valid. */
static const char *take_subids(const char *text, struct un_ranges *ranges)
{
    while (*text) {
        uint64_t start, count;
        const char *end = strchr(text, '\n');
        if (!end)
            return "the output is truncated";
        if (sscanf(text, "%*u: %*s %" SCNu64 " %" SCNu64, &start, &count) != 2 || !count ||
            start > UINT32_MAX || count > UINT32_MAX - start)
            return "a line of the output is not a range";
        if (ranges->len == UN_MAP_MAX)
            return "more ranges than a map can hold";
        ranges->range[ranges->len++] = (struct un_range){(uint32_t)start, (uint32_t)count};
        text = end + 1;
    }
    return NULL;
}

static int ask_ranges(int kind, const char *path, struct un_facts *facts, struct un_error *err)
{
    const char *const uids[] = {"getsubids", facts->user, NULL};
    const char *const gids[] = {"getsubids", "-g", facts->user};
    facts->id[kind].ranges.len = 0;
    un_auto_free char *text = malloc(SUBIDS_TEXT_MAX);
    if (!text)
        return un_fail_errno(err, UN_STEP_SUBID, "getsubids");
    const char *fault = un_ask(path, kind == UN_UID ? uids : gids, text, SUBIDS_TEXT_MAX)
                            ? take_subids(text, &facts->id[kind].ranges)
                            : "the command failed";
    if (!fault)
        return 0;
    return un_fail(err, UN_STEP_SUBID, 0, "nss-subid",
                   "getsubids does not list the ranges of %s: %s", facts->user, fault);
}

/* Returns whether a helper, newuidmap or newgidmap, is a script. A script gains no privileges
 * itself, but may execute a program that does. Any file that is not an ELF program counts as a
 * script; if the file can't be executed, the later execve(2) of the helper fails. */
static bool is_script(const char *helper)
{
    char start[SELFMAG];
    un_auto_close int fd = openat(AT_FDCWD, helper, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    return fd >= 0 && (read(fd, start, SELFMAG) != SELFMAG || memcmp(start, ELFMAG, SELFMAG));
}

static int helper_state(const char *helper, const struct stat *status)
{
    struct statvfs mount;
    struct vfs_ns_cap_data caps = {.rootid = 0};
    bool is_setuid = status->st_mode & S_ISUID && status->st_uid == 0;
    ssize_t size = is_setuid ? 0 : getxattr(helper, "security.capability", &caps, sizeof caps);
    /* With a rootid other than 0, the file capabilities have no effect here, but only in a user
     * namespace whose root is the uid `rootid` of this namespace (capabilities(7)). */
    if (size == sizeof caps && caps.rootid)
        return UN_HELPER_CAPS_ELSEWHERE;
    if (!is_setuid && size <= 0)
        return is_script(helper) ? UN_HELPER_READY : UN_HELPER_NOT_SETUID;
    /* If statvfs(3) fails, assume that the mount is not nosuid. If the mount is nosuid, newuidmap
     * or newgidmap will report the missing privileges itself. */
    bool is_nosuid = !statvfs(helper, &mount) && mount.f_flag & ST_NOSUID;
    return is_nosuid ? UN_HELPER_NOSUID : UN_HELPER_READY;
}

/* Finds newuidmap or newgidmap, and determines its state. Looks first in the directory of the other
 * of the two, because both are usually installed together. */
static void read_helper(const char *path, int kind, struct un_facts *facts)
{
    struct un_id_facts *id = &facts->id[kind];
    const char *name = un_kinds[kind].helper, *other = facts->id[!kind].helper;
    struct stat status;
    bool found = find_helper_beside(other, name, id->helper, &status) ||
                 un_find_program(path, name, id->helper, &status);
    if (found)
        id->helper_state = helper_state(id->helper, &status);
    else
        id->helper_state =
            un_find_unusable(path, name, id->helper) ? UN_HELPER_NOT_EXECUTABLE : UN_HELPER_MISSING;
}

static const char *or_else(const char *given, const char *otherwise)
{
    return given ? given : otherwise;
}

/* Reads the user's ranges from /etc/subuid or /etc/subgid. If the user has none, reads those of
 * another name with the same uid, because newuidmap(1) and newgidmap(1) accept them, too (shadow,
 * lib/subordinateio.c). */
static int read_files(const struct un_sources *sources, int kind, const char *passwd,
                      struct un_facts *facts, struct un_error *err)
{
    const char *path = un_subid_path(sources, kind);
    struct un_ranges *ranges = &facts->id[kind].ranges;
    /* Use the uid for /etc/subgid, too, because its lines begin with a user name or a uid, never
     * with a gid. */
    uint32_t uid = facts->id[UN_UID].own;
    char line[UN_LINE_MAX];
    if (un_subid_read(path, facts->user, uid, ranges, &facts->notices, err))
        return -1;
    if (ranges->len)
        return 0;
    un_auto_lines struct un_lines lines;
    un_lines_open(&lines, passwd);
    while (!ranges->len && un_user_next_line(&lines, uid, line)) {
        line[strcspn(line, ":")] = '\0';
        if (strcmp(line, facts->user) &&
            un_subid_read(path, line, uid, ranges, &facts->notices, err))
            return -1;
    }
    return 0;
}

int un_facts_read_ranges(struct un_facts *facts, const struct un_sources *sources,
                         struct un_error *err)
{
    const char *path = or_else(sources->path, UN_SYSTEM_PATH);
    const char *passwd = or_else(sources->passwd, "/etc/passwd");
    char line[UN_LINE_MAX];

    facts->in_bounding_set = prctl(PR_CAPBSET_READ, CAP_SETUID, 0, 0, 0) == 1 &&
                             prctl(PR_CAPBSET_READ, CAP_SETGID, 0, 0, 0) == 1;
    facts->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
    if (un_user_line(passwd, path, facts->id[UN_UID].own, line))
        take_passwd(line, facts);
    if (facts->user_gid != (int64_t)facts->id[UN_GID].own)
        facts->any_group = grants_any_group(or_else(sources->login, "/etc/login.defs"));
    bool other = has_other_source(or_else(sources->nsswitch, "/etc/nsswitch.conf"));
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        read_helper(path, kind, facts);
        int failed = other ? ask_ranges(kind, path, facts, err)
                           : read_files(sources, kind, passwd, facts, err);
        if (failed)
            return -1;
    }
    facts->has_ranges = true;
    return 0;
}
