/* Writing JSON strings (RFC 8259), in UTF-8. */
#include "base/base.h"
#include "launch/launch.h"

static void add_bytes(struct un_text *text, const char *more, size_t length)
{
    if (text->failed || !length)
        return;
    if (length > text->room - text->length) {
        size_t room = (text->length + length) * 2 + 4096;
        char *grown = realloc(text->bytes, room);
        text->failed = !grown;
        if (!grown)
            return;
        text->bytes = grown;
        text->room = room;
    }
    memcpy(text->bytes + text->length, more, length);
    text->length += length;
}

void un_text_add(struct un_text *text, const char *more)
{
    add_bytes(text, more, strlen(more));
}

void un_text_add_number(struct un_text *text, uint64_t number)
{
    char digits[21];
    un_number_write(digits, number);
    un_text_add(text, digits);
}

static void add_escaped(struct un_text *text, unsigned char byte)
{
    char escape[8];
    if (byte == '"' || byte == '\\')
        snprintf(escape, sizeof escape, "\\%c", byte);
    else
        snprintf(escape, sizeof escape, "\\u%04x", byte);
    un_text_add(text, escape);
}

/* Returns the number of bytes at the beginning of `value` that need no escape sequence. Sets
 * *broken if the next bytes are not valid UTF-8. */
static size_t plain_run(const char *value, bool *broken)
{
    size_t length = 0;
    uint32_t code;
    *broken = false;
    for (;;) {
        unsigned char byte = (unsigned char)value[length];
        if (byte < 0x20 || byte == '"' || byte == '\\')
            return length;
        size_t size = byte < 0x80 ? 1 : un_utf8_read(value + length, &code);
        *broken = !size;
        if (!size)
            return length;
        length += size;
    }
}

bool un_text_add_string(struct un_text *text, const char *value)
{
    bool broken;
    add_bytes(text, "\"", 1);
    for (;;) {
        size_t length = plain_run(value, &broken);
        add_bytes(text, value, length);
        value += length;
        if (broken)
            return false;
        if (!*value)
            break;
        add_escaped(text, (unsigned char)*value++);
    }
    add_bytes(text, "\"", 1);
    return true;
}

const char *un_text_end(struct un_text *text)
{
    add_bytes(text, "", 1);
    return text->failed ? NULL : text->bytes;
}

void un_text_free(struct un_text *text)
{
    free(text->bytes);
}
