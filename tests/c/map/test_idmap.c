/* Tests of extents and id maps: parsing, checking, and formatting for the kernel. */
#include "check.h"

#include <fcntl.h>
#include <unistd.h>

static struct un_error err;

static void well_formed_extents_are_read(void)
{
    static const struct {
        const char *text;
        struct un_extent want;
    } cases[] = {
        {"0:0:1", {0, 0, 1}},
        {"0:100000:65536", {0, 100000, 65536}},
        {"0:0:4294967295", {0, 0, 4294967295}},
        {"4294967294:4294967294:1", {4294967294, 4294967294, 1}},
        {"007:08:0010", {7, 8, 10}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct un_extent got;
        CHECK_OK(un_extent_parse(cases[i].text, &got, &err), &err);
        CHECK_INT(got.inside, cases[i].want.inside);
        CHECK_INT(got.outside, cases[i].want.outside);
        CHECK_INT(got.count, cases[i].want.count);
    }
}

static void malformed_extents_are_refused(void)
{
    static const char form[] = "is not an extent, inside:outside:count";
    static const struct {
        const char *text;
        const char *says;
    } cases[] = {
        {"", form},
        {"0", form},
        {"0:0", form},
        {"0:0:", form},
        {":0:1", form},
        {"0::1", form},
        {"0:0:1:", form},
        {"0:0:1:2", form},
        {"a:b:c", form},
        {"0x0:0:1", form},
        {"0,0,1", form},
        {"0 0 1", form},
        {"+0:0:1", form},
        {"-1:0:1", form},
        {"0:0:-1", form},
        {" 0:0:1", form},
        {"0:0:1 ", form},
        {"0:0:1\n", form},
        {"0:0:4294967296", form},
        {"18446744073709551616:0:1", form},
        {"0:0:0", "the count must be 1 or more"},
        {"4294967295:0:1", "goes past 4294967294"},
        {"4294967295:0:2", "goes past 4294967294"},
        {"0:4294967295:1", "goes past 4294967294"},
        {"1:0:4294967295", "goes past 4294967294"},
        {"0:4294967294:2", "goes past 4294967294"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct un_extent extent;
        CHECK_INT(un_extent_parse(cases[i].text, &extent, &err), -1);
        CHECK_INT(err.step, UN_STEP_ARGUMENT);
        CHECK_TEXT(err.cause, "map-invalid");
        CHECK_HAS(err.detail, cases[i].says);
    }
}

static void errors_quote_no_more_than_fits(void)
{
    char text[4096];
    struct un_extent extent;
    memset(text, '1', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    CHECK_INT(un_extent_parse(text, &extent, &err), -1);
    CHECK_HAS(err.detail, "such as 0:100000:65536");
}

static struct un_map map_of(const struct un_extent *extents, uint32_t count)
{
    struct un_map map = {.len = 0};
    for (uint32_t i = 0; i < count; i++)
        CHECK_OK(un_map_add(&map, extents[i], &err), &err);
    return map;
}

/* Returns a map of `count` extents with one id each, whose numbers have as many digits as
 * possible. */
static struct un_map longest_map(uint32_t count)
{
    struct un_map map = {.len = 0};
    for (uint32_t i = 0; i < count; i++)
        CHECK_OK(un_map_add(&map, (struct un_extent){4000000000 + i, 4100000000 + i, 1}, &err),
                 &err);
    return map;
}

static void a_map_holds_340_extents(void)
{
    struct un_map map = longest_map(UN_MAP_MAX);
    CHECK_INT(un_map_add(&map, (struct un_extent){0, 0, 1}, &err), -1);
    CHECK_HAS(err.detail, "no more than 340 extents");
    CHECK_INT(map.len, UN_MAP_MAX);
}

static void maps_that_the_kernel_refuses_are_refused(void)
{
    static const struct {
        struct un_extent extent[3];
        uint32_t len;
        const char *says; /* expected part of the error's detail; NULL if the map is valid */
    } cases[] = {
        {{{0, 1000, 1}}, 1, NULL},
        {{{0, 1000, 1}, {1, 100000, 65536}}, 2, NULL},
        {{{10, 30, 10}, {0, 20, 10}, {20, 0, 10}}, 3, NULL},
        {{{0, 0, 1}}, 0, "the map is empty"},
        {{{0, 0, 2}, {1, 10, 1}}, 2, "0:0:2 and 1:10:1 overlap inside"},
        {{{1, 10, 1}, {0, 0, 2}}, 2, "1:10:1 and 0:0:2 overlap inside"},
        {{{0, 0, 9}, {20, 8, 1}}, 2, "0:0:9 and 20:8:1 overlap outside"},
        {{{0, 0, 1}, {0, 0, 1}}, 2, "overlap inside"},
        {{{0, 10, 100}, {200, 50, 1}, {300, 300, 1}}, 3, "overlap outside"},
        {{{0, 0, 4294967295}, {4294967294, 5, 1}}, 2, "overlap inside"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct un_map map = map_of(cases[i].extent, cases[i].len);
        int result = un_map_check(&map, UN_MAP_MAX, 4096, &err);
        CHECK_INT(result, cases[i].says ? -1 : 0);
        if (cases[i].says) {
            CHECK_HAS(err.detail, cases[i].says);
            CHECK_TEXT(err.cause, "map-invalid");
        }
    }
}

static void limits_are_those_of_the_kernel(void)
{
    struct un_map six = longest_map(6);
    CHECK_OK(un_map_check(&six, 6, 4096, &err), &err);
    CHECK_INT(un_map_check(&six, 5, 4096, &err), -1);
    CHECK_HAS(err.detail, "has 6 extents; this kernel allows at most 5");

    /* A line has 24 bytes, so 170 lines are shorter than a page of 4096 bytes, but 171 are not. */
    struct un_map fits = longest_map(170);
    struct un_map page = longest_map(171);
    CHECK_OK(un_map_check(&fits, UN_MAP_MAX, 4096, &err), &err);
    CHECK_INT(un_map_check(&page, UN_MAP_MAX, 4096, &err), -1);
    CHECK_HAS(err.detail, "4104 bytes as text");
    CHECK_OK(un_map_check(&page, UN_MAP_MAX, 65536, &err), &err);
    /* A text of exactly one page is too long: user_namespaces(7) says "less than". */
    CHECK_INT(un_map_check(&fits, UN_MAP_MAX, 170 * 24, &err), -1);
    CHECK_OK(un_map_check(&fits, UN_MAP_MAX, 170 * 24 + 1, &err), &err);
}

static void a_map_is_written_as_the_kernel_reads_it(void)
{
    static const struct un_extent extents[] = {{0, 1000, 1}, {1, 100000, 65536}};
    static char text[UN_MAP_TEXT_MAX];
    struct un_map map = map_of(extents, COUNT(extents));
    CHECK_INT((long long)un_map_format(&map, text), 24);
    CHECK_TEXT(text, "0 1000 1\n1 100000 65536\n");
    map.len = 0;
    CHECK_INT((long long)un_map_format(&map, text), 0);
    CHECK_TEXT(text, "");

    /* The longest possible map fills the buffer of un_map_format() completely. */
    for (map.len = 0; map.len < UN_MAP_MAX; map.len++)
        map.extent[map.len] = (struct un_extent){UINT32_MAX, UINT32_MAX, UINT32_MAX};
    CHECK_INT((long long)un_map_format(&map, text), UN_MAP_TEXT_MAX - 1);
}

static void the_kernels_text_is_read_back(void)
{
    struct un_map map;
    CHECK_OK(un_map_parse("         0       1000          1\n"
                          "         1     100000      65536\n",
                          &map, &err),
             &err);
    CHECK_INT(map.len, 2);
    CHECK_INT(map.extent[1].inside, 1);
    CHECK_INT(map.extent[1].outside, 100000);
    CHECK_INT(map.extent[1].count, 65536);
    CHECK_OK(un_map_parse("", &map, &err), &err);
    CHECK_INT(map.len, 0);
    CHECK_OK(un_map_parse("0\t0 4294967295", &map, &err), &err);
    CHECK_INT(map.extent[0].count, 4294967295);

    static const char *const bad[] = {"0 0\n", "0 0 1 1\n", "\n", "x 0 1\n", "0 0 1\n0 1\n"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        CHECK_INT(un_map_parse(bad[i], &map, &err), -1);
        CHECK_HAS(err.detail, "is not a line of a map");
    }
    CHECK_INT(un_map_parse("0 0 0\n", &map, &err), -1);
}

static void the_map_of_this_process_is_read_from_proc(void)
{
    struct un_map map;
    int self = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK(self >= 0);
    CHECK_OK(un_map_read(self, "uid_map", &map, &err), &err);
    CHECK(map.len >= 1);
    CHECK(un_map_find(&map, UN_INSIDE, geteuid()));
    CHECK_INT(un_map_read(self, "no-such-map", &map, &err), -1);
    CHECK_INT(err.step, UN_STEP_FACTS);
    CHECK_TEXT(err.detail, "no-such-map");
    close(self);
}

static void an_id_is_mapped_or_not(void)
{
    static const struct un_extent extents[] = {{5, 0, 3}, {4294967294, 10, 1}};
    struct un_map map = map_of(extents, COUNT(extents));
    static const struct {
        uint32_t id;
        bool mapped;
    } cases[] = {{4, false},          {5, true},          {7, true},          {8, false},
                 {4294967293, false}, {4294967294, true}, {UINT32_MAX, false}};
    for (size_t i = 0; i < COUNT(cases); i++)
        CHECK_INT(un_map_find(&map, UN_INSIDE, cases[i].id) != NULL, cases[i].mapped);
}

int main(void)
{
    well_formed_extents_are_read();
    malformed_extents_are_refused();
    errors_quote_no_more_than_fits();
    a_map_holds_340_extents();
    maps_that_the_kernel_refuses_are_refused();
    limits_are_those_of_the_kernel();
    a_map_is_written_as_the_kernel_reads_it();
    the_kernels_text_is_read_back();
    the_map_of_this_process_is_read_from_proc();
    an_id_is_mapped_or_not();
}
