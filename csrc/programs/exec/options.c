/* Parsing the command line of usernsctl-exec. Options that unshare(1) also has have the same names
 * and meanings. */
#include "base/base.h"
#include "programs/exec/exec.h"
#include "programs/shared/shared.h"

#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <sys/mount.h>

enum {
    OPT_MAP_USER = 256,
    OPT_MAP_GROUP,
    OPT_MAP_USERS,
    OPT_MAP_GROUPS,
    OPT_MAP_AUTO,
    OPT_MAP_SUBIDS,
    OPT_ALLOW_SINGLE_ID,
    OPT_SETGROUPS,
    OPT_KILL_CHILD,
    OPT_INIT,
    OPT_RERAISE_SIGNAL,
    OPT_MOUNT_PROC,
    OPT_PROPAGATION,
    OPT_KEEP_CAPS,
    OPT_HOLD,
    OPT_PRESERVE_FD,
    OPT_LAUNCH,
    OPT_RUN_AS,
    OPT_CHECK,
    OPT_LOG,
};

/* The + makes getopt_long(3) stop at the first argument that is not an option, because later
 * options belong to the command. */
static const char short_options[] = "+:UrcmnpiuCTfR:w:S:G:hV";

static const struct option long_options[] = {
    {"user", no_argument, NULL, 'U'},
    {"map-root-user", no_argument, NULL, 'r'},
    {"map-current-user", no_argument, NULL, 'c'},
    {"map-user", required_argument, NULL, OPT_MAP_USER},
    {"map-group", required_argument, NULL, OPT_MAP_GROUP},
    {"map-users", required_argument, NULL, OPT_MAP_USERS},
    {"map-groups", required_argument, NULL, OPT_MAP_GROUPS},
    {"map-auto", no_argument, NULL, OPT_MAP_AUTO},
    {"map-subids", no_argument, NULL, OPT_MAP_SUBIDS},
    {"allow-single-id", no_argument, NULL, OPT_ALLOW_SINGLE_ID},
    {"setgroups", required_argument, NULL, OPT_SETGROUPS},
    {"mount", no_argument, NULL, 'm'},
    {"net", no_argument, NULL, 'n'},
    {"pid", no_argument, NULL, 'p'},
    {"ipc", no_argument, NULL, 'i'},
    {"uts", no_argument, NULL, 'u'},
    {"cgroup", no_argument, NULL, 'C'},
    {"time", no_argument, NULL, 'T'},
    {"fork", no_argument, NULL, 'f'},
    {"kill-child", optional_argument, NULL, OPT_KILL_CHILD},
    {"init", no_argument, NULL, OPT_INIT},
    {"reraise-signal", no_argument, NULL, OPT_RERAISE_SIGNAL},
    {"mount-proc", optional_argument, NULL, OPT_MOUNT_PROC},
    {"propagation", required_argument, NULL, OPT_PROPAGATION},
    {"root", required_argument, NULL, 'R'},
    {"wd", required_argument, NULL, 'w'},
    {"setuid", required_argument, NULL, 'S'},
    {"setgid", required_argument, NULL, 'G'},
    {"keep-caps", no_argument, NULL, OPT_KEEP_CAPS},
    {"preserve-fd", required_argument, NULL, OPT_PRESERVE_FD},
    {"launch", required_argument, NULL, OPT_LAUNCH},
    {"run-as", required_argument, NULL, OPT_RUN_AS},
    {"check", no_argument, NULL, OPT_CHECK},
    {"log", required_argument, NULL, OPT_LOG},
    /* --help does not list this option, because only usernsctl uses it, to create named
     * namespaces. */
    {"hold", required_argument, NULL, OPT_HOLD},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static int fail_usage(struct un_error *err, const char *format, const char *option,
                      const char *value)
{
    return un_fail(err, UN_STEP_ARGUMENT, 0, "usage", format, option, value);
}

static int parse_number(const char *option, const char *text, int64_t most, int64_t *number,
                        struct un_error *err)
{
    uint64_t read = 0;
    const char *end = un_number_read(text, (uint64_t)most, &read);
    *number = (int64_t)read;
    if (!end || *end)
        return un_fail(err, UN_STEP_ARGUMENT, 0, "usage",
                       "%s: \"%.200s\" is not a number from 0 to %lld", option, text,
                       (long long)most);
    return 0;
}

static int parse_id(const char *option, const char *text, int64_t *id, struct un_error *err)
{
    return parse_number(option, text, UINT32_MAX - 1, id, err);
}

/* Names and numbers of signals, because some libcs lack sigabbrev_np(3). Real-time signals have no
 * names. */
static const struct {
    char name[8];
    int number;
} signals[] = {
    {"HUP", SIGHUP},   {"INT", SIGINT},       {"QUIT", SIGQUIT}, {"ILL", SIGILL},
    {"TRAP", SIGTRAP}, {"ABRT", SIGABRT},     {"BUS", SIGBUS},   {"FPE", SIGFPE},
    {"KILL", SIGKILL}, {"USR1", SIGUSR1},     {"SEGV", SIGSEGV}, {"USR2", SIGUSR2},
    {"PIPE", SIGPIPE}, {"ALRM", SIGALRM},     {"TERM", SIGTERM}, {"STKFLT", SIGSTKFLT},
    {"CHLD", SIGCHLD}, {"CONT", SIGCONT},     {"STOP", SIGSTOP}, {"TSTP", SIGTSTP},
    {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU},     {"URG", SIGURG},   {"XCPU", SIGXCPU},
    {"XFSZ", SIGXFSZ}, {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF}, {"WINCH", SIGWINCH},
    {"POLL", SIGPOLL}, {"PWR", SIGPWR},       {"SYS", SIGSYS},
};

static int parse_signal(const char *text, int *sig, struct un_error *err)
{
    int64_t number;
    if (*text >= '0' && *text <= '9') {
        if (parse_number("--kill-child", text, SIGRTMAX, &number, err))
            return -1;
        *sig = (int)number;
        if (*sig > 0)
            return 0;
    }
    const char *name = strncmp(text, "SIG", 3) ? text : text + 3;
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        *sig = signals[i].number;
        if (!strcmp(signals[i].name, name))
            return 0;
    }
    return fail_usage(err, "%s: \"%.200s\" is not a signal; try KILL or TERM", "--kill-child",
                      text);
}

