/* Tests of converting a task to arguments of usernsctl-child and back. */
#include "check.h"
#include "child/child.h"

#include <errno.h>
#include <sched.h>

static const char *const command[] = {"sh", "-c", "", NULL};

static void a_task_is_parsed_from_its_arguments(void)
{
    static const gid_t groups[] = {0, 5, 4294967294U};
    struct un_task task, read;
    struct un_task_argv words;
    struct un_error err;
    un_task_init(&task);
    task.fd[UN_TASK_SOCKET] = 3;
    task.fd[UN_TASK_NS + UN_NS_PID] = 2147483647;
    task.setup.drop_bounding = UINT64_MAX;
    task.setup.uid = 4294967294;
    task.setup.group_count = COUNT(groups);
    task.command.file = "sh";
    task.setup.cwd = "";
    task.setup.groups = groups;
    task.command.argv = command;
    CHECK_OK(un_task_argv_make(&task, &words, &err), &err);
    CHECK_TEXT(words.argv[0], UN_CHILD_NAME);
    CHECK(un_task_parse((char **)words.argv, &read));
    for (int i = 0; i < UN_TASK_FDS; i++)
        CHECK_INT(read.fd[i], task.fd[i]);
#define CHECK_NUMBER(member) CHECK_INT((long long)read.member, (long long)task.member);
    UN_EACH_TASK_NUMBER(CHECK_NUMBER)
    CHECK_TEXT(read.command.file, "sh");
    CHECK_TEXT(read.setup.cwd, "");
    CHECK(read.setup.root == NULL);
    for (size_t i = 0; i < COUNT(groups); i++)
        CHECK_INT(read.setup.groups[i], groups[i]);
    for (size_t i = 0; i < COUNT(command) - 1; i++)
        CHECK_TEXT(read.command.argv[i], command[i]);
    CHECK(read.command.argv[COUNT(command) - 1] == NULL);
    un_task_argv_free(&words);
}

static void more_groups_than_the_kernel_allows_are_rejected(void)
{
    struct un_task task;
    struct un_task_argv words;
    struct un_error err;
    un_task_init(&task);
    task.setup.group_count = UN_GROUPS_MAX + 1;
    CHECK_INT(un_task_argv_make(&task, &words, &err), -1);
    CHECK_INT(err.step, UN_STEP_ARGUMENT);
    CHECK_INT(err.errnum, EINVAL);
    CHECK_TEXT(err.detail, "65537 supplementary groups exceed the limit of 65536");
}

static void invalid_task_arguments_are_rejected(void)
{
    static char *const wrong[][5] = {
        {NULL},
        {"usernsctl-child", NULL},
        {"usernsctl-child", "--help", "x", NULL},
        {"usernsctl-child", "3,", "0,", "sh", NULL},
    };
    struct un_task task;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        char *words[5];
        memcpy(words, wrong[i], sizeof words);
        CHECK(!un_task_parse(words, &task));
    }
}

static void a_new_or_joined_pid_namespace_takes_a_second_child(void)
{
    struct un_task task;
    un_task_init(&task);
    CHECK(!un_task_has_second(&task));
    task.flags = CLONE_NEWUSER | CLONE_NEWNS;
    task.fd[UN_TASK_NS + UN_NS_USER] = 0;
    CHECK(!un_task_has_second(&task));
    task.flags |= CLONE_NEWPID;
    CHECK(un_task_has_second(&task));
    task.flags = 0;
    task.fd[UN_TASK_NS + UN_NS_PID] = 0;
    CHECK(un_task_has_second(&task));
}

int main(void)
{
    a_task_is_parsed_from_its_arguments();
    more_groups_than_the_kernel_allows_are_rejected();
    invalid_task_arguments_are_rejected();
    a_new_or_joined_pid_namespace_takes_a_second_child();
}
