#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"

/* Parses the option UN_START_TIMEOUT. Returns false if `word` is a different argument, or if the
 * value is malformed. */
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

/* Parses an option of usernsctl-watch. Returns 1, or 0 if `word` is not an option, or -1 if the
 * value is malformed. */
static int read_option(const char *word, struct watch_args *args)
{
    bool is_right = true;
    if (!strcmp(word, UN_RERAISE_SIGNAL))
        args->reraise_signal = true;
    else if (!strcmp(word, UN_TERMINAL))
        args->has_terminal = true;
    else if (un_begins(word, UN_LIMITS))
        is_right = limits_parse(word + strlen(UN_LIMITS), &args->limits);
    else if (un_begins(word, UN_MAX_OUTPUT))
        is_right = pump_parse(word + strlen(UN_MAX_OUTPUT), &args->pump);
    else if (un_begins(word, UN_DENIED))
        is_right = result_parse_denied(word + strlen(UN_DENIED), &args->result_file);
    else if (un_begins(word, UN_RESULT))
        is_right = result_parse(word + strlen(UN_RESULT), &args->result_file);
    else
        return !strcmp(word, UN_LOG_JSON) || read_start_timeout(word, &args->start.seconds);
    return is_right ? 1 : -1;
}

bool split_watch_args(int argc, char **argv, struct watch_args *args)
{
    char **start[3] = {NULL, NULL, NULL};
    int found = 0, option = 0;
    *args = (struct watch_args){
        .start = {.seconds = START_SECONDS},
        .pump = {.pidfd = -1},
        .network = -1,
        .result_file = {.denied = -1},
    };
    for (; argc > 2 && (option = read_option(argv[1], args)); argc--, argv++)
        if (option < 0)
            return false;
    for (int i = 2; i < argc && found < 3; i++)
        if (!strcmp(argv[i], "--")) {
            argv[i] = NULL;
            start[found++] = argv + i + 1;
        }
    args->program = argv[1];
    args->files = argv + 2;
    args->kill = start[0];
    args->raise = start[1];
    args->command = start[2];
    sandbox_group_init(&args->group);
    return found == 3 && args->kill - args->files == FILES + 1 && *args->command &&
           args->raise - args->kill < KILL_MAX && args->command - args->raise < KILL_MAX;
}
