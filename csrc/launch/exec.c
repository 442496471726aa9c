/* The last step of a launch, in which this process executes usernsctl-watch. That program, called
 * the watcher here, starts runsc and waits for the exit of runsc. */
#include "base/base.h"
#include "launch/launch.h"
#include "sys/sys.h"

/* The argument and environment vectors of usernsctl-watch, each terminated by NULL. `memory` holds
 * the arguments in which placeholders were expanded. */
struct exec_args {
    char **argv;
    char **envp;
    char *memory;
};

static void free_exec_args(struct exec_args *args)
{
    free(args->argv);
    free(args->envp);
    free(args->memory);
}

static size_t memory_for(const struct un_launch *launch)
{
    size_t size = 0;
    UN_EACH_RECORD (record, launch, UN_VERB_WATCH)
        size += un_marks_expand(&launch->marks, record->arguments, NULL) + 1;
    return size;
}

static void fill_exec_args(const struct un_launch *launch, const struct un_launch_params *params,
                           struct exec_args *args)
{
    char *at = args->memory, **arg = args->argv, **variable = args->envp;
    UN_EACH_RECORD (record, launch, UN_VERB_RUNSC_ENV)
        *variable++ = (char *)(uintptr_t)record->arguments;
    UN_EACH_RECORD (record, launch, UN_VERB_WATCH) {
        *arg++ = at;
        at += un_marks_expand(&launch->marks, record->arguments, at) + 1;
        /* Insert the options of usernsctl-watch after argv[0]. */
        if (arg != args->argv + 1)
            continue;
        if (params->reraise_signal)
            *arg++ = (char *)UN_RERAISE_SIGNAL;
        if (params->terminal)
            *arg++ = (char *)UN_TERMINAL;
        if (params->log_json)
            *arg++ = (char *)UN_LOG_JSON;
        for (const char *const *word = params->watch_options; word && *word; word++)
            *arg++ = (char *)(uintptr_t)*word;
    }
}

static size_t count_watch_options(const struct un_launch_params *params)
{
    size_t count = 0;
    while (params->watch_options && params->watch_options[count])
        count++;
    return count;
}

static int build_exec_args(struct un_launch *launch, const struct un_launch_params *params,
                           struct exec_args *args, struct un_error *err)
{
    un_launch_set_remedy(launch, NULL, NULL);
    if (!launch->of_verb[UN_VERB_WATCH])
        return un_fail(err, UN_STEP_LAUNCH, 0, "launch-malformed",
                       "the launch has no \"watch\" record");
    size_t words = launch->of_verb[UN_VERB_WATCH] + count_watch_options(params) + 4;
    args->argv = calloc(words, sizeof *args->argv);
    args->envp = calloc(launch->of_verb[UN_VERB_RUNSC_ENV] + 1, sizeof *args->envp);
    args->memory = malloc(memory_for(launch) + 1);
    if (!args->argv || !args->envp || !args->memory)
        return un_fail_errno(err, UN_STEP_RUNSC, "");
    fill_exec_args(launch, params, args);
    return 0;
}

/*
 * Sets O_APPEND on the open file `fd` if the file is a regular file that is open for writing, and
 * the file offset is at the end of the file.
 *
 * For each open file, gVisor keeps a file offset of its own, which is 0 at first. Without O_APPEND,
 * the sandbox's output would overwrite the file, and if standard output and standard error were the
 * same file, they would overwrite each other. With the offset at the end of the file, writing with
 * O_APPEND has the same effect as writing at the offset.
 */
int un_append_at_end(int fd)
{
    struct stat status;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fstat(fd, &status))
        return -1;
    bool is_output = S_ISREG(status.st_mode) && (flags & O_ACCMODE) != O_RDONLY;
    if (is_output && lseek(fd, 0, SEEK_CUR) == status.st_size)
        return fcntl(fd, F_SETFL, flags | O_APPEND);
    return 0;
}

int un_open_missing_stdio(struct un_error *err)
{
    return un_fill_stdio() ? un_fail_errno(err, UN_STEP_STDIO, "/dev/null") : 0;
}

/* Prepares standard input, output and error for runsc: opens /dev/null in place of closed
 * descriptors, sets O_APPEND on files, and reopens pipes and terminals. */
