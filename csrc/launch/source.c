/* Opening the host files of a launch before this process enters the namespaces, and checking that
 * the programs among them have not changed since the launch file was written. */
#include "base/base.h"
#include "launch/launch.h"
#include "sys/sys.h"

#include <inttypes.h>

/* Reports that the host has changed since the launch file was written: fills in `err`, and has the
 * value -1. */
#define OUTDATED(launch, err, filename, ...)                                                       \
    (set_outdated_remedy(launch, filename),                                                        \
     un_fail(err, UN_STEP_LAUNCH, 0, "launch-outdated", __VA_ARGS__))

/* The end of a remedy that says to run `usernsctl freeze`, for an image without Python, in which
 * that command can't run. */
#define WITHOUT_PYTHON                                                                             \
    "    # in an image without Python: build the image again, with runsc, /opt/usernsctl and "     \
    "/etc/usernsctl from the same build of prelude"

static void set_outdated_remedy(struct un_launch *launch, const char *filename)
{
    const struct un_record *remedy = un_launch_first(launch, UN_VERB_REMEDY);
    un_launch_set_remedy(launch, filename, remedy ? "%s" WITHOUT_PYTHON : NULL,
                         remedy ? un_record_argument(remedy, 0) : NULL);
}

/* Fails if a program has changed since the launch file was written. Checks the descriptor that is
 * executed later, so that no other program can take its place after the check. */
static int check_assumed(struct un_launch *launch, const struct un_record *record,
                         struct un_error *err)
{
    struct stat now;
    char sum[UN_CONTENT_SUM_ROOM];
    const struct un_source *source = un_record_source(launch, record, 0);
    const char *path = source->path;
    uint64_t size = un_argument_number(un_record_argument(record, 1));
    unsigned mode = un_argument_mode(un_record_argument(record, 2));
    if (fstat(source->fd, &now))
        return un_launch_fail_file(launch, path, err);
    if ((uint64_t)now.st_size != size)
        return OUTDATED(launch, err, path,
                        "%.300s has %jd bytes, but had %" PRIu64 " when the launch was frozen",
                        path, (intmax_t)now.st_size, size);
    if (now.st_mode != mode)
        return OUTDATED(launch, err, path,
                        "%.300s has the mode %o, but had %o when the launch was frozen", path,
                        (unsigned)now.st_mode, mode);
    if (un_content_sum(source->fd, sum))
        return un_launch_fail_file(launch, path, err);
    if (strcmp(sum, un_record_argument(record, 3)))
        return OUTDATED(launch, err, path,
                        "%.300s has changed since the launch was frozen: another content of the "
                        "same size",
                        path);
    return 0;
}

static int check_version(struct un_launch *launch, struct un_error *err)
{
    if (!strcmp(launch->version, un_version()))
        return 0;
    return OUTDATED(launch, err, NULL, "frozen by usernsctl %.40s; this is usernsctl %s",
                    launch->version, un_version());
}

/* Sets the OOM score adjustment of this process, which its descendants inherit. runsc would set it
 * only after the command has started, and would fail if the command has already exited. */
static int take_oom_score(struct un_launch *launch, const char *score, struct un_error *err)
{
    static const char path[] = "/proc/self/oom_score_adj";
    un_auto_close int fd = openat(AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || un_write_all(fd, score, strlen(score)))
        return un_launch_fail_file(launch, path, err);
    return 0;
}

static int open_by(const char *how, const char *path, char real[UN_PATH_MAX], int64_t *foreign)
{
    *foreign = -1;
    if (!strcmp(how, "own"))
        return un_open_own(path, real);
    if (!strcmp(how, "exact"))
        return un_open_exact(path, real);
    return un_open_follow(path, real, foreign);
}

static int fail_source(struct un_launch *launch, const char *how, const char *path,
                       const char *link, int64_t foreign, struct un_error *err)
{
    int errnum = errno;
    if (foreign >= 0) {
        un_launch_set_remedy(launch, path, NULL);
        return un_fail(err, UN_STEP_SANDBOX, 0, "foreign-link",
                       "%.150s: the symbolic link %.200s belongs to uid %" PRId64
                       ", who may change where it leads",
                       path, link, foreign);
    }
    if (errnum == ENOENT || errnum == ENOTDIR)
        return OUTDATED(launch, err, path, "%.300s does not exist on this machine any more", path);
    if (errnum == ELOOP && !strcmp(how, "exact"))
        return OUTDATED(launch, err, path,
                        "%.300s is a symbolic link, but was none when the launch was frozen", path);
    errno = errnum;
    return un_launch_fail_file(launch, path, err);
}

