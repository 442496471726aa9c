/*
 * usernsctl-entrypoint is the first program of a container, and runs other programs in gVisor. The
 * program has two names:
 *
 * in-gvisor [OPTION]... [--] CMD [ARGUMENT]... is like `usernsctl run` on the container's files.
 *
 * usernsctl [ARGUMENT]... is usernsctl itself.
 *
 * Users who can set environment variables of a container, or mount files in it, must not be able to
 * choose the code that runs outside of gVisor. So this program is statically linked, because a
 * dynamic loader obeys environment variables, and it executes only programs in its own directory.
 *
 * One program in that directory is usernsctl-exec, which is statically linked, too. usernsctl-exec
 * performs a launch file, which was written when the image was built, and contains all decisions
 * about the start of a sandbox. usernsctl-exec passes the container's environment to the command in
 * gVisor, but does not use this environment itself. Without a launch file, usernsctl-entrypoint
 * starts Python with a clean environment, and passes the container's environment in a memfd.
 *
 * What the command may access is decided only by the options of in-gvisor.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <getopt.h>
#include <limits.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* flag of memfd_create(2), since Linux 6.3 */
#endif

/* Exit status after a failure of this program. 126 and 127 mean that the command can't be executed
 * or does not exist. */
#define FAILED 125
#define CLI "usernsctl"
#define SELF "in-gvisor"
/* Path of the launch file for the default options of in-gvisor. */
#define LAUNCH "/etc/usernsctl/launch"
/* Suffixes to LAUNCH in the paths of the launch files for other options. */
#define NO_NETWORK ".no-network"
#define PRIVATE_NETWORK ".private-network"
#define ALL_IDS ".all-ids"
/* Maximum number of elements, including the final NULL, that this program adds to the caller's
 * arguments. */
#define OWN_WORDS_MAX 24
/* Maximum length in bytes of the value of TERM, without the NUL. */
#define TERM_MAX 64

extern char **environ;

static const char help[] =
    "Usage: " SELF " [OPTIONS] [--] COMMAND [ARGUMENT...]\n"
    "\n"
    "Runs COMMAND in gVisor. COMMAND sees the files of this container, read-only\n"
    "under an overlay in memory, and has the environment of the container. In\n"
    "ENTRYPOINT, use the absolute path of this program.\n"
    "\n"
    "      --network=host|none|private\n"
    "                           the container's network (the default), none, or a\n"
    "                           network of COMMAND's own, which reaches other\n"
    "                           machines, but not the container\n"
    "      --ids=one|all        the ids in the sandbox: the id of the caller (the\n"
    "                           default), or its subordinate ids, too\n"
    "      --user=USER[:GROUP]  the user of COMMAND inside (0 by default): numbers,\n"
    "                           or names in the container's /etc/passwd and\n"
    "                           /etc/group. The ids stand for the caller's ids;\n"
    "                           with --ids=all, the ids must be mapped\n"
    "      --runsc=FILE         the runsc to run, in an image with Python; by\n"
    "                           default the runsc of the launch in /etc/usernsctl\n"
    "      --log=text|json      the format of messages on standard error: text, or\n"
    "                           one JSON object in a line for each\n"
    "      --reraise-signal     if a signal kills COMMAND, end by the same signal,\n"
    "                           instead of the exit status 128+N, unless this is\n"
    "                           process 1 of the container\n"
    "      --check              check whether a command could be started, without\n"
    "                           starting a command\n"
    "      --health             ask the sandbox of this container, and exit with 0 if\n"
    "                           the sandbox answers; with COMMAND, run COMMAND in the\n"
    "                           sandbox, and exit with 0 if COMMAND does. Otherwise\n"
    "                           exit with 1\n"
    "  -h, --help               show this help\n"
    "  -V, --version            show the version\n"
    "\n"
    "End the options with --, so that arguments of the container can't add options.\n";

struct policy {
    const char *network;
    const char *ids;
    const char *runsc;
    const char *user;
    const char *log;
    bool reraise_signal;
    bool is_check;
    bool is_health;
};

