/* Tests of choosing the user of a command by --run-as. */
#include "check.h"
#include "programs/exec/exec.h"

/* Static, because the structure does not fit a small stack. */
static struct un_launch launch;

static void numbers_are_set_before_namespaces_are_entered(void)
{
    static const struct {
        const char *run_as;
        uint32_t uid, gid;
    } cases[] = {{"7", 7, 7}, {"7:8", 7, 8}, {"4294967294:0", 4294967294, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct launch_params params = {.cwd = ""};
        struct un_error err;
        CHECK_OK(un_launch_params_set_user(&launch, cases[i].run_as, &params, &err), &err);
        CHECK(params.base.id[UN_UID] == cases[i].uid);
        CHECK(params.base.id[UN_GID] == cases[i].gid);
        CHECK(!params.account && !params.base.group_count);
        un_launch_params_free(&params);
    }
}

static void names_are_resolved_later(void)
{
    static const char *const names[] = {"app", "app:7", "7:app"};
    for (size_t i = 0; i < COUNT(names); i++) {
        struct launch_params params = {.cwd = ""};
        struct un_error err;
        CHECK_OK(un_launch_params_set_user(&launch, names[i], &params, &err), &err);
        CHECK(params.account != NULL);
        un_launch_params_free(&params);
    }
}

int main(void)
{
    launch.of_verb[UN_VERB_JSON_USER] = 1;
    numbers_are_set_before_namespaces_are_entered();
    names_are_resolved_later();
    return 0;
}
