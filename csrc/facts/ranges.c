/* Facts about what the system grants us: our name, our subordinate ranges, the helpers. */
#include "base/error.h"
#include "base/lines.h"
#include "base/path.h"
#include "map/kind.h"
#include "sys/jobs.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ASK_TIMEOUT_MS 10000

/* What getsubids(1) says of the most ranges that a map can hold. */
#define SUBIDS_TEXT_MAX (UN_MAP_MAX * (sizeof "339:  4294967295 4294967295\n" + UN_USER_MAX))

/* A directory may be searched, which access(2) takes for executed. */
static bool is_program(const char *path, struct stat *status)
{
    return !stat(path, status) && S_ISREG(status->st_mode) && !access(path, X_OK);
}

/* Finds an executable file in one of the absolute directories of `path`; false if there is none. */
static bool find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                         struct stat *status)
{
    while (un_next_candidate(&path, name, found))
        if (*found == '/' && is_program(found, status))
            return true;
    found[0] = '\0';
    return false;
}

/* The same, in the directory that has another program, found before. */
static bool find_beside(const char *other, const char *name, char found[UN_PATH_MAX],
                        struct stat *status)
{
    const char *slash = strrchr(other, '/');
    if (!slash)
        return false;
    int length = snprintf(found, UN_PATH_MAX, "%.*s/%s", (int)(slash - other), other, name);
    return length < UN_PATH_MAX && is_program(found, status);
}

/* Asks a program of the system's for what only NSS knows. Its output, cut to size - 1, or NULL. */
static const char *ask(const char *path, const char *const words[], char *output, size_t size)
{
    char program[UN_PATH_MAX];
    const char *argv[4] = {program, words[1], words[1] ? words[2] : NULL, NULL};
    struct un_job job = {.argv = argv, .keep_fd = -1, .output = output, .output_size = size};
    struct un_error err;
    struct stat status;
    if (!find_program(path, words[0], program, &status) ||
        un_run_jobs(&job, 1, ASK_TIMEOUT_MS, &err))
        return NULL;
    bool answered = !job.timed_out && !job.stopped_by && job.ended == CLD_EXITED && job.status == 0;
    return answered ? output : NULL;
}

/* Takes name and gid out of a line of passwd(5) if it is `uid`'s. */
static bool take_passwd(const char *line, uint32_t uid, struct un_facts *facts)
{
    const char *end = strchr(line, ':');
    const char *number = end ? strchr(end + 1, ':') : NULL;
    unsigned long found, gid;
    if (!number || sscanf(number + 1, "%lu:%lu:", &found, &gid) != 2 || found != uid ||
        end - line >= UN_USER_MAX)
        return false;
    memcpy(facts->user, line, (size_t)(end - line));
    facts->user[end - line] = '\0';
    facts->user_gid = (int64_t)gid;
    return true;
}

/* Not getpwuid(): a static program can't load what NSS is made of. Who is not in the file is asked
 * for by a program that can. */
static void read_user(const char *passwd, const char *path, struct un_facts *facts)
{
    uint32_t uid = facts->id[UN_UID].own;
    char line[UN_LINE_MAX], number[11];
    struct un_lines lines;
    bool is_open = un_lines_open(&lines, passwd), found = false, cut;
    /* What counts is at the beginning, so it may be cut. */
    while (is_open && !found && un_lines_next(&lines, line, &cut))
        found = take_passwd(line, uid, facts);
    if (is_open)
        un_lines_close(&lines);
    snprintf(number, sizeof number, "%" PRIu32, uid);
    const char *const words[] = {"getent", "passwd", number};
    const char *answer = found ? NULL : ask(path, words, line, sizeof line);
    if (answer)
        take_passwd(answer, uid, facts);
}

/* Whether nsswitch.conf(5) has subordinate ranges come from somewhere else than the files. */
static bool has_other_source(const char *nsswitch)
{
    char line[UN_LINE_MAX], source[64];
    struct un_lines lines;
    bool is_open = un_lines_open(&lines, nsswitch), other = false, cut;
    while (is_open && un_lines_next(&lines, line, &cut))
        if (sscanf(line, " subid: %63s", source) == 1)
            other = strcmp(source, "files") != 0;
    if (is_open)
        un_lines_close(&lines);
    return other;
}

