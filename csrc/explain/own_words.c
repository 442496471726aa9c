#include "explain/explain.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The length of the dots in place of blotted out text. */
#define LEFT 3

/* The most bytes to search, in about 0.1 seconds. In a message of 500 bytes, 250,000 strings can be
 * searched for. */
#define SEARCHED_MAX ((size_t)1 << 27)

/* A message, and which of its bytes are quotations. */
struct message {
    const char *text;
    size_t length;
    bool *is_theirs;
    size_t searched;
};

static bool is_letter_or_digit(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9');
}

/* Returns whether runsc writes a byte unescaped, in quotations of Go, in JSON and in plain text. */
static bool is_plain_word(char byte)
{
    return byte >= ' ' && byte <= '~' && !strchr("\"'\\<>&", byte);
}

/* Returns whether a text could be taken for words of a message. */
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

static void blot_out(struct message *message, const char *text, size_t length)
{
    /* A message has no spaces at its ends. */
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
            memset(message->is_theirs + (at++ - message->text), true, length);
    }
}

/* Returns the end of an escape, after its backslash. */
static const char *skip_escape(const char *at, const char *end)
{
    size_t length = at < end && *at == 'u' ? 5 : 1;
    return (size_t)(end - at) < length ? end : at + length;
}

/* Blots out the strings of JSON. Searches for those parts of a string that are never escaped, so
 * that it does not matter how runsc escapes the rest. */
static void blot_out_strings(struct message *message, const char *at, const char *end)
{
    bool is_string = false;
    while (at < end) {
        size_t length = 0;
        while (is_string && at + length < end && is_plain_word(at[length]))
            length++;
        blot_out(message, at, length);
        at += length;
        if (at < end && *at == '"')
            is_string = !is_string;
        else if (at < end && *at == '\\' && is_string)
            at = skip_escape(at + 1, end) - 1;
        at += at < end;
    }
}

int un_keep_own_words(char *message, const char *config, size_t size)
{
    struct message whole = {.text = message, .length = strlen(message)};
    char *to = message;
    size_t blots = 0;
    whole.is_theirs = calloc(whole.length + 1, sizeof *whole.is_theirs);
    if (!whole.is_theirs)
        return -1;
    blot_out_strings(&whole, config, config + size);
    if (whole.searched >= SEARCHED_MAX)
        memset(whole.is_theirs, true, whole.length);
    for (size_t i = 0; i < whole.length; i++) {
        blots = whole.is_theirs[i] ? blots + 1 : 0;
        if (blots <= LEFT)
            *to++ = blots ? '.' : message[i];
    }
    *to = '\0';
    free(whole.is_theirs);
    return 0;
}
