#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"

/* Reads the value of UN_START_TIMEOUT. Returns false for another word. */
static bool read_start_timeout(const char *word, uint32_t *seconds)
{
    uint64_t number;
    if (!un_begins(word, UN_START_TIMEOUT))
        return false;
    const char *end = un_number_read(word + strlen(UN_START_TIMEOUT), START_SECONDS_MAX, &number);
    if (!end || *end)
        return false;
    *seconds = (uint32_t)number;
    return true;
}

bool split_watch_args(int argc, char **argv, struct watch_args *args)
{
    char **start[3] = {NULL, NULL, NULL};
    int found = 0;
    bool reraise_signal = false, has_terminal = false;
    uint32_t start_seconds = START_SECONDS;
    struct un_limits limits = {.memory = 0};
    for (; argc > 2; argc--, argv++)
        if (!strcmp(argv[1], UN_RERAISE_SIGNAL))
            reraise_signal = true;
        else if (!strcmp(argv[1], UN_TERMINAL))
            has_terminal = true;
        else if (!strcmp(argv[1], UN_LOG_JSON) || read_start_timeout(argv[1], &start_seconds))
            continue;
        else if (!un_begins(argv[1], UN_LIMITS))
            break;
        else if (!limits_parse(argv[1] + sizeof UN_LIMITS - 1, &limits))
            return false;
    for (int i = 2; i < argc && found < 3; i++)
        if (!strcmp(argv[i], "--")) {
            argv[i] = NULL;
            start[found++] = argv + i + 1;
        }
    *args = (struct watch_args){
        .program = argv[1],
        .files = argv + 2,
        .kill = start[0],
        .raise = start[1],
        .command = start[2],
        .has_terminal = has_terminal,
        .reraise_signal = reraise_signal,
        .start = {.seconds = start_seconds},
        .limits = limits,
        .network = -1,
    };
    return found == 3 && args->kill - args->files == FILES + 1 && *args->command &&
           args->raise - args->kill < KILL_MAX && args->command - args->raise < KILL_MAX;
}
