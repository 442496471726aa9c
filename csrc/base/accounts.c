/* Finding a user and a group in the content of /etc/passwd and /etc/group of a sandbox. Both files
 * are untrusted, because they may come from an image. This code never uses the user database of the
 * host. */
#include "base/base.h"

#define PASSWD_FIELDS 7
#define GROUP_FIELDS 4
/* Number of decimal digits of the largest id, 4294967294. 4294967295 is not an id
 * (setresuid(2)). */
#define ID_DIGITS 10
#define USER_REMEDY                                                                                \
    "give numbers, as in 1000:1000, or names that the sandbox's /etc/passwd and /etc/group "       \
    "contain"

/* A part of a file's content, which may contain any bytes, including NUL. */
struct span {
    const char *at;
    size_t length;
};

/* Moves the part of *rest before the first `separator` to *part. If there is no separator, moves
 * all of *rest, and sets `rest->at` to NULL. Returns false if nothing is left, that is, if
 * `rest->at` is already NULL. */
static bool cut_part(struct span *rest, char separator, struct span *part)
{
    if (!rest->at)
        return false;
    const char *end = memchr(rest->at, separator, rest->length);
    part->at = rest->at;
    part->length = end ? (size_t)(end - rest->at) : rest->length;
    rest->at = end ? end + 1 : NULL;
    rest->length -= part->length + (end ? 1 : 0);
    return true;
}

/* Finds the next line that has exactly `count` fields, and stores its fields in the array `field`.
 * Returns false at the end of the content. */
static bool next_entry(struct span *rest, struct span *field, size_t count)
{
    struct span line, more;
    while (cut_part(rest, '\n', &line)) {
        size_t found = 0;
        while (found < count && cut_part(&line, ':', &field[found]))
            found++;
        if (found == count && !cut_part(&line, ':', &more))
            return true;
    }
    return false;
}

static struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

static struct span content_of(const struct un_account_file *file)
{
    return (struct span){file->bytes, file->length};
}

static bool is_equal(struct span span, const char *name)
{
    return span.length == strlen(name) && !memcmp(span.at, name, span.length);
}

/* Parses `text` as a decimal id. Returns false if `text` is not a valid id. */
static bool read_id(struct span text, uint32_t *id)
{
    char digits[ID_DIGITS + 1];
    uint64_t number;
    if (text.length > ID_DIGITS)
        return false;
    memcpy(digits, text.at, text.length);
    digits[text.length] = '\0';
    if (un_number_read(digits, UINT32_MAX - 1, &number) != digits + text.length)
        return false;
    *id = (uint32_t)number;
    return true;
}

bool un_account_is_id(const char *name)
{
    uint32_t id;
    return read_id(span_of(name), &id);
}

/* Returns whether un_make_printable() would leave the first `length` bytes of `text` unchanged. */
static bool is_printable_text(const char *text, size_t length)
{
    char printable[UN_PATH_MAX];
    if (length >= sizeof printable || strnlen(text, length) < length)
        return false;
    memcpy(printable, text, length);
    printable[length] = '\0';
    un_make_printable(printable);
    return !strncmp(printable, text, length) && strlen(printable) == length;
}

/* Copies `text`, the caller's argument for a user or a group, to `name`. Returns false if `text` is
 * neither a valid id nor a valid name. */
static bool copy_name(const char *text, size_t length, char name[UN_ACCOUNT_NAME_MAX + 1])
{
    if (!length || length > UN_ACCOUNT_NAME_MAX)
        return false;
    memcpy(name, text, length);
    name[length] = '\0';
    if (!name[strspn(name, "0123456789")])
        return un_account_is_id(name);
    /* Reject a leading "-" or "+", as in negative numbers and in the NIS entries of /etc/passwd
     * (nsswitch.conf(5)). */
    return !strchr("+-", *name) && !strpbrk(name, " :,/") && is_printable_text(name, length);
}

bool un_account_parse(const char *text, struct un_account_name *name)
{
    size_t length = strcspn(text, ":");
    const char *group = text[length] ? text + length + 1 : NULL;
    name->has_group = group;
    return copy_name(text, length, name->user) &&
           (!group || copy_name(group, strlen(group), name->group));
}

static int fail_name(const char *what, const char *name, const char *path,
                     const struct un_account_file *file, struct un_error *err)
{
    un_fail(err, UN_STEP_USER, 0, "user-unknown",
            file->bytes ? "the sandbox has no %s '%s': %s has no such name"
                        : "the sandbox has no %s '%s': %s is missing in the sandbox",
            what, name, path);
    strcpy(err->remedy, USER_REMEDY);
    return -1;
}

