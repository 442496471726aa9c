#include "base/base.h"
#include "launch/launch.h"

#include <elf.h>

/* The #! line of a script must lie in its first 256 bytes (BINPRM_BUF_SIZE, execve(2)). */
#define FIRST_LINE_MAX 256

/* The architecture of the programs that gVisor can execute on this host: its e_machine in the ELF
 * header (elf(5)), and its name for error messages. */
#ifdef __x86_64__
#define UN_ELF_MACHINE EM_X86_64
#define UN_MACHINE_NAME "x86-64"
#else
#define UN_ELF_MACHINE EM_AARCH64
#define UN_MACHINE_NAME "AArch64"
#endif

/* Timeout in milliseconds for a search in PATH. PATH and the symbolic links in its directories may
 * come from a hostile bundle. */
#define SEARCH_MS 2000

/* Results of looking up the file of a command in the sandbox. */
enum found {
    /* undecided, because the path lies in a filesystem that gVisor itself provides, such as /proc,
     * because this process lacks permission to read the file, or because the search has timed
     * out */
    UNKNOWN,
    UNREACHABLE,
    MISSING,
    BELOW_FILE,
    DIRECTORY,
    SPECIAL, /* a FIFO, a socket or a device */
    NOT_EXECUTABLE,
    EXECUTABLE
};

/* A command to look up in the filesystem `view`, relative to the working directory `cwd`. */
struct wanted {
    const struct un_view *view;
    const char *command;
    const char *cwd;
};

static bool set_fault(struct un_command_fault *fault, int step, int errnum, const char *path,
                      const char *remedy)
{
    fault->step = step;
    fault->errnum = errnum;
    snprintf(fault->path, sizeof fault->path, "%s", path);
    fault->remedy = remedy;
    return true;
}

static enum found judge_file(const struct un_reached *at)
{
    struct stat status;
    if (at->is_implicit)
        return DIRECTORY;
    if (fstat(at->fd, &status))
        return UNKNOWN;
    if (S_ISDIR(status.st_mode))
        return DIRECTORY;
    if (!S_ISREG(status.st_mode))
        return SPECIAL;
    return status.st_mode & 0111 ? EXECUTABLE : NOT_EXECUTABLE;
}

/* Looks up the file `name` in the sandbox, and stores the resolved path and a descriptor of the
 * file in `at`. The caller must close the descriptor. */
static enum found find_inside(const struct wanted *wanted, const char *name, struct un_reached *at)
{
    un_view_follow(wanted->view, wanted->cwd, name, at);
    if (at->errnum == ENOTDIR)
        return BELOW_FILE;
    if (at->errnum)
        return at->is_certain ? UNREACHABLE : UNKNOWN;
    if (at->is_of_gvisor)
        return UNKNOWN;
    enum found found = judge_file(at);
    if (!*at->missing || found == UNKNOWN)
        return found;
    return found == DIRECTORY ? MISSING : BELOW_FILE;
}

/* Searches the directories that `along` lists in the syntax of PATH, and stores the first
 * executable file in `at`, or the first regular file if none is executable. */
static enum found find_along_path(const struct wanted *wanted, const char *along,
                                  struct un_reached *at)
{
    enum found best = MISSING;
    char name[PATH_MAX];
    int64_t end = un_now_ms() + SEARCH_MS;
    struct un_reached other = {.fd = -1};
    at->fd = -1;
    while (*wanted->command && un_next_candidate(&along, wanted->command, name)) {
        enum found found = un_now_ms() > end ? UNKNOWN : find_inside(wanted, name, &other);
        if (found == UNKNOWN || found == EXECUTABLE ||
            (found == NOT_EXECUTABLE && best == MISSING)) {
            un_close_quietly(at->fd);
            *at = other;
            best = found;
        } else {
            un_close_quietly(other.fd);
        }
        other.fd = -1;
        if (best == UNKNOWN || best == EXECUTABLE)
            break;
    }
    return best;
}

/* Reads the first FIRST_LINE_MAX bytes of a program into `start`, and appends a NUL. Returns the
 * number of bytes, or -1 with errno set. */
static ssize_t read_start(int fd, char start[FIRST_LINE_MAX + 1])
{
    un_auto_close int opened = un_reopen(fd, O_RDONLY);
    ssize_t got = opened >= 0 ? read(opened, start, FIRST_LINE_MAX) : -1;
    start[got > 0 ? got : 0] = '\0';
    return got;
}

/* Returns the path of the interpreter in the #! line of a script, or NULL if `start` has no such
 * line. Modifies `start`. Only a space, a tab or the newline ends the path, as in the kernel
 * (fs/binfmt_script.c) and in gVisor, so a carriage return is a part of the path. */
