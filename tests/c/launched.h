/* Functions for C tests that write and parse launch files. */
#ifndef LAUNCHED_H
#define LAUNCHED_H

#include "check.h"

/* The contents of a launch file that a test composes. */
struct draft {
    char bytes[65536];
    size_t size;
};

static inline void add_word(struct draft *draft, const char *word)
{
    size_t length = strlen(word) + 1;
    CHECK(draft->size + length <= sizeof draft->bytes);
    memcpy(draft->bytes + draft->size, word, length);
    draft->size += length;
}

/* Appends the strings in `line`, which spaces separate, to a launch file. A space after a backslash
 * does not end a string. */
static inline void add_line(struct draft *draft, const char *line)
{
    char word[4096];
    size_t length = 0;
    for (; *line; line++) {
        if (*line == '\\' && line[1] == ' ')
            word[length++] = *++line;
        else if (*line != ' ')
            word[length++] = *line;
        if (*line == ' ' && line[-1] != '\\') {
            word[length] = '\0';
            add_word(draft, word);
            length = 0;
        }
    }
    word[length] = '\0';
    add_word(draft, word);
}

/* Writes the header of a launch file and then `lines`, which is terminated by NULL. */
static inline void write_draft(struct draft *draft, const char *const *lines)
{
    draft->size = 0;
    add_line(draft, "usernsctl-launch 2 " USERNSCTL_VERSION);
    for (; *lines; lines++)
        add_line(draft, *lines);
}

/* Parses a launch that consists of the header, `lines` and "end", and checks that it is valid.
 * Returns it. */
static inline struct un_launch *launch_of(struct draft *draft, const char *const *lines)
{
    struct un_launch *launch;
    struct un_error err;
    write_draft(draft, lines);
    add_word(draft, "end");
    CHECK_OK(un_launch_parse(draft->bytes, draft->size, &launch, &err), &err);
    return launch;
}

#define LINES(...) ((const char *const[]){__VA_ARGS__, NULL})

#endif