static int map_self(struct un_options *options, int kind, const char *option, const char *text,
                    struct un_error *err)
{
    int64_t id;
    if (parse_id(option, text, &id, err))
        return -1;
    options->request.id[kind].map_self = true;
    options->request.id[kind].self = (uint32_t)id;
    return 0;
}

static void map_both(struct un_options *options, uint32_t uid, uint32_t gid)
{
    options->request.id[UN_UID].map_self = options->request.id[UN_GID].map_self = true;
    options->request.id[UN_UID].self = uid;
    options->request.id[UN_GID].self = gid;
}

static void fill_both(struct un_options *options, int fill)
{
    options->request.id[UN_UID].fill = options->request.id[UN_GID].fill = fill;
}

static int map_more(struct un_options *options, int kind, const char *text, struct un_error *err)
{
    static const struct {
        const char *name;
        int fill;
    } fills[] = {{"auto", UN_FILL_PACKED}, {"subids", UN_FILL_IDENTITY}, {"all", UN_FILL_ALL}};
    struct un_id_request *want = &options->request.id[kind];
    for (size_t i = 0; i < sizeof fills / sizeof fills[0]; i++)
        if (!strcmp(text, fills[i].name)) {
            want->fill = fills[i].fill;
            return 0;
        }
    struct un_extent extent;
    if (un_extent_parse(text, &extent, err))
        return -1;
    return un_map_add(&want->more, extent, err);
}

static int parse_setgroups(const char *text, int *setgroups, struct un_error *err)
{
    if (!strcmp(text, "allow"))
        *setgroups = UN_SETGROUPS_ALLOW;
    else if (!strcmp(text, "deny"))
        *setgroups = UN_SETGROUPS_DENY;
    else
        return fail_usage(err, "%s: \"%.200s\" is not allow or deny", "--setgroups", text);
    return 0;
}

static int parse_propagation(const char *text, struct un_options *options, struct un_error *err)
{
    static const struct {
        const char *name;
        unsigned long flag;
    } modes[] = {
        {"private", MS_PRIVATE}, {"shared", MS_SHARED}, {"slave", MS_SLAVE}, {"unchanged", 0}};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (!strcmp(text, modes[i].name)) {
            options->propagation = modes[i].flag;
            return 0;
        }
    return fail_usage(err, "%s: \"%.200s\" is not private, shared, slave or unchanged",
                      "--propagation", text);
}

static int parse_log(const char *text, struct un_options *options, struct un_error *err)
{
    options->log_json = !strcmp(text, "json");
    if (options->log_json || !strcmp(text, "text"))
        return 0;
    return fail_usage(err, "%s: \"%.200s\" is not text or json", "--log", text);
}

static int parse_fd(const char *option, const char *text, int *fd, struct un_error *err)
{
    int64_t number;
    if (parse_number(option, text, INT_MAX, &number, err))
        return -1;
    *fd = (int)number;
    return 0;
}

