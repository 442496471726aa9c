#include "explain/explain.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Number of dots that replace a quotation. */
#define DOTS 3

/* Maximum total number of bytes that the searches for quotations in one message may read. They take
 * about 0.1 seconds, enough to search a message of 500 bytes for 250,000 strings. */
#define SEARCHED_MAX ((size_t)1 << 27)

/* A message of runsc, with a flag for each byte that tells whether the byte is part of a quotation
 * of config.json. */
struct message {
    const char *text;
    size_t length;
    bool *is_quotation;
    size_t searched;
};

static bool is_letter_or_digit(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9');
}

/* Returns whether runsc prints a byte unescaped in each of its formats: Go's quoted strings, JSON
 * and plain text. */
static bool is_plain_word(char byte)
{
    return byte >= ' ' && byte <= '~' && !strchr("\"'\\<>&", byte);
}

/* Returns whether the first `length` bytes of `text` could be mistaken for a message of runsc: they
 * contain a letter or digit, and a character that does not occur in single words and paths. */
static bool is_phrase(const char *text, size_t length)
{
    bool has_word = false, has_other = false;
    for (size_t i = 0; i < length; i++) {
        bool is_word = is_letter_or_digit(text[i]);
        has_word = has_word || is_word;
        has_other = has_other || (!is_word && !strchr("_./=-", text[i]));
    }
    return has_word && has_other;
}

static void mark_quotations(struct message *message, const char *text, size_t length)
{
    /* Ignore spaces at both ends, because no message of the catalogue begins or ends with a
     * space. */
    while (length && *text == ' ') {
        text++;
        length--;
    }
    while (length && text[length - 1] == ' ')
        length--;
    if (!is_phrase(text, length))
        return;
    const char *at = message->text, *end = at + message->length;
    while (at && message->searched < SEARCHED_MAX) {
        message->searched += (size_t)(end - at);
        at = memmem(at, (size_t)(end - at), text, length);
        if (at)
            memset(message->is_quotation + (at++ - message->text), true, length);
    }
}

/* Returns the end of a JSON escape sequence. `at` points to the byte after the backslash. */
static const char *skip_escape(const char *at, const char *end)
{
    size_t length = at < end && *at == 'u' ? 5 : 1;
    return (size_t)(end - at) < length ? end : at + length;
}

/* Marks the parts of the message that quote strings of a JSON document. Searches the message only
 * for the parts of a string that runsc never escapes, because runsc escapes the other characters in
 * several ways. */
static void mark_strings(struct message *message, const char *at, const char *end)
{
    bool is_string = false;
    while (at < end) {
        size_t length = 0;
        while (is_string && at + length < end && is_plain_word(at[length]))
            length++;
        mark_quotations(message, at, length);
        at += length;
        if (at < end && *at == '"')
            is_string = !is_string;
        else if (at < end && *at == '\\' && is_string)
            at = skip_escape(at + 1, end) - 1;
        at += at < end;
    }
}

int un_remove_quotations(char *message, const char *config, size_t size)
{
    struct message whole = {.text = message, .length = strlen(message)};
    char *to = message;
    size_t dots = 0;
    whole.is_quotation = calloc(whole.length + 1, sizeof *whole.is_quotation);
    if (!whole.is_quotation)
        return -1;
    mark_strings(&whole, config, config + size);
    if (whole.searched >= SEARCHED_MAX)
        memset(whole.is_quotation, true, whole.length);
    for (size_t i = 0; i < whole.length; i++) {
        dots = whole.is_quotation[i] ? dots + 1 : 0;
        if (dots <= DOTS)
            *to++ = dots ? '.' : message[i];
    }
    *to = '\0';
    free(whole.is_quotation);
    return 0;
}
