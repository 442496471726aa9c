/* Reading the subordinate ranges that /etc/subuid and /etc/subgid grant to a user (subuid(5)). */
#include "base/base.h"
#include "facts/facts.h"
#include "map/map.h"

#include <inttypes.h>

const char *un_subid_path(const struct un_sources *sources, int kind)
{
    return sources->subid[kind] ? sources->subid[kind] : un_kinds[kind].subid;
}

bool un_subid_is_link(const char *path)
{
    struct stat status;
    return !lstat(path, &status) && S_ISLNK(status.st_mode);
}

const char *un_subid_number(const char *text, char end, uint64_t most, uint64_t *number)
{
    char *at;
    const char *first = text + strspn(text, " \t\v\f");
    errno = 0;
    unsigned long long read = strtoull(first, &at, 0);
    if (errno || at == first || *first == '-' || read > most || *at != end)
        return NULL;
    *number = read;
    return end ? at + 1 : at;
}

/* Parses the fields after the user name in a line into `range`. Returns a message about a malformed
 * line, or NULL if the line is valid. */
static const char *parse_range(const char *text, struct un_range *range)
{
    uint64_t start, count;
    const char *at = un_subid_number(text, ':', UINT32_MAX, &start);
    if (at)
        at = un_subid_number(at, '\0', UINT32_MAX, &count);
    if (!at)
        return strchr(text, '\r') ? "the line ends with CR LF" : "expected name:start:count";
    if (count == 0)
        return "the count is 0";
    /* Reject a range that contains 4294967295: the largest id is 4294967294. */
    if (start + count > UINT32_MAX)
        return "the range goes past 4294967294, the last id";
    *range = (struct un_range){(uint32_t)start, (uint32_t)count};
    return NULL;
}

struct reader {
    const char *path;
    const char *user;
    char uid[11];
    struct un_ranges *ranges;
    struct un_notices *notices;
};

/* Returns whether the first field of a line is the user's name, or exactly the uid in decimal. The
 * uid is not parsed by strtoul(3), which would return 0 for a name without digits. */
static bool is_line_of_user(const struct reader *reader, const char *name)
{
    return (*reader->user && !strcmp(name, reader->user)) || !strcmp(name, reader->uid);
}

/* Returns whether a line grants nothing, because it is empty, is a comment, or has an empty
 * name. */
static bool grants_nothing(const char *line)
{
    return !*line || strchr("#:", *line);
}

typedef void take_line(struct reader *, char *line, bool cut, unsigned number);

static void read_ours(struct reader *reader, char *line, bool cut, unsigned number)
{
    struct un_range range;
    char *colon = strchr(line, ':');
    const char *fault = NULL;
    if (grants_nothing(line))
        return;
    if (cut || !colon) {
        fault = cut ? "the line is too long" : "expected name:start:count";
    } else {
        *colon = '\0';
        if (!is_line_of_user(reader, line))
            return;
        fault = parse_range(colon + 1, &range);
    }
    /* Skip further ranges when UN_MAP_MAX - 1 are stored: a map has at most UN_MAP_MAX extents, and
     * the caller's own id needs one of them. */
    if (!fault && reader->ranges->len == UN_MAP_MAX - 1)
        fault = "more ranges than a map can hold";
    if (fault)
        un_notice(reader->notices, "%s, line %u is skipped: %s", reader->path, number, fault);
    else
        reader->ranges->range[reader->ranges->len++] = range;
}

/* Warns about ids that are also granted to another user. Each of the two users could read the
 * other's files and kill the other's processes. */
static void compare_others(struct reader *reader, char *line, bool cut, unsigned number)
{
    struct un_range other;
    char *colon = strchr(line, ':');
    if (grants_nothing(line) || cut || !colon)
        return;
    *colon = '\0';
    if (is_line_of_user(reader, line) || parse_range(colon + 1, &other))
        return;
    for (uint32_t i = 0; i < reader->ranges->len; i++) {
        struct un_range own = reader->ranges->range[i];
        if (other.start < (uint64_t)own.start + own.count &&
            own.start < (uint64_t)other.start + other.count)
            un_notice(reader->notices,
                      "%s, line %u: the ids %" PRIu32 ":%" PRIu32
                      " of %.32s overlap a range of this user",
                      reader->path, number, other.start, other.count, line);
    }
}

static int read_each_line(struct un_lines *lines, struct reader *reader, take_line *take,
                          struct un_error *err)
{
    char line[UN_LINE_MAX];
    bool cut;
    for (unsigned number = 1; un_lines_next(lines, line, &cut); number++)
        take(reader, line, cut, number);
    errno = lines->errnum;
    return errno ? un_fail_errno(err, UN_STEP_SUBID, reader->path) : 0;
}

int un_subid_read(const char *path, const char *user, uint32_t uid, struct un_ranges *ranges,
                  struct un_notices *notices, struct un_error *err)
{
    struct reader reader = {path, user, "", ranges, notices};
    snprintf(reader.uid, sizeof reader.uid, "%" PRIu32, uid);
    ranges->len = 0;
    un_auto_lines struct un_lines lines;
    if (!un_lines_open(&lines, path)) {
        int errnum = errno;
        if (un_lines_is_no_file(errnum) || un_subid_is_link(path))
            return un_fail(err, UN_STEP_SUBID, 0, "subid-not-a-file", "%s is not a regular file",
                           path);
        if (errnum == ENOENT)
            return 0;
        errno = errnum;
        un_fail_errno(err, UN_STEP_SUBID, path);
        err->cause = "subid-file-unreadable";
        return -1;
    }
    if (read_each_line(&lines, &reader, read_ours, err))
        return -1;
    if (!ranges->len)
        return 0;
    un_lines_rewind(&lines);
    return read_each_line(&lines, &reader, compare_others, err);
}
