/* Text for a config.json. Internal. */
#ifndef USERNSCTL_LAUNCH_JSON_H
#define USERNSCTL_LAUNCH_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A text that grows. */
struct un_text {
    char *bytes;
    size_t length;
    size_t room;
    bool failed; /* there was no memory */
};

void un_text_add(struct un_text *text, const char *more);
/* Adds a JSON string. False: it is not UTF-8, so no JSON string can hold it. */
bool un_text_add_string(struct un_text *text, const char *value);
void un_text_add_number(struct un_text *text, uint64_t number);
void un_text_free(struct un_text *text);

#endif
