/* Fuzz target: whatever file records the agent receives, it creates no file outside the destination
 * directory, and no device, FIFO or set-user-id file. */
#include "programs/agent/agent.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int check_one(const char *path, const struct stat *found, int kind, struct FTW *where)
{
    (void)kind, (void)where;
    bool is_usual = S_ISREG(found->st_mode) || S_ISDIR(found->st_mode) || S_ISLNK(found->st_mode);
    if (!is_usual || (!S_ISLNK(found->st_mode) && found->st_mode & 07000))
        abort();
    return remove(path);
}

/* Checks the types and modes of all files that the agent has created in `tree`, and removes
 * them. */
static void check_tree(const char *tree)
{
    struct stat found;
    chmod(tree, 0700);
    if (!lstat(tree, &found) && nftw(tree, check_one, 64, FTW_DEPTH | FTW_PHYS))
        abort();
}

static void create(const uint8_t *data, size_t size, const char *tree, int flags)
{
    int input = memfd_create("records", 0), output = open("/dev/null", O_WRONLY);
    if (write(input, data, size) != (ssize_t)size)
        abort();
    lseek(input, 0, SEEK_SET);
    const struct agent_copying how = {
        .input = input,
        .output = output,
        .path = tree,
        .merges = flags & 1,
        .parents = flags & 2,
    };
    if (flags & 4)
        agent_write_file(&how);
    else
        agent_copy_in(&how);
    close(input);
    close(output);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char top[] = "/dev/shm/usernsctl-fuzz-XXXXXX", tree[64];
    if (!size || !mkdtemp(top))
        return 0;
    snprintf(tree, sizeof tree, "%s/tree", top);
    create(data + 1, size - 1, tree, data[0]);
    check_tree(tree);
    /* rmdir(2) fails if the agent has created a file beside the destination directory. */
    if (rmdir(top))
        abort();
    return 0;
}
