/* Parsing the mount table, /proc/self/mountinfo. */
#include "base/base.h"

#define ROOM_FIRST 16384

/* Reads a whole file, and terminates the content by NUL. Returns the content, which the caller must
 * free, or NULL with errno set. */
static char *read_whole(int fd)
{
    char *text = NULL, *grown;
    size_t length = 0;
    for (size_t room = ROOM_FIRST; (grown = realloc(text, room)); room *= 2) {
        text = grown;
        ssize_t got = un_read_all(fd, text + length, room - 1 - length);
        if (got < 0)
            break;
        length += (size_t)got;
        text[length] = '\0';
        if (length < room - 1)
            return text;
    }
    int errnum = errno;
    free(text);
    errno = errnum;
    return NULL;
}

/* Decodes mountinfo's octal escape sequences (\ooo) in place. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned code;
        bool is_escape = *from == '\\' && sscanf(from + 1, "%3o", &code) == 1;
        *to = is_escape ? (char)code : *from;
        from += is_escape ? 4 : 1;
    }
    *to = '\0';
}

/* Replaces the first space in `text` by NUL. Returns the text after the space, or NULL if there is
 * no space. */
static char *cut_field(char *text)
{
    char *space = text ? strchr(text, ' ') : NULL;
    if (!space)
        return NULL;
    *space = '\0';
    return space + 1;
}

/* Parses a line of mountinfo, which has the form ID PARENT DEVICE ROOT POINT OPTIONS [TAG]... -
 * TYPE SOURCE OPTIONS. */
static bool parse_mount(char *line, struct un_mounted *mount)
{
    char *end = strstr(line, " - ");
    char *parent = cut_field(line), *device = cut_field(parent), *root = cut_field(device),
         *point = cut_field(root);
    char *type = end ? end + 3 : NULL, *source = cut_field(type), *options = cut_field(source);
    if (!options || !cut_field(point))
        return false;
    unescape(root);
    unescape(point);
    *mount = (struct un_mounted){atoi(line), atoi(parent), device, root, point, type, options};
    return true;
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;
    while ((text = strchr(text, '\n')))
        lines++, text++;
    return lines;
}

int un_mounts_read(struct un_mounts *mounts, const char *path)
{
    *mounts = (struct un_mounts){NULL, NULL, 0};
    un_auto_close int fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    mounts->text = fd < 0 ? NULL : read_whole(fd);
    if (!mounts->text)
        return -1;
    mounts->mount = calloc(count_lines(mounts->text) + 1, sizeof *mounts->mount);
    if (!mounts->mount)
        return -1;
    for (char *line = mounts->text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        if (!parse_mount(line, &mounts->mount[mounts->count])) {
            errno = EBADMSG;
            return -1;
        }
        mounts->count++;
    }
    return 0;
}

void un_mounts_free(const struct un_mounts *mounts)
{
    free(mounts->text);
    free(mounts->mount);
}

const struct un_mounted *un_mounts_by_id(const struct un_mounts *mounts, int id)
{
    for (size_t i = 0; i < mounts->count; i++)
        if (mounts->mount[i].id == id)
            return &mounts->mount[i];
    return NULL;
}

int un_mounts_find(const struct un_mounts *mounts, int fd, const struct un_mounted **found)
{
    int id = (int)un_fd_info(fd, "mnt_id:");
    *found = id < 0 ? NULL : un_mounts_by_id(mounts, id);
    return id < 0 ? -1 : 0;
}
