/* Converting a task to arguments of the child program and back, and sending messages. */
#include "base/base.h"
#include "child/child.h"
#include "sys/sys.h"

#include <inttypes.h>

/* The kernel limits the length of an argument to 128 KiB (MAX_ARG_STRLEN). So the list of
 * supplementary groups is split into arguments of 8192 gids, each of which needs at most ten digits
 * and a comma. */
#define GROUPS_PER_ARGUMENT 8192
/* Maximum length in bytes of a gid and the comma after it. */
#define GROUP_LENGTH 11

void un_task_init(struct un_task *task)
{
    memset(task, 0, sizeof *task);
    for (int i = 0; i < UN_TASK_FDS; i++)
        task->fd[i] = -1;
    un_setup_init(&task->setup);
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

/* Parses a number that put_number() has written. Returns a pointer to the byte after the comma, or
 * NULL if `from` is malformed. */
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
    size_t count = 0, groups = (size_t)task->setup.group_count;
    for (size_t i = 0; i < groups; i++) {
        if (i % GROUPS_PER_ARGUMENT == 0) {
            to += i > 0; /* skip the NUL of the previous argument */
            words[count++] = to;
        }
        to = put_number(to, task->setup.groups[i]);
    }
    return count;
}

static void put_numbers(const struct un_task *task, size_t argc, unsigned texts, char *to)
{
#define VALUE(member) (int64_t)task->member,
    const int64_t numbers[] = {(int64_t)argc, texts, UN_EACH_TASK_NUMBER(VALUE)};
#undef VALUE
    for (int i = 0; i < UN_TASK_NUMBERS; i++)
        to = put_number(to, numbers[i]);
}

int un_task_argv_make(const struct un_task *task, struct un_task_argv *words, struct un_error *err)
{
#define VALUE(member) task->member,
    const char *const text[] = {UN_EACH_TASK_TEXT(VALUE)};
#undef VALUE
    const int64_t groups = task->setup.group_count;
    size_t argc = task->command.argv ? count_argv(task->command.argv) : 0;
    size_t count = 3, chunks = count_group_arguments(groups);
    unsigned texts = 0;

    if (groups > UN_GROUPS_MAX)
        return un_fail(err, UN_STEP_ARGUMENT, EINVAL, NULL,
                       "%" PRId64 " supplementary groups exceed the limit of %d", groups,
                       UN_GROUPS_MAX);
    words->argv = calloc(count + UN_TASK_TEXTS + chunks + argc + 1, sizeof(char *));
    words->groups = chunks ? malloc((size_t)groups * GROUP_LENGTH + chunks) : NULL;
    if (!words->argv || (chunks && !words->groups)) {
        un_task_argv_free(words);
        return un_fail(err, UN_STEP_CLONE, ENOMEM, NULL,
                       "can't prepare the arguments of usernsctl-child");
    }
    words->argv[0] = UN_CHILD_NAME;
    words->argv[1] = words->fds;
    words->argv[2] = words->numbers;
    for (int i = 0; i < UN_TASK_TEXTS; i++)
        if (text[i]) {
            texts |= 1U << i;
            words->argv[count++] = text[i];
        }
    un_task_argv_set_fds(words, task->fd);
    put_numbers(task, argc, texts, words->numbers);
    if (chunks)
        count += put_groups(task, words->groups, words->argv + count);
    for (size_t i = 0; i < argc; i++)
        words->argv[count++] = task->command.argv[i];
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

/* Parses the supplementary groups of a task into a static array, because the array does not fit a
 * small stack. One array is enough, because the child program parses only one task. */
static bool read_groups(char ***words, size_t count, struct un_task *task)
{
    static gid_t groups[UN_GROUPS_MAX];
    if (count > UN_GROUPS_MAX)
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
    task->setup.groups = groups;
    return true;
}

/* Parses the two arguments that contain the descriptors and the numbers of a task. */
static bool read_numbers(char **words, struct un_task *task, uint64_t *argc, uint64_t *texts)
{
    int64_t number[UN_TASK_FDS + UN_TASK_NUMBERS], *at = number;
    const char *from = words[1];
    for (int i = 0; i < UN_TASK_FDS + UN_TASK_NUMBERS; i++) {
        if (i == UN_TASK_FDS)
            from = words[2];
        if (!(from = take_number(from, &number[i])))
            return false;
    }
    for (int i = 0; i < UN_TASK_FDS; i++)
        task->fd[i] = (int)*at++;
    *argc = (uint64_t)*at++;
    *texts = (uint64_t)*at++;
#define TAKE(member) task->member = (__typeof__(task->member))*at++;
    UN_EACH_TASK_NUMBER(TAKE)
#undef TAKE
    task->setup.parent_pidfd = task->fd[UN_TASK_PARENT];
    return true;
}

bool un_task_parse(char **words, struct un_task *task)
{
    uint64_t argc, texts;
    un_task_init(task);
    size_t given = count_argv((const char *const *)words);
    if (given < 3 || !read_numbers(words, task, &argc, &texts))
        return false;
    size_t chunks = count_group_arguments(task->setup.group_count), wanted = 3 + chunks;
    for (int i = 0; i < UN_TASK_TEXTS; i++)
        wanted += texts >> i & 1;
    if (texts >> UN_TASK_TEXTS || wanted > given || argc != given - wanted)
        return false;
    words += 3;
#define TAKE(member)                                                                               \
    task->member = texts & 1 ? *words++ : NULL;                                                    \
    texts >>= 1;
    UN_EACH_TASK_TEXT(TAKE)
#undef TAKE
    /* Require a command, unless the task only keeps namespaces alive. */
    if (!task->holds && !(task->command.file && argc))
        return false;
    if (chunks && !read_groups(&words, (size_t)task->setup.group_count, task))
        return false;
    task->command.argv = (const char *const *)words;
    return true;
}

bool un_task_has_second(const struct un_task *task)
{
    return task->flags & (CLONE_NEWPID | CLONE_NEWTIME) || task->fd[UN_TASK_NS + UN_NS_PID] >= 0;
}

bool un_send_message(int socket, const struct un_message *message, const int *fds, size_t count)
{
    return un_send(socket, message, sizeof *message, fds, count);
}

void un_send_failure(int socket, const struct un_error *err)
{
    struct un_message message = {
        .type = UN_MESSAGE_FAILED, .step = err->step, .errnum = err->errnum};
    if (err->cause) {
        size_t length = strnlen(err->cause, sizeof message.cause - 1);
        memcpy(message.cause, err->cause, length);
    }
    memcpy(message.detail, err->detail, strnlen(err->detail, sizeof message.detail - 1));
    un_send_message(socket, &message, NULL, 0);
}
