/* Tests of the catalogue of causes. */
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

static void no_part_of_a_cause_is_taken_for_one(void)
{
    struct un_cause cause, other;
    CHECK(un_cause_find("multithreaded", &cause));
    CHECK(!un_cause_find(cause.why, &other));
    CHECK(!un_cause_find(cause.remedy, &other));
}

int main(void)
{
    a_cause_is_found_by_its_whole_id();
    no_part_of_a_cause_is_taken_for_one();
}