/* Whether login.defs(5) lets the helpers serve a process whose group is not its user's own. The
 * last line counts, and a value may stand in quotes (def_load() in shadow's getdef.c). */
static bool grants_any_group(const char *login)
{
    static const char name[] = "GRANT_AUX_GROUP_SUBIDS";
    char line[UN_LINE_MAX];
    struct un_lines lines;
    bool is_open = un_lines_open(&lines, login), granted = false, cut;
    while (is_open && un_lines_next(&lines, line, &cut)) {
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
    if (is_open)
        un_lines_close(&lines);
    return granted;
}

/* getsubids(1) prints a line "0: user 100000 65536" for each range. What is wrong with the answer,
 * or NULL. */
static const char *take_subids(const char *text, struct un_ranges *ranges)
{
    while (*text) {
        uint64_t start, count;
        const char *end = strchr(text, '\n');
        if (!end)
            return "its answer is cut in a line";
        if (sscanf(text, "%*u: %*s %" SCNu64 " %" SCNu64, &start, &count) != 2 || !count ||
            start > UINT32_MAX || count > UINT32_MAX - start)
            return "its answer has a line that is no range";
        if (ranges->len == UN_MAP_MAX)
            return "they are more than a map can hold";
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
    char *text = malloc(SUBIDS_TEXT_MAX);
    if (!text)
        return un_fail_errno(err, UN_STEP_SUBID, "getsubids");
    const char *fault = ask(path, kind == UN_UID ? uids : gids, text, SUBIDS_TEXT_MAX)
                            ? take_subids(text, &facts->id[kind].ranges)
                            : "it fails";
    free(text);
    if (!fault)
        return 0;
    return un_fail(err, UN_STEP_SUBID, 0, "nss-subid",
                   "getsubids does not tell the ranges of %s: %s", facts->user, fault);
}

static int helper_state(const char *helper, const struct stat *status)
{
    struct statvfs mount;
    bool privileged = (status->st_mode & S_ISUID && status->st_uid == 0) ||
                      getxattr(helper, "security.capability", NULL, 0) > 0;
    if (!privileged)
        return UN_HELPER_NOT_SETUID;
    if (statvfs(helper, &mount))
        return UN_HELPER_MISSING;
    return mount.f_flag & ST_NOSUID ? UN_HELPER_NOSUID : UN_HELPER_READY;
}

/* The two come together: the second one is looked for beside the first one before anywhere else. */
static void read_helper(const char *path, int kind, struct un_facts *facts)
{
    struct un_id_facts *id = &facts->id[kind];
    const char *name = un_kinds[kind].helper, *other = facts->id[!kind].helper;
    struct stat status;
    bool found = find_beside(other, name, id->helper, &status) ||
                 find_program(path, name, id->helper, &status);
    id->helper_state = found ? helper_state(id->helper, &status) : UN_HELPER_MISSING;
}

static const char *or_else(const char *given, const char *otherwise)
{
    return given ? given : otherwise;
}

int un_facts_read_ranges(struct un_facts *facts, const struct un_sources *sources,
                         struct un_error *err)
{
    const char *path = or_else(sources->path, UN_SYSTEM_PATH);

    facts->in_bounding_set = prctl(PR_CAPBSET_READ, CAP_SETUID, 0, 0, 0) == 1 &&
                             prctl(PR_CAPBSET_READ, CAP_SETGID, 0, 0, 0) == 1;
    facts->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
    read_user(or_else(sources->passwd, "/etc/passwd"), path, facts);
    if (facts->user_gid != (int64_t)facts->id[UN_GID].own)
        facts->any_group = grants_any_group(or_else(sources->login, "/etc/login.defs"));
    bool other = has_other_source(or_else(sources->nsswitch, "/etc/nsswitch.conf"));
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        struct un_id_facts *id = &facts->id[kind];
        read_helper(path, kind, facts);
        /* The user's uid is what counts for groups too: an entry by gid is never looked at. */
        int failed =
            other ? ask_ranges(kind, path, facts, err)
                  : un_subid_read(or_else(sources->subid[kind], un_kinds[kind].subid), facts->user,
                                  facts->id[UN_UID].own, &id->ranges, &facts->notices, err);
        if (failed)
            return -1;
    }
    facts->has_ranges = true;
    return 0;
}
