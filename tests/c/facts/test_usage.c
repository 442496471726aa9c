/* Tests of measuring the resource usage of the processes of a sandbox. */
#include "check.h"
#include "facts/facts.h"
#include "forked.h"

#include <grp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

/* Number of children. Their list in /proc is too long for a single read(2). */
#define CHILDREN 300

struct seen {
    pid_t child[CHILDREN];
    int count;
    pid_t last; /* pid of the child at which un_any_child() stops; 0 to visit all children */
};

static bool record_child(pid_t pid, void *arg)
{
    struct seen *seen = arg;
    bool is_ours = false;
    for (int i = 0; i < CHILDREN; i++)
        is_ours = is_ours || seen->child[i] == pid;
    CHECK(is_ours);
    seen->count++;
    return pid == seen->last;
}

static pid_t start_child(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    CHECK(pid > 0);
    return pid;
}

static void end_child(pid_t pid)
{
    CHECK_INT(kill(pid, SIGKILL), 0);
    CHECK_INT(waitpid(pid, NULL, 0), pid);
}

static void a_visit_sees_each_child_once(void)
{
    bool failed;
    struct seen seen = {.count = 0};
    for (int i = 0; i < CHILDREN; i++)
        seen.child[i] = start_child();
    CHECK(!un_any_child(getpid(), record_child, &seen, &failed));
    CHECK(!failed);
    CHECK_INT(seen.count, CHILDREN);
    seen.last = seen.child[CHILDREN / 2];
    seen.count = 0;
    CHECK(un_any_child(getpid(), record_child, &seen, &failed));
    CHECK(seen.count > 0 && seen.count <= CHILDREN / 2 + 1);
    for (int i = 0; i < CHILDREN; i++)
        end_child(seen.child[i]);
    un_any_child(seen.child[0], record_child, &seen, &failed);
    CHECK(failed);
}

static void a_new_process_has_another_last_pid(void)
{
    int file = un_open_last_pid();
    /* End the test if un_open_last_pid() fails, as it does in containers where lxcfs emulates the
     * file. */
    if (file < 0)
        return;
    int64_t before = un_last_pid(file);
    pid_t pid = start_child();
    CHECK(before > 0);
    CHECK(un_last_pid(file) != before);
    end_child(pid);
    close(file);
    CHECK_INT(un_last_pid(-1), -1);
}

static void a_reaped_process_uses_nothing(void)
{
    pid_t pid = start_child();
    CHECK(un_processor_time(pid) >= 0);
    CHECK(un_private_memory(pid) > 0);
    CHECK_INT((long long)un_task_count(pid), 1);
    end_child(pid);
    CHECK_INT(un_processor_time(pid), -1);
    CHECK_INT((long long)un_private_memory(pid), 0);
    CHECK_INT((long long)un_task_count(pid), 0);
    CHECK(un_processor_time(0) > 0);
}

/* Checks that the memory in /proc/PID/status is found after a long list of supplementary groups.
 * Only root may set the groups. */
static void many_groups_hide_no_memory(void)
{
    static gid_t groups[4096];
    for (size_t i = 0; i < COUNT(groups); i++)
        groups[i] = (gid_t)(1000000 + i);
    if (setgroups(COUNT(groups), groups) == 0)
        CHECK(un_private_memory(getpid()) > 0);
}

static void a_memory_file_counts_once(void)
{
    struct un_memory_files files;
    CHECK(!un_memory_files_open(getpid(), &files));
    int file = memfd_create("runsc-memory", MFD_CLOEXEC), copy = dup(file);
    CHECK(file >= 0 && copy >= 0);
    CHECK_INT(posix_fallocate(file, 0, 1 << 20), 0);
    CHECK(un_memory_files_open(getpid(), &files));
    CHECK_INT((long long)files.count, 2);
    CHECK_INT((long long)un_memory_files_size(&files), 1 << 20);
    un_memory_files_close(&files);
    CHECK_INT((long long)files.count, 0);
    close(file);
    close(copy);
}

static void a_replaced_memory_file_is_noticed(void)
{
    struct un_memory_files files;
    int file = memfd_create("runsc-memory", MFD_CLOEXEC);
    CHECK(file >= 0 && un_memory_files_open(getpid(), &files));
    CHECK(un_memory_files_are_open(getpid(), &files));
    int other = memfd_create("runsc-memory", MFD_CLOEXEC);
    CHECK(other >= 0 && dup2(other, file) == file);
    CHECK(!un_memory_files_are_open(getpid(), &files));
    close(file);
    CHECK(!un_memory_files_are_open(getpid(), &files));
    un_memory_files_close(&files);
    CHECK(!un_memory_files_are_open(getpid(), &files));
    CHECK(un_memory_files_open(getpid(), &files));
    CHECK(un_memory_files_are_open(getpid(), &files));
    un_memory_files_close(&files);
    close(other);
}

int main(void)
{
    a_visit_sees_each_child_once();
    a_new_process_has_another_last_pid();
    a_reaped_process_uses_nothing();
    check_in_child(many_groups_hide_no_memory);
    a_memory_file_counts_once();
    a_replaced_memory_file_is_noticed();
    return 0;
}