static int prepare_stdio(struct un_error *err)
{
    static const char *const names[] = {"standard input", "standard output", "standard error"};
    if (un_open_missing_stdio(err))
        return -1;
    for (int fd = 0; fd < 3; fd++)
        if (un_append_at_end(fd))
            return un_fail_errno(err, UN_STEP_STDIO, names[fd]);
    un_own_stdio();
    return 0;
}

/* Stores in `kept`, sorted and without duplicates, the descriptors that usernsctl-watch inherits.
 * Returns their number. */
static size_t list_kept(const struct un_launch *launch, const struct un_launch_params *params,
                        int *kept)
{
    size_t count = 0;
    for (size_t i = 0; i < params->watch_fd_count; i++)
        kept[count++] = params->watch_fds[i];
    UN_EACH_RECORD (record, launch, UN_VERB_PROGRAM_LINK)
        kept[count++] = un_record_source(launch, record, 0)->fd;
    UN_EACH_RECORD (record, launch, UN_VERB_PROGRAM_PATH)
        kept[count++] = un_record_source(launch, record, 0)->fd;
    return un_sort_fds(kept, count);
}

/* Sets close-on-exec on all descriptors except those that usernsctl-watch inherits (list_kept()).
 * Closes no descriptor itself, because un_launch_exec() may fail and return to the caller. */
static int pass_only(const struct un_launch *launch, const struct un_launch_params *params,
                     struct un_error *err)
{
    size_t most = launch->of_verb[UN_VERB_PROGRAM_LINK] + launch->of_verb[UN_VERB_PROGRAM_PATH] +
                  params->watch_fd_count + 1;
    un_auto_free int *kept = calloc(most, sizeof *kept);
    if (!kept)
        return un_fail_errno(err, UN_STEP_FDS, "");
    return un_close_fds_at_exec(kept, list_kept(launch, params, kept), err);
}

static int exec_watcher(struct un_launch *launch, const struct un_launch_params *params,
                        const struct exec_args *args, struct un_error *err)
{
    un_launch_set_remedy(launch, NULL, NULL);
    if (prepare_stdio(err) || pass_only(launch, params, err))
        return -1;
    /* Change to "/", because a mount may cover the current directory. */
    if (chdir("/"))
        return un_fail_errno(err, UN_STEP_CWD, "/");
    if (un_check_programs(launch, err))
        return -1;
    execve(args->argv[0], args->argv, args->envp);
    un_fail_errno(err, UN_STEP_RUNSC, args->argv[0]);
    un_launch_set_remedy(launch, args->argv[0], NULL);
    return -1;
}

/* Reads the uid_map and the gid_map of this process's user namespace. */
static int read_maps(struct un_idmap *maps, struct un_error *err)
{
    un_auto_close int self = un_open_self(err);
    if (self < 0)
        return -1;
    if (un_map_read(self, "uid_map", &maps->of[UN_UID], err))
        return -1;
    return un_map_read(self, "gid_map", &maps->of[UN_GID], err);
}

static int prepare_watcher(struct un_launch *launch, const struct un_launch_params *params,
                           struct exec_args *args, struct un_idmap *maps, struct un_error *err)
{
    if (build_exec_args(launch, params, args, err) || read_maps(maps, err) ||
        un_config_check_user(launch, params, maps, err) ||
        un_config_write(launch, params, maps, err))
        return -1;
    bool has_several = un_map_ids(&maps->of[UN_UID]) > 1 || un_map_ids(&maps->of[UN_GID]) > 1;
    return un_drop_privileges(launch, has_several, err);
}

int un_launch_exec(struct un_launch *launch, const struct un_launch_params *params,
                   struct un_error *err)
{
    struct exec_args args = {NULL, NULL, NULL};
    un_auto_free struct un_idmap *maps = malloc(sizeof *maps);
    if (!maps)
        return un_fail_errno(err, UN_STEP_RUNSC, "");
    /* Set a umask that denies other users access to files that runsc creates. The command in the
     * sandbox has its own umask. */
    umask(077);
    if (!prepare_watcher(launch, params, &args, maps, err))
        exec_watcher(launch, params, &args, err);
    free_exec_args(&args);
    return -1;
}