static const char *interpreter_of(char start[FIRST_LINE_MAX + 1])
{
    char *rest;
    start[strcspn(start, "\n")] = '\0';
    return strncmp(start, "#!", 2) ? NULL : strtok_r(start + 2, " \t", &rest);
}

/* Returns whether a path does not exist in the sandbox. If so, stores in `where` the path with
 * resolved symbolic links. */
static bool is_not_inside(const struct wanted *wanted, const char *path, struct un_reached *at,
                          char where[UN_PATH_MAX])
{
    un_view_follow(wanted->view, wanted->cwd, path, at);
    un_close_quietly(at->fd);
    if (at->errnum || at->is_of_gvisor || !*at->missing)
        return false;
    const char *top = strcmp(at->inside, "/") ? at->inside : "";
    return snprintf(where, UN_PATH_MAX, "%s/%s", top, at->missing) < UN_PATH_MAX;
}

/* Returns whether gVisor can't execute an ELF file, because the file is a 32-bit program or is for
 * another architecture. If so, sets `fault`. `path` is the path of the file, and `start` its first
 * `length` bytes. */
static bool check_elf(const char *start, size_t length, const char *path,
                      struct un_command_fault *fault)
{
    Elf64_Ehdr header;
    if (length < sizeof header)
        return false;
    memcpy(&header, start, sizeof header);
    bool is_wide = header.e_ident[EI_CLASS] == ELFCLASS64;
    if (is_wide && header.e_machine == UN_ELF_MACHINE)
        return false;
    snprintf(fault->reason, sizeof fault->reason, "%s is a program for %s", path,
             is_wide ? "another processor" : "32-bit processors, and gVisor runs only 64-bit ones");
    return set_fault(fault, UN_STEP_EXEC, ENOEXEC, path,
                     "install the program for " UN_MACHINE_NAME);
}

static bool has_cr_at_end(const char *name)
{
    size_t length = strlen(name);
    return length && name[length - 1] == '\r';
}

/* Returns whether gVisor can't execute a program. If so, sets `fault`. gVisor can't execute an ELF
 * file for another architecture, a file that is neither an ELF file nor a script, and a script
 * whose interpreter does not exist in the sandbox. Scripts of Python's virtual environments often
 * lack their interpreter, which is a symbolic link to a file outside the environment. `path` is the
 * path of the program. */
static bool check_program(const struct wanted *wanted, int fd, const char *path,
                          struct un_command_fault *fault)
{
    char start[FIRST_LINE_MAX + 1];
    struct un_reached at;
    ssize_t got = read_start(fd, start);
    if (got < 0)
        return false;
    if (!strncmp(start, ELFMAG, SELFMAG))
        return check_elf(start, (size_t)got, path, fault);
    const char *name = interpreter_of(start);
    if (!name) {
        snprintf(fault->reason, sizeof fault->reason,
                 "%s is neither a program nor a script that begins with #!", path);
        return set_fault(fault, UN_STEP_EXEC, ENOEXEC, path,
                         "begin a script with #! and its interpreter, as in: #!/bin/sh");
    }
    if (!is_not_inside(wanted, name, &at, fault->interpreter))
        return false;
    if (has_cr_at_end(name)) {
        *fault->interpreter = '\0';
        snprintf(fault->reason, sizeof fault->reason,
                 "the interpreter's name in the first line of %s ends with a carriage return",
                 path);
        return set_fault(fault, UN_STEP_EXEC, ENOENT, path,
                         "remove the carriage returns: sed -i 's/\\r$//' FILE");
    }
    bool leads = strcmp(fault->interpreter, name);
    snprintf(fault->reason, sizeof fault->reason,
             "%s needs the interpreter %s%s%s%s, which is not in the sandbox", path, name,
             leads ? " (which leads to " : "", leads ? fault->interpreter : "", leads ? ")" : "");
    return set_fault(fault, UN_STEP_EXEC, ENOENT, path, "");
}

static bool fail_unreachable(const struct wanted *wanted, const struct un_reached *at,
                             struct un_command_fault *fault)
{
    bool is_closed = at->errnum == EACCES;
    snprintf(fault->reason, sizeof fault->reason, "%s: %s%s", wanted->command,
             is_closed ? at->inside : un_errno_text(at->errnum),
             is_closed ? " may not be searched" : "");
    return set_fault(fault, UN_STEP_EXEC, at->errnum, wanted->command,
                     is_closed ? "name a program in a directory that may be searched" : "");
}

static bool fail_file(const struct wanted *wanted, enum found found, const char *path,
                      struct un_command_fault *fault)
{
    static const struct {
        const char *what, *remedy;
    } words[] = {
        [DIRECTORY] = {"a directory, not a program",
                       "name a program, such as a file in that directory"},
        [SPECIAL] = {"a FIFO, a socket or a device, not a program", "name a program"},
        [NOT_EXECUTABLE] = {"not executable",
                            "chmod +x FILE, or name its interpreter, as in: python3 FILE"},
    };
    snprintf(fault->reason, sizeof fault->reason, "%s is %s", path, words[found].what);
    return set_fault(fault, UN_STEP_EXEC, EACCES, wanted->command, words[found].remedy);
}

