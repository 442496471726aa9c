/* Looking up the command's user in the sandbox's /etc/passwd and /etc/group. */
#include "base/base.h"
#include "launch/launch.h"

/* Reads the sandbox's /etc/passwd or /etc/group into file->bytes, which the caller must free. If
 * the file does not exist, file->bytes stays NULL; if it is not a regular file, the function fails.
 * gvisor/launch/accounts.py applies the same rules. */
static int read_accounts(const struct un_view *view, const char *path, struct un_account_file *file,
                         struct un_error *err)
{
    struct stat status;
    un_auto_free struct un_reached *reached = malloc(sizeof *reached);
    if (!reached)
        return un_fail_errno(err, UN_STEP_USER, path);
    un_auto_close int found = un_view_follow(view, "/", path, reached);
    if (reached->errnum)
        return un_account_fail_file(path, reached->errnum, "", err);
    if (reached->is_of_gvisor)
        return un_account_fail_file(path, 0, " leads into gVisor's own /proc, /sys or /dev", err);
    if (found < 0 || *reached->missing)
        return 0;
    if (fstat(found, &status))
        return un_account_fail_file(path, errno, "", err);
    /* Check the type on the open descriptor, because another process could replace the file at the
     * path between a check and the open. */
    if (!S_ISREG(status.st_mode))
        return un_account_fail_file(path, 0, ": not a regular file", err);
    un_auto_close int opened = un_reopen(found, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (opened < 0)
        return un_account_fail_file(path, errno, "", err);
    /* Allocate the maximum size instead of the size that fstat(2) reported, because the file may
     * grow before it is read. */
    char *bytes = malloc(UN_ACCOUNT_FILE_MAX + 1);
    file->bytes = bytes;
    ssize_t length = bytes ? un_read_all(opened, bytes, UN_ACCOUNT_FILE_MAX + 1) : -1;
    if (length < 0)
        return un_account_fail_file(path, errno, "", err);
    if (length > UN_ACCOUNT_FILE_MAX)
        return un_account_fail_file(path, 0, " is larger than 8 MiB", err);
    file->length = (size_t)length;
    return 0;
}

int un_launch_find_user(struct un_launch *launch, const struct un_account_name *name,
                        struct un_account *account, struct un_error *err)
{
    struct un_account_file passwd = {0}, groups = {0};
    const char *group = name->has_group ? name->group : NULL;
    bool is_named = !un_account_is_id(name->user);
    un_launch_set_remedy(launch, NULL, NULL);
    int failed = 0;
    if (is_named)
        failed = read_accounts(&launch->view, UN_ACCOUNT_PASSWD, &passwd, err);
    if (!failed && (group ? !un_account_is_id(group) : is_named))
        failed = read_accounts(&launch->view, UN_ACCOUNT_GROUP, &groups, err);
    if (!failed)
        failed = un_account_find(name->user, group, &passwd, &groups, account, err);
    free((char *)(uintptr_t)passwd.bytes);
    free((char *)(uintptr_t)groups.bytes);
    return failed;
}
