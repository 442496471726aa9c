#include "base/base.h"
#include "launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* So many bytes of a script the kernel looks at (execve(2)). */
#define FIRST_LINE_MAX 256

/* What a name stands for. */
enum found {
    UNKNOWN, /* only gVisor, or nobody whom we could ask, knows */
    MISSING,
    DIRECTORY,
    NOT_EXECUTABLE,
    EXECUTABLE
};

/* A file that a name stands for. */
struct program {
    char inside[UN_PATH_MAX]; /* its path, without symbolic links */
    char script[FIRST_LINE_MAX + 1];
};

bool un_launch_is_unknown(const char *inside)
{
    static const char *const tops[] = {"/proc", "/sys", "/dev"};
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++) {
        size_t length = strlen(tops[i]);
        if (!strncmp(inside, tops[i], length) && (!inside[length] || inside[length] == '/'))
            return true;
    }
    return false;
}

/* Reads the line that a script begins with; "" if it can't be read, as what is no script. */
static void read_script(int fd, char line[FIRST_LINE_MAX + 1])
{
    un_auto_close int opened = un_reopen(fd, O_RDONLY);
    ssize_t got = opened >= 0 ? read(opened, line, FIRST_LINE_MAX) : -1;
    line[got > 0 ? got : 0] = '\0';
    line[strcspn(line, "\n")] = '\0';
}

static enum found look_at(struct un_trail *trail, struct program *program)
{
    struct stat status;
    int fd = un_trail_last(trail)->fd;
    if (*trail->missing)
        return MISSING;
    strcpy(program->inside, un_view_inside(trail));
    if (un_view_is_directory(trail))
        return DIRECTORY;
    if (fstat(fd, &status) || !S_ISREG(status.st_mode))
        return MISSING;
    if (!(status.st_mode & 0111))
        return NOT_EXECUTABLE;
    read_script(fd, program->script);
    return EXECUTABLE;
}

/* `path` is absolute. */
static enum found look(const struct un_launch *launch, const char *path, struct program *program)
{
    un_auto_trail struct un_trail trail;
    char wanted[UN_PATH_MAX];
    if (un_view_walk(launch, path, &trail) || un_view_wanted(&trail, wanted) ||
        un_launch_is_unknown(wanted))
        return UNKNOWN;
    return look_at(&trail, program);
}

/* A name with a slash in it, or one of those that a command stands for along PATH. */
static enum found look_from(const struct un_launch *launch, const char *cwd, const char *name,
                            struct program *program)
{
    char path[UN_PATH_MAX];
    if (*name == '/')
        return look(launch, name, program);
    return un_path_join(path, cwd, name) ? UNKNOWN : look(launch, path, program);
}

/* The first that is executable, else the first that is there at all. */
static enum found search(const struct un_launch *launch, const char *cwd, const char *command,
                         const char *at, struct program *program)
{
    enum found best = MISSING;
    char name[PATH_MAX];
    struct program other;
    while (best != EXECUTABLE && un_next_candidate(&at, command, name)) {
        enum found found = look_from(launch, cwd, name, best == MISSING ? program : &other);
        if (found == UNKNOWN)
            return UNKNOWN;
        if (found == DIRECTORY)
            found = MISSING;
        if (found == EXECUTABLE && best == NOT_EXECUTABLE)
            *program = other;
        best = found > best ? found : best;
    }
    return best;
}

/* PATH of the command; where it has none, all that anybody could search. */
static const char *path_of(const struct un_moment *moment)
{
    const char *path = UN_SYSTEM_PATH;
    for (const char *const *entry = moment->env; entry && *entry; entry++)
        if (!strncmp(*entry, "PATH=", 5))
            path = *entry + 5;
    return path;
}

static int fail_missing(struct un_launch *launch, const char *command, struct un_error *err)
{
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    const char *root = tree ? un_record_source(launch, tree, 0)->path : "/";
    const char *where = un_has_slash(command) ? "" : " along PATH";
    if (strcmp(root, "/")) {
        un_launch_tell(launch, command,
                       "name a program that is there, by the path that it has in the sandbox");
        return un_fail(err, UN_STEP_LOOKUP, 0, NULL,
                       "'%.200s' was not found%s in the sandbox, whose programs are those of "
                       "%.200s",
                       command, where, root);
    }
    un_launch_tell(launch, command,
                   "name a program that is there, or freeze the launch anew with an option that "
                   "shows it: usernsctl freeze --bind DIR");
    return un_fail(err, UN_STEP_LOOKUP, 0, NULL, "'%.200s' was not found%s in the sandbox", command,
                   where);
}

/* Venvs are why: their scripts name an interpreter that links to one elsewhere. */
static int check_interpreter(struct un_launch *launch, struct program *program,
                             struct un_error *err)
{
    char wanted[UN_PATH_MAX];
    char *name =
        strncmp(program->script, "#!", 2) ? NULL : strtok(program->script + 2, " \t\r\v\f");
    if (!name || *name != '/')
        return 0;
    un_auto_trail struct un_trail trail;
    if (un_view_walk(launch, name, &trail) || !*trail.missing || un_view_wanted(&trail, wanted) ||
        un_launch_is_unknown(wanted))
        return 0;
    bool leads = strcmp(wanted, name);
    un_launch_tell(launch, program->inside,
                   "freeze the launch anew with an option that shows it: usernsctl freeze --bind "
                   "DIR");
    return un_fail(err, UN_STEP_EXEC, 0, "interpreter-not-found",
                   "%.150s is run by %.100s%s%.150s%s, which is not in the sandbox",
                   program->inside, name, leads ? " (which leads to " : "", leads ? wanted : "",
                   leads ? ")" : "");
}

static int judge(struct un_launch *launch, const char *command, enum found found,
                 struct program *program, struct un_error *err)
{
    switch (found) {
    case MISSING:
        return fail_missing(launch, command, err);
    case DIRECTORY:
        un_launch_tell(launch, command, "name a program, such as a file in it");
        return un_fail(err, UN_STEP_EXEC, 0, "command-not-executable",
                       "%.300s is a directory, and no program", program->inside);
    case NOT_EXECUTABLE:
        un_launch_tell(launch, command,
                       "chmod +x it, or start it by its interpreter, as in: python3 FILE");
        return un_fail(err, UN_STEP_EXEC, 0, "command-not-executable",
                       "%.300s is there, but it is not executable", program->inside);
    case EXECUTABLE:
        return check_interpreter(launch, program, err);
    default:
        return 0;
    }
}

int un_launch_check_command(struct un_launch *launch, const struct un_moment *moment,
                            struct un_error *err)
{
    const char *command = moment->args[0];
    un_auto_free struct program *program = calloc(1, sizeof *program);
    un_launch_tell(launch, NULL, NULL);
    if (!program)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    enum found found = un_has_slash(command)
                           ? look_from(launch, moment->cwd, command, program)
                           : search(launch, moment->cwd, command, path_of(moment), program);
    return judge(launch, command, found, program, err);
}