/* Rejects an empty string, which is often the value of an unset shell variable. */
static int parse_directory(const char *option, const char *text, const char **directory,
                           struct un_error *err)
{
    *directory = text;
    if (*text)
        return 0;
    return fail_usage(err, "%s: the value must be a directory, not \"%s\"", option, text);
}

static int add_keep(struct un_options *options, const char *text, struct un_error *err)
{
    int fd;
    if (parse_fd("--preserve-fd", text, &fd, err))
        return -1;
    size_t at = options->keep_count;
    while (at > 0 && options->keep[at - 1] > fd)
        at--;
    if (at > 0 && options->keep[at - 1] == fd)
        return 0;
    if (options->keep_count == UN_KEEP_MAX)
        return fail_usage(err, "%s: too many descriptors at %s", "--preserve-fd", text);
    memmove(&options->keep[at + 1], &options->keep[at],
            (options->keep_count - at) * sizeof options->keep[0]);
    options->keep[at] = fd;
    options->keep_count++;
    return 0;
}

static bool add_namespace(struct un_options *options, int letter)
{
    static const char letters[UN_NS_COUNT + 1] = "UmnpiuCT";
    /* Exclude the values of long options, which strchr() would convert to char. */
    const char *found = letter < 128 ? strchr(letters, letter) : NULL;
    if (!found)
        return false;
    int ns = (int)(found - letters);
    if (ns == UN_NS_USER)
        options->user = true;
    else
        options->flags |= un_ns_flag(ns);
    return true;
}

/* Handles an option about id maps. Returns 0, or -1 with the error in `err`. Returns 1 for any
 * other option. */
static int take_map_option(struct un_options *options, int option, struct un_error *err)
{
    switch (option) {
    case 'r':
        map_both(options, 0, 0);
        return 0;
    case 'c':
        map_both(options, geteuid(), getegid());
        return 0;
    case OPT_MAP_USER:
        return map_self(options, UN_UID, "--map-user", optarg, err);
    case OPT_MAP_GROUP:
        return map_self(options, UN_GID, "--map-group", optarg, err);
    case OPT_MAP_USERS:
        return map_more(options, UN_UID, optarg, err);
    case OPT_MAP_GROUPS:
        return map_more(options, UN_GID, optarg, err);
    case OPT_MAP_AUTO:
        fill_both(options, UN_FILL_PACKED);
        return 0;
    case OPT_MAP_SUBIDS:
        fill_both(options, UN_FILL_IDENTITY);
        return 0;
    case OPT_ALLOW_SINGLE_ID:
        options->request.allow_single_id = true;
        return 0;
    case OPT_SETGROUPS:
        return parse_setgroups(optarg, &options->request.setgroups, err);
    default:
        return 1;
    }
}

/* Handles an option that concerns neither namespaces nor id maps. Returns 0, or -1 with the error
 * in `err`. */
static int take_option(struct un_options *options, int option, struct un_error *err)
{
    switch (option) {
    case 'f':
        options->fork = true;
        return 0;
    case OPT_KILL_CHILD:
        options->fork = true;
        return optarg ? parse_signal(optarg, &options->kill_child, err) : 0;
    case OPT_INIT:
        options->init = true;
        options->flags |= un_ns_flag(UN_NS_PID);
        return 0;
    case OPT_RERAISE_SIGNAL:
        options->reraise_signal = true;
        return 0;
    case OPT_MOUNT_PROC:
        options->flags |= un_ns_flag(UN_NS_MOUNT);
        return parse_directory("--mount-proc", optarg ? optarg : "/proc",
                               &options->setup.mount_proc, err);
    case OPT_PROPAGATION:
        return parse_propagation(optarg, options, err);
    case 'R':
        return parse_directory("--root", optarg, &options->setup.root, err);
    case 'w':
        options->setup.cwd = optarg;
        return 0;
    case 'S':
        return parse_id("--setuid", optarg, &options->setup.uid, err);
    case 'G':
        return parse_id("--setgid", optarg, &options->setup.gid, err);
    case OPT_KEEP_CAPS:
        options->setup.keep_caps = true;
        return 0;
    case OPT_HOLD:
        return parse_fd("--hold", optarg, &options->hold, err);
    case OPT_PRESERVE_FD:
        return add_keep(options, optarg, err);
    case OPT_LAUNCH:
        options->launch = optarg;
        return 0;
    case OPT_RUN_AS:
        options->run_as = optarg;
        return 0;
    case OPT_CHECK:
        options->check = true;
        return 0;
    case OPT_LOG:
        return parse_log(optarg, options, err);
    case 'h':
        options->action = UN_HELP;
        return 0;
    case 'V':
        options->action = UN_VERSION;
        return 0;
    default:
        return fail_usage(err, "option %s is not handled%s", "?", "");
    }
}

