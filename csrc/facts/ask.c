/* Running system programs such as getent(1) to look up users, because a static program can't load
 * NSS modules (nsswitch.conf(5)). */
#include "base/base.h"
#include "facts/facts.h"
#include "sys/sys.h"

#include <signal.h>

#define ASK_TIMEOUT_MS 10000

/* Checks the file type, too, because access(2) with X_OK also succeeds for a directory that this
 * process may search. */
bool un_is_program(const char *path, struct stat *status)
{
    return !stat(path, status) && S_ISREG(status->st_mode) && !access(path, X_OK);
}

bool un_find_program(const char *path, const char *name, char found[UN_PATH_MAX],
                     struct stat *status)
{
    while (un_next_candidate(&path, name, found))
        if (*found == '/' && un_is_program(found, status))
            return true;
    found[0] = '\0';
    return false;
}

bool un_find_unusable(const char *path, const char *name, char found[UN_PATH_MAX])
{
    struct stat status;
    while (un_next_candidate(&path, name, found))
        if (*found == '/' && !stat(found, &status) && S_ISREG(status.st_mode))
            return true;
    found[0] = '\0';
    return false;
}

const char *un_ask(const char *path, const char *const words[], char *output, size_t size)
{
    char program[UN_PATH_MAX];
    const char *argv[4] = {program, words[1], words[1] ? words[2] : NULL, NULL};
    struct un_job job = {.argv = argv, .output = output, .output_size = size};
    struct un_error err;
    struct stat status;
    if (!un_find_program(path, words[0], program, &status) ||
        un_run_jobs(&job, 1, ASK_TIMEOUT_MS, &err))
        return NULL;
    bool answered = !job.timed_out && !job.stopped_by && job.ended == CLD_EXITED && job.status == 0;
    return answered ? output : NULL;
}
