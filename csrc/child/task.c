/* The task of the child program as arguments, and the messages of the child program. */
#include "base/base.h"
#include "child/child.h"
#include "sys/sys.h"

/* The kernel limits an argument to 128 KiB (MAX_ARG_STRLEN), so the groups are split into arguments
 * of 8192 groups, each of at most ten digits and a comma. */
#define GROUPS_PER_ARGUMENT 8192
#define GROUP_LENGTH 11
/* NGROUPS_MAX of the kernel. */
#define GROUPS_MAX 65536

void un_task_init(struct un_task *task)
{
    memset(task, 0, sizeof *task);
    for (int i = 0; i < UN_TASK_FDS; i++)
        task->fd[i] = -1;
    task->number[UN_TASK_GID] = task->number[UN_TASK_UID] = -1;
    task->number[UN_TASK_GROUPS] = -1;
}

/* Writes a number and a comma, terminated by NUL, and returns a pointer to the NUL. */
static char *put_number(char *to, int64_t number)
{
    if (number < 0)
        *to++ = '-';
    to = un_number_write(to, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
    *to++ = ',';
    *to = '\0';
    return to;
}

/* Parses a number written by put_number(). Returns a pointer past the comma, or NULL. */
static const char *take_number(const char *from, int64_t *number)
{
    if (!from)
        return NULL;
    bool negative = *from == '-';
    uint64_t read;
    from = un_number_read(from + negative, UINT64_MAX, &read);
    if (!from || *from != ',')
        return NULL;
    *number = (int64_t)(negative ? 0 - read : read);
    return from + 1;
}

static size_t count_group_arguments(int64_t groups)
{
    return groups <= 0 ? 0 : ((size_t)groups + GROUPS_PER_ARGUMENT - 1) / GROUPS_PER_ARGUMENT;
}

static size_t count_argv(const char *const *words)
{
    size_t count = 0;
    while (words[count])
        count++;
    return count;
}

static size_t put_groups(const struct un_task *task, char *to, const char **words)
{
    size_t count = 0, groups = (size_t)task->number[UN_TASK_GROUPS];
    for (size_t i = 0; i < groups; i++) {
        if (i % GROUPS_PER_ARGUMENT == 0) {
            to += i > 0; /* skip the NUL of the previous argument */
            words[count++] = to;
        }
        to = put_number(to, task->groups[i]);
    }
    return count;
}

int un_task_argv_make(const struct un_task *task, struct un_task_argv *words, struct un_error *err)
{
    int64_t numbers[UN_TASK_NUMBERS];
    const int64_t groups = task->number[UN_TASK_GROUPS];
    size_t argc = task->argv ? count_argv(task->argv) : 0;
    size_t count = 0, chunks = count_group_arguments(groups);

    if (groups > GROUPS_MAX)
        return un_fail(err, UN_STEP_SETGROUPS, EINVAL, NULL, "supplementary groups");
    words->argv = calloc(3 + UN_TASK_TEXT_COUNT + chunks + argc + 1, sizeof(char *));
    words->groups = chunks ? malloc((size_t)groups * GROUP_LENGTH + chunks) : NULL;
    if (!words->argv || (chunks && !words->groups)) {
        un_task_argv_free(words);
        return un_fail(err, UN_STEP_CLONE, ENOMEM, NULL, "the arguments of the child program");
    }
    memcpy(numbers, task->number, sizeof numbers);
    numbers[UN_TASK_ARGC] = (int64_t)argc;
    numbers[UN_TASK_TEXTS] = 0;
    words->argv[count++] = UN_CHILD_NAME;
    words->argv[count++] = words->fds;
    words->argv[count++] = words->numbers;
    un_task_argv_set_fds(words, task->fd);
    for (int i = 0; i < UN_TASK_TEXT_COUNT; i++)
        if (task->text[i]) {
            numbers[UN_TASK_TEXTS] |= 1 << i;
            words->argv[count++] = task->text[i];
        }
    char *to = words->numbers;
    for (int i = 0; i < UN_TASK_NUMBERS; i++)
        to = put_number(to, numbers[i]);
    if (chunks)
        count += put_groups(task, words->groups, words->argv + count);
    for (size_t i = 0; i < argc; i++)
        words->argv[count++] = task->argv[i];
    return 0;
}

void un_task_argv_set_fds(struct un_task_argv *words, const int fd[UN_TASK_FDS])
{
    char *to = words->fds;
    for (int i = 0; i < UN_TASK_FDS; i++)
        to = put_number(to, fd[i]);
}

void un_task_argv_free(struct un_task_argv *words)
{
    free(words->argv);
    free(words->groups);
}

/* The groups are static: the child program has no heap, and reads a task only once. */
static bool read_groups(char ***words, size_t count, struct un_task *task)
{
    static gid_t groups[GROUPS_MAX];
    if (count > GROUPS_MAX)
        return false;
    const char *from = NULL;
    for (size_t i = 0; i < count; i++) {
        int64_t group;
        if (i % GROUPS_PER_ARGUMENT == 0)
            from = *(*words)++;
        if (!(from = take_number(from, &group)))
            return false;
        groups[i] = (gid_t)group;
    }
    task->groups = groups;
    return true;
}

bool un_task_parse(char **words, struct un_task *task)
{
    un_task_init(task);
    size_t given = count_argv((const char *const *)words);
    if (given < 3)
        return false;
    const char *from = words[1];
    for (int i = 0; i < UN_TASK_FDS; i++) {
        int64_t fd;
        if (!(from = take_number(from, &fd)))
            return false;
        task->fd[i] = (int)fd;
    }
    from = words[2];
    for (int i = 0; i < UN_TASK_NUMBERS; i++)
        if (!(from = take_number(from, &task->number[i])))
            return false;
    uint64_t texts = (uint64_t)task->number[UN_TASK_TEXTS];
    uint64_t argc = (uint64_t)task->number[UN_TASK_ARGC];
    size_t chunks = count_group_arguments(task->number[UN_TASK_GROUPS]);
    size_t wanted = 3 + chunks;
    for (int i = 0; i < UN_TASK_TEXT_COUNT; i++)
        wanted += texts >> i & 1;
    if (texts >> UN_TASK_TEXT_COUNT || wanted > given || argc != given - wanted)
        return false;
    /* A task that only holds namespaces has no command. */
    bool has_command = texts >> UN_TASK_FILE & 1 && argc;
    if (!task->number[UN_TASK_HOLD] && !has_command)
        return false;
    words += 3;
    for (int i = 0; i < UN_TASK_TEXT_COUNT; i++)
        if (texts >> i & 1)
            task->text[i] = *words++;
    if (chunks && !read_groups(&words, (size_t)task->number[UN_TASK_GROUPS], task))
        return false;
    task->argv = (const char *const *)words;
    return true;
}

bool un_task_has_second(const struct un_task *task)
{
    return task->number[UN_TASK_FLAGS] & (CLONE_NEWPID | CLONE_NEWTIME) ||
           task->fd[UN_TASK_NS + UN_NS_PID] >= 0;
}

bool un_send_news(int socket, const struct un_message *message, const int *fds, size_t count)
{
    return un_send(socket, message, sizeof *message, fds, count);
}

void un_send_failure(int socket, const struct un_error *err)
{
    struct un_message message = {.news = UN_NEWS_FAILED, .step = err->step, .errnum = err->errnum};
    if (err->cause) {
        size_t length = strnlen(err->cause, sizeof message.cause - 1);
        memcpy(message.cause, err->cause, length);
    }
    memcpy(message.detail, err->detail, strnlen(err->detail, sizeof message.detail - 1));
    un_send_news(socket, &message, NULL, 0);
}
