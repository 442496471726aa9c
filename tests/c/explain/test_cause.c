/* Tests of looking up causes in the catalogue. */
#include "check.h"

static void a_cause_is_found_by_its_whole_id(void)
{
    struct un_cause cause;
    CHECK(un_cause_find("multithreaded", &cause));
    CHECK_TEXT(cause.id, "multithreaded");
    CHECK(*cause.why && *cause.remedy);
    CHECK(!un_cause_find("multi", &cause));
    CHECK(!un_cause_find("", &cause));
    CHECK(!un_cause_find(NULL, &cause));
}

static void a_part_of_an_id_is_no_cause(void)
{
    struct un_cause cause, other;
    CHECK(un_cause_find("multithreaded", &cause));
    CHECK(!un_cause_find(cause.why, &other));
    CHECK(!un_cause_find(cause.remedy, &other));
}

int main(void)
{
    a_cause_is_found_by_its_whole_id();
    a_part_of_an_id_is_no_cause();
}