/* A command line under construction, in an array with room for all arguments. */
struct argv_builder {
    const char **argv;
    size_t count;
};

static bool is_json(const char *format)
{
    return !strcmp(format, "json");
}

static void add_argument(struct argv_builder *builder, const char *argv)
{
    builder->argv[builder->count++] = argv;
}

static void add_arguments(struct argv_builder *builder, char *const *more)
{
    while (*more)
        add_argument(builder, *more++);
}

static int fail_entrypoint(const char *what)
{
    report_message((struct report){.program = CLI, .step = what, .message = un_errno_text(errno)});
    return FAILED;
}

/* Calls stay_outside(), which forks if this process is PID 1 of a container and must not leave the
 * container's user namespace. Returns -1 in the process that must start the sandbox. In PID 1,
 * waits for that process, and returns its exit status. */
static int stay_outside_or_fail(void)
{
    int status;
    if (!stay_outside(&status))
        return -1;
    return status < 0 ? fail_entrypoint("fork") : status;
}

/* Stores in `path` the path of the file `name` in this program's directory. Returns 0, or -1 with
 * errno set. */
static int find_in_own_directory(const char *name, char path[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (length < 0)
        return -1;
    path[length] = '\0';
    char *base = strrchr(path, '/') + 1;
    size_t room = PATH_MAX - (size_t)(base - path);
    if (strlen(name) >= room) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(base, name, strlen(name) + 1);
    return 0;
}

/* Writes the environment variables to a memfd, each terminated by NUL. Returns a descriptor of the
 * memfd, or -1 with errno set. The descriptor is above 2 even if standard input, output or error is
 * closed. */
static int save_environment(void)
{
    int fd = memfd_create("environ", MFD_NOEXEC_SEAL | MFD_CLOEXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("environ", MFD_CLOEXEC);
    if (fd >= 0)
        fd = fcntl(fd, F_DUPFD, STDERR_FILENO + 1);
    for (char **at = environ; fd >= 0 && *at; at++)
        if (un_write_all(fd, *at, strlen(*at) + 1))
            return -1;
    return fd;
}

/* Returns "TERM=NAME" for the environment of usernsctl, or NULL if TERM is not set or contains
 * unusual characters. usernsctl decides by TERM whether to print colours. */
static const char *terminal(void)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+_.";
    static char setting[TERM_MAX + sizeof "TERM="];
    const char *name = getenv("TERM");
    if (!name || strlen(name) > TERM_MAX || name[strspn(name, allowed)])
        return NULL;
    snprintf(setting, sizeof setting, "TERM=%s", name);
    return setting;
}

/* Copies the file `name` in the directory of this program to standard output. Returns the exit
 * status. */
static int print_file(const char *name)
{
    static char path[PATH_MAX], bytes[1 << 16];
    un_auto_close int fd =
        find_in_own_directory(name, path) ? -1 : openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_entrypoint(path);
    ssize_t length;
    int failed = 0;
    while (!failed && (length = read(fd, bytes, sizeof bytes)))
        failed = length < 0 || un_write_all(STDOUT_FILENO, bytes, (size_t)length);
    return failed ? fail_entrypoint(path) : 0;
}

/* Executes Python to run usernsctl. Returns only on failure, with the exit status. */
static int become_usernsctl(struct argv_builder *builder, char *const *rest, bool is_run)
{
    static char python[PATH_MAX], script[PATH_MAX], option[sizeof "--environ-fd=" + 11];
    const char *term = terminal();
    const char *const clean[] = {
        "PATH=" UN_SYSTEM_PATH,
        "LANG=C.UTF-8",
        term,
        NULL,
    };
    int fd = save_environment();
    if (fd < 0)
        return fail_entrypoint("can't save the environment");
    if (find_in_own_directory("python3", python) || find_in_own_directory(CLI, script))
        return fail_entrypoint("/proc/self/exe");
    if (is_run && keep_early_signals())
        return fail_entrypoint("sigprocmask");
    snprintf(option, sizeof option, "--environ-fd=%d", fd);
    builder->argv[0] = python;
    builder->argv[1] = "-I";
    builder->argv[2] = script;
    builder->argv[3] = option;
    add_arguments(builder, rest);
    add_argument(builder, NULL);
    execve(python, (char *const *)builder->argv, (char *const *)clean);
    return fail_entrypoint(python);
}

/* Returns whether this program's directory contains Python, without which usernsctl can't be
 * executed. */
static bool has_python(void)
{
    char python[PATH_MAX];
    return !find_in_own_directory("python3", python) && !access(python, X_OK);
}

/* Executes usernsctl-exec to perform the launch file `launch`. Returns only on failure, with the
 * exit status. */
static int perform_launch(struct argv_builder *builder, const char *launch,
                          const struct policy *policy, char *const *rest)
{
    static char program[PATH_MAX];
    if (find_in_own_directory("usernsctl-exec", program))
        return fail_entrypoint("/proc/self/exe");
    if (keep_early_signals())
        return fail_entrypoint("sigprocmask");
    builder->count = 0;
    add_argument(builder, "usernsctl-exec");
    add_argument(builder, "--launch");
    add_argument(builder, launch);
    if (policy->is_check)
        add_argument(builder, "--check");
    if (policy->reraise_signal)
        add_argument(builder, UN_RERAISE_SIGNAL);
    if (is_json(policy->log))
        add_argument(builder, UN_LOG_JSON);
    if (policy->user) {
        add_argument(builder, "--run-as");
        add_argument(builder, policy->user);
    }
    add_argument(builder, "--");
    add_arguments(builder, rest);
    add_argument(builder, NULL);
    execv(program, (char *const *)builder->argv);
    return fail_entrypoint(program);
}

/* Executes usernsctl-watch to check the health of the running sandbox. Returns only on failure,
 * with the exit status. */
static int check_health(struct argv_builder *builder, const struct policy *policy,
                        char *const *rest)
{
    static char program[PATH_MAX];
    if (find_in_own_directory("usernsctl-watch", program))
        return fail_entrypoint("/proc/self/exe");
    builder->count = 0;
    add_argument(builder, "usernsctl-watch");
    if (is_json(policy->log))
        add_argument(builder, UN_LOG_JSON);
    add_argument(builder, "--health");
    add_arguments(builder, rest);
    add_argument(builder, NULL);
    execv(program, (char *const *)builder->argv);
    return fail_entrypoint(program);
}

static int refuse_usage(const char *what, const char *value, const char *right)
{
    char text[512];
    snprintf(text, sizeof text, "%.200s%s%.200s%s: %s", what, strlen(what) > 200 ? "..." : "",
             value, strlen(value) > 200 ? "..." : "", right);
    un_make_printable(text);
    report_message((struct report){.program = CLI, .step = SELF, .message = text});
    return FAILED;
}

static bool is_either(const char *value, const char *a, const char *b)
{
    return !strcmp(value, a) || !strcmp(value, b);
}

/* Fails if an environment variable is set that was an option in an earlier release. If such a
 * variable were ignored, the command could run with fewer restrictions than the user expects.
 * Returns the exit status, or -1 to continue. */
static int check_variables(void)
{
    static const char *const names[] = {"USERNSCTL_NETWORK", "USERNSCTL_IDS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return refuse_usage(names[i], " is set, but has no effect",
                                "unset the variable, and give --network or --ids to " SELF
                                " in the ENTRYPOINT");
    return -1;
}

static bool is_private(const struct policy *policy)
{
    return !strcmp(policy->network, "private");
}

/* Validates the values of the options. Returns the exit status, or -1 to continue. */
static int check_policy(const struct policy *policy, const char *command)
{
    struct un_account_name name;
    if (!is_either(policy->network, "host", "none") && !is_private(policy))
        return refuse_usage("--network=", policy->network,
                            "the value must be host, none or private");
    if (!is_either(policy->ids, "one", "all"))
        return refuse_usage("--ids=", policy->ids, "the value must be one or all");
    if (!is_either(policy->log, "text", "json"))
        return refuse_usage("--log=", policy->log, "the value must be text or json");
    if (policy->user && !un_account_parse(policy->user, &name))
        return refuse_usage(
            "--user=", policy->user,
            "the value must be UID[:GID] or NAME[:GROUP], ids from 0 to 4294967294");
    if (policy->runsc && *policy->runsc != '/')
        return refuse_usage("--runsc=", policy->runsc, "the value must be an absolute path");
    if (policy->runsc && policy->is_check)
        return refuse_usage(
            "--check with --runsc", "",
            "the launch that --check checks names its own runsc: leave out --runsc");
    if (policy->is_health && policy->is_check)
        return refuse_usage("--health with --check", "", "the options exclude each other");
    if (!command && !policy->is_check && !policy->is_health)
        return refuse_usage("no command", "", "give one, as in: " SELF " -- cat /proc/version");
    return check_variables();
}

/* Values that getopt_long(3) returns for options without a letter. All are lower than the code of
 * any letter. */
enum { NETWORK = 1, IDS, RUNSC, USER, LOG, RERAISE, CHECK, HEALTH };

/* Reports the option that getopt_long(3) has rejected. Returns the exit status. */
static int refuse_option(char **argv)
{
    /* If the rejected option is a letter, argv[optind - 1] may be another argument, because
     * getopt_long() increments optind only after the last letter of an argument. */
    bool is_letter = optopt < 0 || optopt > HEALTH;
    char letter[] = {'-', optopt > ' ' && optopt < 127 ? (char)optopt : '?', '\0'};
    /* Report the long option: getopt_long() rejects --help=VALUE and --version=VALUE, but never -h
     * and -V. */
    if (optopt == 'h' || optopt == 'V')
        is_letter = false;
    return refuse_usage(is_letter ? letter : argv[optind - 1],
                        " is not an option, or lacks its value", SELF " --help lists the options");
}

/* Sets the format of messages. Called as soon as the option is parsed, so that errors in later
 * options are reported in this format. */
static void set_log(struct policy *policy, const char *format)
{
    policy->log = format;
    if (is_json(format))
        report_in_json();
}

/* Parses the options of in-gvisor. Returns the exit status, or -1 to continue. */
static int parse_policy(int argc, char **argv, struct policy *policy)
{
    static const struct option options[] = {
        {"network", required_argument, NULL, NETWORK},
        {"ids", required_argument, NULL, IDS},
        {"runsc", required_argument, NULL, RUNSC},
        {"user", required_argument, NULL, USER},
        {"log", required_argument, NULL, LOG},
        {"reraise-signal", no_argument, NULL, RERAISE},
        {"check", no_argument, NULL, CHECK},
        {"health", no_argument, NULL, HEALTH},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+hV", options, NULL)) != -1)
        if (option == NETWORK)
            policy->network = optarg;
        else if (option == IDS)
            policy->ids = optarg;
        else if (option == RUNSC)
            policy->runsc = optarg;
        else if (option == USER)
            policy->user = optarg;
        else if (option == LOG)
            set_log(policy, optarg);
        else if (option == RERAISE)
            policy->reraise_signal = true;
        else if (option == CHECK)
            policy->is_check = true;
        else if (option == HEALTH)
            policy->is_health = true;
        else if (option == 'h')
            return fputs(help, stdout) < 0 || fflush(stdout) ? FAILED : 0;
        else if (option == 'V')
            return puts(SELF " " USERNSCTL_VERSION) < 0 || fflush(stdout) ? FAILED : 0;
        else
            return refuse_option(argv);
    return -1;
}

/* Executes `usernsctl run` with the options in `policy`, for which there is no launch file.
 * Returns only on failure, with the exit status. */
static int run_by_python(const struct policy *policy, char *const *command,
                         struct argv_builder *builder)
{
    static char directory[PATH_MAX];
    static struct utsname host;
    if (!getcwd(directory, sizeof directory) || uname(&host))
        return fail_entrypoint("can't read the working directory or the host name");
    const char *const fixed[] = {
        "run",  "--network", policy->network, "--hostname",    host.nodename,
        "--wd", directory,   "--env-all",     "--expose-root",
    };
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        add_argument(builder, fixed[i]);
    if (!strcmp(policy->ids, "all"))
        add_argument(builder, "--map-auto");
    if (policy->reraise_signal)
        add_argument(builder, UN_RERAISE_SIGNAL);
    if (is_json(policy->log))
        add_argument(builder, UN_LOG_JSON);
    if (policy->runsc) {
        add_argument(builder, "--runsc");
        add_argument(builder, policy->runsc);
    }
    if (policy->user) {
        add_argument(builder, "--user");
        add_argument(builder, policy->user);
    }
    add_argument(builder, "--");
    return become_usernsctl(builder, command, true);
}

static int run_in_gvisor(int argc, char **argv, struct argv_builder *builder)
{
    static char launch[sizeof LAUNCH PRIVATE_NETWORK ALL_IDS];
    struct policy policy = {.network = "host", .ids = "one", .log = "text"};
    int status = parse_policy(argc, argv, &policy);
    if (status < 0)
        status = check_policy(&policy, argv[optind]);
    if (status >= 0)
        return status;
    if (policy.is_health)
        return check_health(builder, &policy, argv + optind);
    snprintf(launch, sizeof launch, "%s%s%s", LAUNCH,
             is_private(&policy)               ? PRIVATE_NETWORK
             : !strcmp(policy.network, "none") ? NO_NETWORK
                                               : "",
             !strcmp(policy.ids, "all") ? ALL_IDS : "");
    if (policy.runsc && !has_python())
        return refuse_usage(
            "--runsc=", policy.runsc,
            "leave out --runsc, or freeze a launch with this --runsc: the image has no Python");
    if (is_private(&policy) && access(launch, F_OK) && !has_python())
        return refuse_usage("--network=private: there is no ", launch,
                            "freeze one with --network private, in an image with pasta and nft");
    status = policy.is_check ? -1 : stay_outside_or_fail();
    if (status >= 0)
        return status;
    if (!policy.runsc && (policy.is_check || !has_python() || !access(launch, F_OK)))
        return perform_launch(builder, launch, &policy, argv + optind);
    return run_by_python(&policy, argv + optind, builder);
}

/* Performs the subcommands of usernsctl that need no Python, because they only print profiles for
 * container engines. Returns the exit status. */
static int run_without_python(int argc, char **argv)
{
    static const char *const printed[][2] = {
        {"seccomp-profile", "../share/seccomp-profile"},
        {"apparmor-profile", "../share/apparmor-profile"},
    };
    for (size_t i = 0; argc == 2 && i < sizeof printed / sizeof *printed; i++)
        if (!strcmp(argv[1], printed[i][0]))
            return print_file(printed[i][1]);
    fputs(CLI ": this image has no Python, so " CLI " has only these two commands:\n  " CLI
              " seccomp-profile|apparmor-profile\n"
              "in-gvisor runs a command in gVisor; in-gvisor --check checks whether that works.\n"
              "The target prelude-python of Dockerfile.gvisor has all of " CLI ", such as " CLI
              " doctor.\n",
          stderr);
    return FAILED;
}

int main(int argc, char **argv)
{
    /* Reserve the first four elements for become_usernsctl(), which fills them in. */
    struct argv_builder builder = {calloc((size_t)argc + OWN_WORDS_MAX, sizeof *builder.argv), 4};
    if (!builder.argv || !argc)
        return fail_entrypoint("calloc");
    const char *slash = strrchr(argv[0], '/');
    bool is_cli = !strcmp(slash ? slash + 1 : argv[0], CLI);
    if (is_cli && !has_python())
        return run_without_python(argc, argv);
    bool is_run = is_cli && argc > 1 && !strcmp(argv[1], "run");
    int status = is_run ? stay_outside_or_fail() : -1;
    if (status >= 0)
        return status;
    if (is_cli)
        return become_usernsctl(&builder, argv + 1, is_run);
    return run_in_gvisor(argc, argv, &builder);
}
