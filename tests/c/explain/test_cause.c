/* The list of causes. */
#include "check.h"

static void a_cause_is_found_by_its_whole_id(void)
{
    const struct un_cause *cause = un_cause_find("multithreaded");
    CHECK(cause != NULL);
    CHECK_TEXT(cause->id, "multithreaded");
    CHECK(*cause->why && *cause->remedy);
    CHECK(un_cause_find("multi") == NULL);
    CHECK(un_cause_find("") == NULL);
    CHECK(un_cause_find(NULL) == NULL);
}

int main(void)
{
    a_cause_is_found_by_its_whole_id();
}