static int open_source(struct un_launch *launch, struct un_source *source, const char *how,
                       const char *path, struct un_error *err)
{
    char real[UN_PATH_MAX] = "";
    int64_t foreign;
    source->fd = open_by(how, path, real, &foreign);
    if (source->fd < 0)
        return fail_source(launch, how, path, real, foreign, err);
    source->is_ours = true;
    source->path = strdup(real);
    /* NOLINTNEXTLINE(analyzer-malloc-leak): un_launch_close() frees source->path. */
    return source->path ? 0 : un_launch_fail_file(launch, path, err);
}

static int take_source(struct un_launch *launch, struct un_source *source, int fd, const char *path,
                       struct un_error *err)
{
    char real[UN_PATH_MAX];
    if (un_path_of(fd, real))
        return un_launch_fail_file(launch, path, err);
    source->fd = fd;
    source->path = strdup(real);
    /* NOLINTNEXTLINE(analyzer-malloc-leak): un_launch_close() frees source->path. */
    return source->path ? 0 : un_launch_fail_file(launch, path, err);
}

static int open_sources(struct un_launch *launch, const int *fds, struct un_error *err)
{
    size_t next = 0;
    UN_EACH_RECORD (record, launch, UN_VERB_SOURCE) {
        struct un_source *source = &launch->source[next];
        int given = fds ? fds[next] : -1;
        const char *path = un_record_argument(record, 1);
        if (given >= 0 ? take_source(launch, source, given, path, err)
                       : open_source(launch, source, un_record_argument(record, 0), path, err))
            return -1;
        next++;
    }
    return 0;
}

/* Fails if the source of the root filesystem is not a directory. */
static int check_tree(struct un_launch *launch, struct un_error *err)
{
    struct stat status;
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    const struct un_source *source = tree ? un_record_source(launch, tree, 0) : NULL;
    if (!source)
        return 0;
    if (fstat(source->fd, &status))
        return un_launch_fail_file(launch, source->path, err);
    if (S_ISDIR(status.st_mode))
        return 0;
    return OUTDATED(launch, err, source->path,
                    "the root filesystem %.300s is not a directory any more", source->path);
}

static int check_assumptions(struct un_launch *launch, struct un_error *err)
{
    UN_EACH_RECORD (record, launch, UN_VERB_ASSUME)
        if (check_assumed(launch, record, err))
            return -1;
    return check_tree(launch, err);
}

int un_check_programs(struct un_launch *launch, struct un_error *err)
{
    for (size_t i = 0; i < launch->record_count; i++) {
        const struct un_record *record = &launch->record[i];
        if (record->verb != UN_VERB_PROGRAM_LINK && record->verb != UN_VERB_PROGRAM_PATH)
            continue;
        const struct un_source *source = un_record_source(launch, record, 0);
        int again = un_open_here(source->fd, source->path);
        if (again < 0) {
            un_fail_errno(err, UN_STEP_RUNSC, source->path);
            un_launch_set_remedy(launch, source->path, NULL);
            return -1;
        }
        close(again);
    }
    return 0;
}

int un_launch_open(struct un_launch *launch, const int *fds, struct un_error *err)
{
    const struct un_record *score = un_launch_first(launch, UN_VERB_OOM_SCORE);
    launch->is_root = geteuid() == 0;
    if (check_version(launch, err) || open_sources(launch, fds, err) ||
        check_assumptions(launch, err) || un_refuse_kernel_files(launch, err) ||
        un_find_closed_dirs(launch, err))
        return -1;
    const struct un_record *limits = un_launch_first(launch, UN_VERB_LIMITS);
    if (limits)
        un_groups_prepare(un_argument_number(un_record_argument(limits, 2)));
    return score ? take_oom_score(launch, un_record_argument(score, 0), err) : 0;
}