int un_account_fail_file(const char *path, int errnum, const char *why, struct un_error *err)
{
    /* Set no cause for ENOMEM, EMFILE, ENFILE and EIO: these errors don't come from the content of
     * the file, so the remedy for an unknown user would not help. */
    if (errnum == ENOMEM || errnum == EMFILE || errnum == ENFILE || errnum == EIO) {
        errno = errnum;
        return un_fail_errno(err, UN_STEP_USER, path);
    }
    un_fail(err, UN_STEP_USER, errnum, "user-unknown", "%s in the sandbox%s", path, why);
    strcpy(err->remedy, USER_REMEDY);
    return -1;
}

/* Searches `passwd` for the first valid line of the user `name`, as getpwnam(3) does. Stores the
 * ids and the home directory from that line in `account`. Returns false if there is no such
 * line. */
static bool find_user(const char *name, const struct un_account_file *passwd,
                      struct un_account *account)
{
    struct span rest = content_of(passwd), field[PASSWD_FIELDS];
    while (next_entry(&rest, field, PASSWD_FIELDS)) {
        if (!is_equal(field[0], name) || !read_id(field[2], &account->id[UN_UID]) ||
            !read_id(field[3], &account->id[UN_GID]))
            continue;
        struct span home = field[5];
        if (home.length && *home.at == '/' && is_printable_text(home.at, home.length)) {
            memcpy(account->home, home.at, home.length);
            account->home[home.length] = '\0';
        }
        return true;
    }
    return false;
}

/* Searches `groups` for the first valid line of the group `name`, and stores the gid from that line
 * in *gid. Returns false if there is no such line. */
static bool find_group(const char *name, const struct un_account_file *groups, uint32_t *gid)
{
    struct span rest = content_of(groups), field[GROUP_FIELDS];
    while (next_entry(&rest, field, GROUP_FIELDS))
        if (is_equal(field[0], name) && read_id(field[2], gid))
            return true;
    return false;
}

/* Inserts `gid` into the ascending list account->groups, unless the list already contains `gid`.
 * Because of the binary search, reading a file with a million lines takes less than a second.
 * Returns false if the list is full. */
static bool add_group(struct un_account *account, uint32_t gid)
{
    size_t from = 0, to = account->group_count;
    while (from < to) {
        size_t middle = (from + to) / 2;
        if (account->groups[middle] < gid)
            from = middle + 1;
        else
            to = middle;
    }
    if (from < account->group_count && account->groups[from] == gid)
        return true;
    if (account->group_count == UN_ACCOUNT_GROUPS_MAX)
        return false;
    memmove(&account->groups[from + 1], &account->groups[from],
            (account->group_count - from) * sizeof *account->groups);
    account->groups[from] = gid;
    account->group_count++;
    return true;
}

static bool is_member(struct span members, const char *user)
{
    struct span member;
    while (cut_part(&members, ',', &member))
        if (is_equal(member, user))
            return true;
    return false;
}

/* Adds to account->groups the user's primary group, and all groups in the file `groups` that list
 * the user as a member. */
static int add_groups_of(const char *user, const struct un_account_file *groups,
                         struct un_account *account, struct un_error *err)
{
    struct span rest = content_of(groups), field[GROUP_FIELDS];
    uint32_t gid;
    bool has_room = add_group(account, account->id[UN_GID]);
    while (has_room && next_entry(&rest, field, GROUP_FIELDS))
        if (read_id(field[2], &gid) && is_member(field[3], user))
            has_room = add_group(account, gid);
    if (has_room)
        return 0;
    un_fail(err, UN_STEP_USER, 0, "user-unknown",
            UN_ACCOUNT_GROUP " in the sandbox has too many groups with the user '%s': the limit is "
                             "%d",
            user, UN_ACCOUNT_GROUPS_MAX);
    strcpy(err->remedy, "name the group, too: NAME:GROUP");
    return -1;
}

int un_account_find(const char *user, const char *group, const struct un_account_file *passwd,
                    const struct un_account_file *groups, struct un_account *account,
                    struct un_error *err)
{
    memset(account, 0, sizeof *account);
    bool is_number = read_id(span_of(user), &account->id[UN_UID]);
    if (!is_number && !find_user(user, passwd, account))
        return fail_name("user", user, UN_ACCOUNT_PASSWD, passwd, err);
    if (group && !read_id(span_of(group), &account->id[UN_GID]) &&
        !find_group(group, groups, &account->id[UN_GID]))
        return fail_name("group", group, UN_ACCOUNT_GROUP, groups, err);
    if (group)
        return 0;
    if (!is_number)
        return add_groups_of(user, groups, account, err);
    account->id[UN_GID] = account->id[UN_UID];
    return 0;
}
