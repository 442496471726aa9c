/* Files, facts and requests for the tests of subordinate id ranges. */
#ifndef RANGES_H
#define RANGES_H

#include "check.h"

#include <unistd.h>

/* A temporary file. remove_file() removes it. */
struct scratch {
    char path[64];
};

static inline void write_file(struct scratch *file, const char *text, size_t length)
{
    strcpy(file->path, "/tmp/usernsctl-test-XXXXXX");
    int fd = mkstemp(file->path);
    CHECK(fd >= 0);
    for (size_t done = 0; done < length;) {
        ssize_t written = write(fd, text + done, length - done);
        CHECK(written > 0);
        done += (size_t)written;
    }
    close(fd);
}

static inline void remove_file(struct scratch *file)
{
    CHECK_INT(unlink(file->path), 0);
}

/* Fills in facts: a current kernel, the initial user namespace (where all ids exist), a working
 * newuidmap and newgidmap, and no subordinate id ranges. */
static inline void init_user(struct un_facts *facts, uint32_t uid, uint32_t gid)
{
    memset(facts, 0, sizeof *facts);
    facts->id[UN_UID].own = uid;
    facts->id[UN_GID].own = gid;
    facts->has_parents = true;
    facts->kernel_major = 6;
    facts->kernel_minor = 1;
    facts->page_size = 4096;
    facts->has_ranges = true;
    facts->in_bounding_set = true;
    strcpy(facts->user, "anna");
    facts->user_gid = gid;
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        facts->id[kind].parent.len = 1;
        facts->id[kind].parent.extent[0] = (struct un_extent){0, 0, UINT32_MAX};
        facts->id[kind].helper_state = UN_HELPER_READY;
        strcpy(facts->id[kind].helper, kind == UN_UID ? "/bin/newuidmap" : "/bin/newgidmap");
    }
}

static inline void grant(struct un_facts *facts, int kind, uint32_t start, uint32_t count)
{
    struct un_ranges *ranges = &facts->id[kind].ranges;
    CHECK(ranges->len < UN_MAP_MAX);
    ranges->range[ranges->len++] = (struct un_range){start, count};
}

/* Fills in a request that maps the caller's own uid and gid to `self`, or does not map them if
 * `self` is -1. */
static inline void init_wanted(struct un_request *request, int64_t self, int fill)
{
    memset(request, 0, sizeof *request);
    for (int kind = UN_UID; kind <= UN_GID; kind++) {
        request->id[kind].map_self = self >= 0;
        request->id[kind].self = (uint32_t)self;
        request->id[kind].fill = fill;
    }
}

static inline void want_extent(struct un_request *request, int kind, struct un_extent extent)
{
    struct un_error err;
    CHECK_OK(un_map_add(&request->id[kind].more, extent, &err), &err);
}

static inline void check_map_is(const struct un_map *map, const char *want)
{
    static char text[UN_MAP_TEXT_MAX];
    un_map_format(map, text);
    CHECK_TEXT(text, want);
}

#endif
