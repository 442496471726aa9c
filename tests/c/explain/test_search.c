/* Tests of searching a text for messages of the catalogue, and of ranking the causes of these
 * messages. */
#include "check.h"
#include "explain/explain.h"

#include <time.h>

static const char two_causes[] = "pivot_root failed, make sure that the root mount has a parent";

/* Checks which causes are found in a text, whose pieces are `pieces`. `want` contains the ids of
 * the expected causes, likeliest first, each after a space. */
static void causes_are(const char *const pieces[], size_t count, const char *want)
{
    struct un_search search = {.count = 0};
    const char *ids[UN_CAUSES_MAX];
    char got[4096] = "";
    for (size_t i = 0; i < count; i++)
        un_search_add(&search, pieces[i], strlen(pieces[i]));
    size_t found = un_search_causes(&search, ids);
    for (size_t i = 0; i < found; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), " %s", ids[i]);
    CHECK_TEXT(got, want);
}

static void messages_with_few_causes_come_first(void)
{
    struct un_search search = {.count = 0};
    const char *ids[UN_CAUSES_MAX];
    char text[200];
    snprintf(text, sizeof text, "%s\ncontainer already exists, waiting for sandbox to start: EOF",
             two_causes);
    un_search_add_messages(&search, text, strlen(text));
    CHECK(un_search_causes(&search, ids) > 4);
    CHECK_TEXT(ids[0], "duplicate-id");
    CHECK_TEXT(ids[1], "mount-denied");
    CHECK_TEXT(ids[2], "in-chroot");
    CHECK_TEXT(ids[3], "nonroot-in-namespace");
    causes_are(NULL, 0, "");
}

static void each_message_is_found_once(void)
{
    static const char text[] = "x\ncontainer already exists, container already exists";
    struct un_search search = {.count = 0};
    un_search_add(&search, text, sizeof text - 1);
    un_search_add(&search, text, sizeof text - 1);
    CHECK_INT((long long)search.count, 1);
    CHECK_INT((long long)search.occurrence[0].at, 2);
    CHECK_INT((long long)search.occurrence[0].count, 1);
    CHECK_TEXT(search.occurrence[0].causes, "duplicate-id");
    CHECK(!search.occurrence[0].is_hint);
}

static void messages_are_found_in_any_piece(void)
{
    const char *const pieces[] = {"container already exists", "[map-invalid]", two_causes};
    causes_are(pieces, 3, " duplicate-id map-invalid mount-denied in-chroot");
}

static void hints_reorder_causes(void)
{
    const char *const denied[] = {"Creating new namespace failed: Permission denied",
                                  "Ubuntu 24.04"};
    const char *const exec[] = {"Ubuntu 24.04",
                                "failed to reexec: Permission denied\n[map-invalid]"};
    causes_are(denied + 1, 1, "");
    causes_are(denied, 2, " apparmor-restricts-userns lsm-denies-userns");
    causes_are(exec, 2, " apparmor-restricts-userns map-invalid lsm-denies-userns");
}

static void any_bytes_are_accepted(void)
{
    static const char text[] = "\0\xff[in-chroot\0]container already exists\xf0\x9f\0";
    struct un_search search = {.count = 0};
    un_search_add(&search, text, sizeof text - 1);
    CHECK_INT((long long)search.count, 2);
    CHECK_TEXT(search.occurrence[0].causes, "in-chroot");
    CHECK_TEXT(search.occurrence[1].causes, "duplicate-id");
    CHECK_INT((long long)search.occurrence[1].at, 14);
    /* Bytes after the end of the text are not searched. */
    search.count = 0;
    un_search_add(&search, "container already exists", 23);
    un_search_add(&search, "[in-chroot]", 9);
    un_search_add(&search, "cause: in-chroot", 6);
    un_search_add(&search, "", 0);
    CHECK_INT((long long)search.count, 0);
}

/* Returns the CPU time of a search for messages in `text`, which contains none. */
static clock_t search_time(const char *text, size_t size)
{
    struct un_search search = {.count = 0};
    clock_t start = clock();
    un_search_add(&search, text, size);
    CHECK_INT((long long)search.count, 0);
    return clock() - start;
}

/* Checks that the time of a search grows only linearly with the length of the text: a text that is
 * 16 times as long would take 256 times as long if the time grew quadratically. */
static void no_text_takes_superlinear_time(void)
{
    static const char *const parts[] = {
        "[",
        "[a",
        "[in-chroo",
        "cause: \"a",
        "a-",
        "unshare ",
        "unshare mount: ",
        "mounting \"proc\" to rootfs ",
        "mounting \\\\\\\\\\\\\\\"",
        "apparmor=\"DENIED\" ",
        "runsc: runsc",
        "lchown /",
        "\x80",
        "\xf0\x9f\x98",
        "",
    };
    static char text[1 << 18];
    for (size_t i = 0; i < COUNT(parts); i++) {
        size_t length = strlen(parts[i]);
        for (size_t at = 0; at < sizeof text; at++)
            text[at] = length ? parts[i][at % length] : '\0';
        CHECK(search_time(text, sizeof text) < 64 * search_time(text, sizeof text / 16));
    }
}

int main(void)
{
    messages_with_few_causes_come_first();
    each_message_is_found_once();
    messages_are_found_in_any_piece();
    hints_reorder_causes();
    any_bytes_are_accepted();
    no_text_takes_superlinear_time();
}
