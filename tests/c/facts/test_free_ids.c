/* Tests of finding ids that can be granted to a user without subordinate ids. */
#include "needs.h"

#include <sys/stat.h>

static char dir[] = "/tmp/usernsctl-test-XXXXXX";
static char file[4][64]; /* paths of the files subuid, subgid, passwd and group */
static const struct un_map whole = {1, {{0, 0, UINT32_MAX}}};

static void put(int which, const char *text)
{
    FILE *stream = fopen(file[which], "we");
    CHECK(stream != NULL);
    CHECK(fputs(text, stream) >= 0);
    CHECK_INT(fclose(stream), 0);
}

static void found(const struct un_map *uids, const struct un_map *gids, uint32_t start,
                  uint32_t count)
{
    const struct un_grant_files files = {{file[0], file[1]}, {file[2], file[3]}};
    const struct un_map *const parents[2] = {uids, gids};
    struct un_range ids = {0, 0};
    CHECK_INT(un_free_ids(&files, parents, &ids), count > 0);
    if (count) {
        CHECK_INT(ids.start, start);
        CHECK_INT(ids.count, count);
    }
}

static void free_ids_are_above_all_granted_ids(void)
{
    static const struct {
        const char *subuid;
        const char *subgid;
        uint32_t first; /* the first of the free ids; 0 if there are none */
    } cases[] = {
        {"", "", 100000},
        {"one:100000:65536\n", "", 165536},
        {"one:100000:65536\n", "two:500000:1000\n", 501000},
        {"one: 0x20000: 010\n", "x:y:z\n:\n", 0x20008},
        {"one:4294967000:65536\n", "", 100000},
        {"one:4294960000:7000\n", "", 0},
        {"one:165535:5000000000\n", "", 0},
        {"one:-5:9\none:5:-9\none:99999999999:5\n", "", 100000},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        put(0, cases[i].subuid);
        put(1, cases[i].subgid);
        found(&whole, &whole, cases[i].first, cases[i].first ? 65536 : 0);
    }
}

static void free_ids_exist_in_the_namespace(void)
{
    static const struct un_map small = {1, {{0, 200000, 65536}}};
    static const struct un_map parted = {3, {{0, 7, 1}, {1, 200000, 5000}, {9000, 300000, 500}}};
    static const struct un_map one = {1, {{0, 1000, 1}}};
    put(0, "");
    put(1, "");
    put(2, "anna:x:1000:1000::/:\nnobody:x:65534:65534::/:\nbad\n");
    put(3, "users:x:1234:\n");
    found(&small, &small, 1235, 65536 - 1235);
    put(1, "anna:2000:60000\n");
    found(&small, &small, 62000, 3536);
    found(&small, &parted, 1235, 765);
    found(&small, &one, 0, 0);
    found(&whole, &small, 62000, 3536);
}

static void unreadable_files_grant_nothing(void)
{
    put(0, "");
    CHECK_INT(unlink(file[1]), 0);
    found(&whole, &whole, 100000, 65536);
    CHECK_INT(mkfifo(file[1], 0600), 0);
    found(&whole, &whole, 100000, 65536);
    CHECK_INT(unlink(file[1]), 0);
    CHECK_INT(symlink(file[1], file[1]), 0);
    found(&whole, &whole, 0, 0);
}

int main(void)
{
    static const char *const names[] = {"subuid", "subgid", "passwd", "group"};
    CHECK(mkdtemp(dir) != NULL);
    for (int i = 0; i < 4; i++)
        snprintf(file[i], sizeof file[i], "%s/%s", dir, names[i]);
    free_ids_are_above_all_granted_ids();
    free_ids_exist_in_the_namespace();
    unreadable_files_grant_nothing();
    for (int i = 0; i < 4; i++)
        CHECK_INT(unlink(file[i]), 0);
    CHECK_INT(rmdir(dir), 0);
    return 0;
}
