/* Building the root filesystem of a sandbox and its other files from the records of a launch. */
#include "base/base.h"
#include "launch/launch.h"

static int step_home(struct un_launch *launch, const struct un_record *record, struct un_error *err)
{
    return un_hide_home(launch, record->arguments, err);
}

/* Makes the root filesystem and all mounts below it read-only. Later steps can't create files
 * there. */
static int step_read_only(struct un_launch *launch, const struct un_record *record,
                          struct un_error *err)
{
    (void)record;
    return un_mount_restrict(launch->view.top, UN_ATTR_RDONLY, 0, "the root filesystem", err);
}

/* Functions that each perform a record of the launch while the root filesystem is built, indexed by
 * enum un_verb. NULL for verbs of other sections. */
static un_step_function *const step_functions[UN_VERB_COUNT] = {
    [UN_VERB_BIND] = un_step_bind,
    [UN_VERB_DEBUG_LOG] = un_step_debug_log,
    [UN_VERB_DIRECTORY] = un_step_directory,
    [UN_VERB_DISCARD] = un_step_discard,
    [UN_VERB_FILE] = un_step_file,
    [UN_VERB_GUARDED] = un_step_guarded,
    [UN_VERB_HIDE_PRIVATE] = un_step_hide_private,
    [UN_VERB_HOME] = step_home,
    [UN_VERB_LIMITS] = un_step_limits,
    [UN_VERB_LINK] = un_step_link,
    [UN_VERB_MACHINE] = un_step_machine,
    [UN_VERB_MAKE] = un_step_make,
    [UN_VERB_MOUNT] = un_step_mount,
    [UN_VERB_PROGRAM] = un_step_program,
    [UN_VERB_PROGRAM_LINK] = un_step_program_link,
    [UN_VERB_READ_ONLY] = step_read_only,
    [UN_VERB_RESOLVER] = un_step_resolver,
    [UN_VERB_SNAPSHOT] = un_step_snapshot,
    [UN_VERB_TMPFS] = un_step_tmpfs,
    [UN_VERB_TOUCH] = un_step_touch,
    [UN_VERB_TREE] = un_step_tree,
};

static int hide_homes(struct un_launch *launch, const struct un_launch_params *params,
                      struct un_error *err)
{
    for (const char *const *home = params ? params->homes : NULL; home && *home; home++)
        if (un_hide_home(launch, *home, err))
            return -1;
    return 0;
}

/* Opens the host files in launch->source again by their paths. They were opened in another mount
 * namespace, and the kernel does not bind-mount a file by such a descriptor. */
static int reopen_sources(struct un_launch *launch, struct un_error *err)
{
    for (size_t i = 0; i < launch->of_verb[UN_VERB_SOURCE]; i++) {
        struct un_source *source = &launch->source[i];
        int again = un_open_here(source->fd, source->path);
        if (again < 0) {
            un_launch_fail_file(launch, source->path, err);
            return un_fail(err, UN_STEP_SANDBOX, err->errnum,
                           err->errnum == EACCES ? "path-closed-inside" : NULL,
                           "%.400s, in the new mount namespace", source->path);
        }
        if (source->is_ours)
            close(source->fd);
        source->fd = again;
        source->is_ours = true;
    }
    return 0;
}

static int take_steps(struct un_launch *launch, const struct un_launch_params *params,
                      struct un_error *err)
{
    for (size_t i = 0; i < launch->record_count; i++) {
        const struct un_record *record = &launch->record[i];
        un_step_function *take = step_functions[record->verb];
        if (take && take(launch, record, err))
            return -1;
        if (record->verb == UN_VERB_HOME_MOMENT && hide_homes(launch, params, err))
            return -1;
    }
    return 0;
}

static int build_root(struct un_launch *launch, const struct un_launch_params *params,
                      struct un_error *err)
{
    if (un_marks_draw(&launch->marks))
        return un_launch_fail_file(launch, "random", err);
    /* Reopen the host files before the first mount, because a mount could cover a host file. */
    if (reopen_sources(launch, err) || un_scratch_mount(launch, err))
        return -1;
    if (!un_root_begin(launch, err) && !take_steps(launch, params, err) &&
        !un_check_programs(launch, err))
        return 0;
    un_scratch_unmount(launch);
    return -1;
}

int un_launch_build(struct un_launch *launch, const struct un_launch_params *params,
                    struct un_error *err)
{
    /* Set a umask that lets every user in the sandbox read the files that this function creates. */
    mode_t before = umask(022);
    int failed = build_root(launch, params, err);
    umask(before);
    return failed;
}