bool un_view_check_command(const struct un_view *view, const char *command, const char *along,
                           const char *cwd, struct un_command_fault *fault)
{
    const struct wanted wanted = {view, command, cwd};
    struct un_reached at;
    enum found found = un_has_slash(command) ? find_inside(&wanted, command, &at)
                                             : find_along_path(&wanted, along, &at);
    un_auto_close int file = at.fd;
    *fault->reason = *fault->interpreter = '\0';
    switch (found) {
    case UNKNOWN:
        return false;
    case UNREACHABLE:
        return fail_unreachable(&wanted, &at, fault);
    case MISSING:
    case BELOW_FILE:
        return set_fault(fault, UN_STEP_LOOKUP, found == BELOW_FILE ? ENOTDIR : ENOENT, command,
                         "");
    case EXECUTABLE:
        return check_program(&wanted, file, at.inside, fault);
    default:
        return fail_file(&wanted, found, at.inside, fault);
    }
}

/* Returns the value of PATH in the command's environment, or the default search path if PATH is not
 * set. */
static const char *path_of(const struct un_launch_params *params)
{
    const char *path = UN_SYSTEM_PATH;
    for (const char *const *entry = params->env; entry && *entry; entry++)
        if (!strncmp(*entry, "PATH=", 5))
            path = *entry + 5;
    return path;
}

/* Returns the remedy for a launch file whose command can't be executed. The remedy is to run
 * `usernsctl freeze` again, but can't name the options to use, because the launch file does not
 * contain them. `root` is the directory of the host that becomes the sandbox's root directory: "/"
 * if the sandbox sees all files of the host, NULL if the root directory is built from several
 * directories. */
static const char *remedy_of(const struct un_command_fault *fault, const char *root)
{
    bool shows_all = root && !strcmp(root, "/");
    if (fault->step == UN_STEP_EXEC && !*fault->interpreter)
        return fault->remedy;
    if (shows_all)
        return fault->step == UN_STEP_EXEC
                   ? "install the interpreter, or correct the first line of the script"
                   : "install the program, or choose another: the sandbox hides the files in /tmp, "
                     "/dev, /proc and /sys";
    if (fault->step == UN_STEP_EXEC)
        return "freeze again with the directory of the interpreter: usernsctl freeze --bind DIR";
    return root ? "name an existing program, by its path in the sandbox"
                : "name an existing program, or freeze again with its directory: usernsctl freeze "
                  "--bind DIR";
}

/* Fills in `err` with the text fault->reason. If the text is too long, cuts off its beginning,
 * which is a path. */
static int fail_command_exec(const struct un_command_fault *fault, struct un_error *err)
{
    size_t length = strlen(fault->reason), most = UN_DETAIL_MAX - sizeof "...";
    size_t skipped = length > most ? length - most : 0;
    un_fail(err, UN_STEP_EXEC, fault->errnum, NULL, "%s", "");
    un_diagnose(err, "/proc");
    return un_fail(err, UN_STEP_EXEC, 0, err->cause, "%s%s", skipped ? "..." : "",
                   fault->reason + skipped);
}

static int fail_lookup(const char *command, const char *root, struct un_error *err)
{
    return un_fail(err, UN_STEP_LOOKUP, 0, NULL, "'%.200s' was not found%s in the sandbox%s%.200s",
                   command, un_has_slash(command) ? "" : " along PATH",
                   root ? ", whose root filesystem is " : "", root ? root : "");
}

int un_launch_check_command(struct un_launch *launch, const struct un_launch_params *params,
                            struct un_error *err)
{
    un_auto_free struct un_command_fault *fault = malloc(sizeof *fault);
    const char *command = params->args[0];
    un_launch_set_remedy(launch, NULL, NULL);
    if (!fault)
        return un_fail_errno(err, UN_STEP_LAUNCH, "");
    if (!un_view_check_command(&launch->view, command, path_of(params), params->cwd, fault))
        return 0;
    const struct un_record *tree = un_launch_first(launch, UN_VERB_TREE);
    const char *root = tree ? un_record_source(launch, tree, 0)->path : NULL;
    un_launch_set_remedy(launch, fault->path, "%s", remedy_of(fault, root));
    root = root && strcmp(root, "/") ? root : NULL;
    bool is_missing = fault->step == UN_STEP_LOOKUP;
    return is_missing ? fail_lookup(command, root, err) : fail_command_exec(fault, err);
}
