#include "programs/agent/words.h"

#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

static void *allocate(size_t size)
{
    void *memory =
        mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Whether there is something to be read; not so if nobody wants it any more. */
static bool wait_to_read(int fd, int socket, int control)
{
    struct pollfd polls[] = {{.fd = fd, .events = POLLIN}, {.fd = socket}, {.fd = control}};
    while (ppoll(polls, 3, NULL, NULL) < 0 && errno == EINTR)
        continue;
    return polls[0].revents && !polls[1].revents && !polls[2].revents;
}

static int read_apart(const struct agent_letter *letter, int control, char *into, size_t size)
{
    int fd = letter->fd[AGENT_WORDS];
    for (size_t at = 0; at < size;) {
        if (!wait_to_read(fd, letter->fd[AGENT_SOCKET], control))
            return ECANCELED;
        ssize_t part = read(fd, into + at, size - at);
        if (!part)
            return EPROTO;
        if (part < 0 && errno != EAGAIN && errno != EINTR)
            return errno;
        at += part > 0 ? (size_t)part : 0;
    }
    close(fd);
    return 0;
}

static int load_groups(struct agent_loaded *loaded)
{
    const struct agent_message *message = &loaded->message;
    loaded->groups = NULL;
    if (message->header.groups == AGENT_UNCHANGED)
        return 0;
    loaded->groups = allocate(message->header.groups * sizeof *loaded->groups);
    if (!loaded->groups)
        return ENOMEM;
    for (uint32_t i = 0; i < message->header.groups; i++)
        loaded->groups[i] = agent_read_group(message, i);
    return 0;
}

int agent_load(const struct agent_letter *letter, int control, struct agent_loaded *loaded)
{
    struct agent_message *message = &loaded->message;
    const struct agent_header *header = &message->header;
    int errnum = agent_read_message(letter->bytes, letter->size, message);
    if (errnum)
        return errnum;
    bool apart = header->flags & AGENT_WORDS_APART;
    if (letter->cut || letter->fds != (apart ? AGENT_FDS : AGENT_WORDS))
        return EPROTO;
    const char *bytes = message->words;
    if (apart) {
        char *read = allocate(header->size);
        errnum = read ? read_apart(letter, control, read, header->size) : ENOMEM;
        bytes = read;
    }
    if (!errnum)
        errnum = load_groups(loaded);
    const char **pointers = allocate(agent_pointers(header) * sizeof *pointers);
    if (errnum || !pointers)
        return errnum ? errnum : ENOMEM;
    return agent_read_words(header, bytes, header->size, pointers, &loaded->words);
}
