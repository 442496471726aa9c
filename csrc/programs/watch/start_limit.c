/*
 * Checking the timeout for starting a sandbox. runsc may hang before it starts the command, for
 * example in a system call that never returns, and only the watcher can notice that.
 *
 * runsc reports the start only in the state file of the container, in its state directory. The name
 * of the file contains the container's id. The status in the file is "creating" or "created" before
 * the command runs, and "running" afterwards (runsc/container/container.go). An unknown status
 * counts as running, so that the watcher never kills a working sandbox.
 */
#include "base/base.h"
#include "programs/shared/shared.h"
#include "programs/watch/watch.h"

#include <dirent.h>
#include <sys/stat.h>

#define STATE_MAX (1 << 20)
#define ROOT "--root="

/* Returns runsc's state directory, which is the value of --root in runsc's command line, or NULL if
 * --root is missing. */
static const char *state_directory(char *const *command)
{
    for (; *command; command++)
        if (un_begins(*command, ROOT))
            return *command + strlen(ROOT);
    return NULL;
}

static const char *last_word(char *const *command)
{
    while (command[1])
        command++;
    return *command;
}

static bool ends_with(const char *name, const char *end)
{
    size_t length = strlen(name), size = strlen(end);
    return length >= size && !strcmp(name + length - size, end);
}

/* Returns whether the state file `name` in `root` says that the container has not started yet. */
static bool is_before_start(const char *root, const char *name)
{
    char path[UN_PATH_MAX];
    struct stat status;
    un_auto_free char *text = malloc(STATE_MAX + 1);
    un_auto_close int fd = un_path_join(path, root, name) ? -1 : un_open_regular(path, &status);
    ssize_t got = text && fd >= 0 ? un_read_all(fd, text, STATE_MAX) : -1;
    if (got < 0)
        return false;
    text[got] = '\0';
    return strstr(text, "\"status\":\"creating\"") || strstr(text, "\"status\":\"created\"");
}

/* Returns whether the container `id` has started, or may have started. */
static bool has_started(const char *root, const char *id)
{
    DIR *directory = opendir(root);
    const struct dirent *entry;
    bool is_started = !directory;
    while (directory && !is_started && (entry = readdir(directory)))
        is_started = strstr(entry->d_name, id) && ends_with(entry->d_name, ".state") &&
                     !is_before_start(root, entry->d_name);
    if (directory)
        closedir(directory);
    return is_started;
}

void start_limit_begin(struct start_limit *limit)
{
    limit->until = limit->seconds ? un_now_ms() + (int64_t)limit->seconds * 1000 : 0;
}

bool start_limit_is_over(struct start_limit *limit, char *const *command)
{
    if (!limit->until || un_now_ms() < limit->until)
        return false;
    const char *root = state_directory(command);
    limit->until = 0;
    limit->is_over = root && !has_started(root, last_word(command));
    return limit->is_over;
}

int start_limit_interval(const struct start_limit *limit)
{
    if (!limit->until)
        return -1;
    int64_t left = limit->until - un_now_ms();
    return left > 0 ? (int)left : 0;
}
