/* Fuzz target: looking up any name in any /etc/passwd and /etc/group yields only valid ids, and at
 * most as many groups as fit the result. The input consists of the name, a line feed, and the
 * content of both files. */
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void find_in(const char *name, const struct un_account_file *file)
{
    static struct un_account account;
    static struct un_account_name parsed;
    struct un_error err;
    if (!un_account_parse(name, &parsed))
        return;
    const char *group = parsed.has_group ? parsed.group : NULL;
    if (un_account_find(parsed.user, group, file, file, &account, &err))
        return;
    if (account.id[UN_UID] == UINT32_MAX || account.id[UN_GID] == UINT32_MAX)
        abort();
    for (size_t i = 1; i < account.group_count; i++)
        if (account.groups[i - 1] >= account.groups[i])
            abort();
    if (*account.home && *account.home != '/')
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *line = size ? memchr(data, '\n', size) : NULL;
    size_t length = line ? (size_t)(line - data) : size;
    size_t rest = line ? size - length - 1 : 0;
    /* Copy the name and the content to buffers of exactly their size, so that AddressSanitizer
     * detects reads past the end. */
    un_auto_free char *name = malloc(length + 1), *bytes = malloc(rest ? rest : 1);
    if (!name || !bytes)
        return 0;
    memcpy(name, data, length);
    name[length] = '\0';
    if (rest)
        memcpy(bytes, line + 1, rest);
    find_in(name, &(struct un_account_file){bytes, rest});
    return 0;
}