static bool is_letter(int letter)
{
    return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
}

/* Sets `err` for an option that getopt_long() has rejected. `word` is the argument that contains
 * the option. Returns -1. */
static int refuse_exec_option(int option, const char *word, struct un_error *err)
{
    if (option == ':')
        return fail_usage(err, "option %s needs a value%s", word, "");
    /* getopt_long() sets optopt to the letter of an unknown short option, to 0 for an unknown long
     * option, or to the value of a long option that was given an argument but takes none. */
    if (optopt == 0)
        return fail_usage(err, "there is no option %s%s; see --help", word, "");
    if (optopt > UCHAR_MAX || (is_letter(optopt) && strchr(short_options, optopt)))
        return fail_usage(err, "%s: the option takes no value%s", word, "");
    char name[] = {'-', (char)optopt, '\0'};
    return fail_usage(err, "there is no option %s%s; see --help", name, "");
}

/* Handles one option. `word` is the argument that getopt_long() has just parsed. Returns 0, or -1
 * with the error in `err`. */
static int take_one_option(struct un_options *options, int option, const char *word,
                           struct un_error *err)
{
    if (option == ':' || option == '?')
        return refuse_exec_option(option, word, err);
    if (add_namespace(options, option))
        return 0;
    int taken = take_map_option(options, option, err);
    return taken == 1 ? take_option(options, option, err) : taken;
}

static bool maps_anything(const struct un_request *request)
{
    for (int kind = UN_UID; kind <= UN_GID; kind++)
        if (request->id[kind].map_self || request->id[kind].more.len || request->id[kind].fill)
            return true;
    return false;
}

/* Sets the options that other options imply. */
static void conclude_options(struct un_options *options)
{
    if (!options->user && !maps_anything(&options->request))
        map_both(options, 0, 0);
    if (options->flags & un_ns_flag(UN_NS_PID))
        options->fork = true;
    if (options->flags & un_ns_flag(UN_NS_MOUNT))
        options->setup.propagation = options->propagation;
}

/* Returns whether an option may be combined with --launch. */
static bool is_of_launch(int option)
{
    return option == OPT_LAUNCH || option == OPT_RUN_AS || option == OPT_CHECK ||
           option == OPT_LOG || option == OPT_RERAISE_SIGNAL;
}

int un_options_parse(int argc, char **argv, struct un_options *options, struct un_error *err)
{
    memset(options, 0, sizeof *options);
    un_setup_init(&options->setup);
    options->kill_child = SIGKILL;
    options->hold = -1;
    options->propagation = MS_PRIVATE;

    opterr = 0;
    /* Set optind to 0, which reinitializes getopt_long(3), because this function is called again
     * for the options in a launch file. */
    optind = 0;
    int option;
    bool has_others = false;
    while ((option = getopt_long(argc, argv, short_options, long_options, NULL)) != -1) {
        /* Limit the index to argc, because musl, unlike glibc, increments optind beyond argc if the
         * last option lacks its value. */
        const char *word = argv[(optind > argc ? argc : optind) - 1];
        if (take_one_option(options, option, word, err))
            return -1;
        has_others |= !is_of_launch(option);
        if (options->action != UN_RUN)
            return 0;
    }
    options->command = (const char *const *)argv + optind;
    if (options->launch && has_others)
        return fail_usage(err,
                          "%s excludes all options except --check, --log, --reraise-signal "
                          "and --run-as%s",
                          "--launch", "");
    if (options->launch)
        return 0;
    if (options->check || options->run_as)
        return fail_usage(err, "%s needs %s", options->check ? "--check" : "--run-as",
                          "--launch FILE");
    if (optind == argc && options->hold < 0)
        return fail_usage(err, "no command was given: %s%s", "usernsctl-exec [OPTIONS] -- COMMAND",
                          "");
    if (optind < argc && options->hold >= 0 && strcmp(argv[optind], UN_NETWORK) != 0)
        return fail_usage(err, "a named namespace is created without a command: leave out %s%s",
                          argv[optind], "");
    /* Reject a new network namespace, because --net private would start usernsctl-network in the
     * new namespace, from which it can't reach the host's network. */
    if (optind < argc && options->hold >= 0 && options->flags & un_ns_flag(UN_NS_NET))
        return fail_usage(err, "%s and %s exclude each other", "--net private", "--net (-n)");
    conclude_options(options);
    return 0;
}
