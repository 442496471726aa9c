#include "base/base.h"
#include "explain/explain.h"

/* Maximum nesting depth of JSON that is parsed, so that the recursion fits the stack. */
#define DEPTH_MAX 64

/* State of a JSON parser: the rest of the JSON text, and where to copy the current string. */
struct reader {
    const char *at;
    const char *end;
    char *to; /* destination of the string that is being parsed; NULL if it is skipped */
};

static bool take_byte(struct reader *reader, char wanted)
{
    if (reader->at == reader->end || *reader->at != wanted)
        return false;
    reader->at++;
    return true;
}

static void skip_space(struct reader *reader)
{
    while (reader->at < reader->end && *reader->at && strchr(" \t\r\n", *reader->at))
        reader->at++;
}

static void append_bytes(struct reader *reader, const char *bytes, size_t length)
{
    if (!reader->to)
        return;
    memcpy(reader->to, bytes, length);
    reader->to += length;
}

static void add_code(struct reader *reader, uint32_t code)
{
    char bytes[4];
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    if (!code || (code >= 0xd800 && code < 0xe000)) {
        append_bytes(reader, UN_REPLACEMENT, 3);
        return;
    }
    for (size_t i = length; i-- > 1; code >>= 6)
        bytes[i] = (char)(0x80 | (code & 0x3f));
    bytes[0] = (char)(length == 1 ? code : (0xf00U >> length & 0xff) | code);
    append_bytes(reader, bytes, length);
}

/* Parses four hexadecimal digits. */
static bool read_hex(struct reader *reader, uint32_t *code)
{
    static const char digits[] = "0123456789abcdef";
    *code = 0;
    for (int i = 0; i < 4; i++, reader->at++) {
        char digit = reader->at < reader->end ? *reader->at : '\0';
        digit = (char)(digit >= 'A' && digit <= 'F' ? digit - 'A' + 'a' : digit);
        const char *found = digit ? strchr(digits, digit) : NULL;
        if (!found)
            return false;
        *code = *code << 4 | (uint32_t)(found - digits);
    }
    return true;
}

/* Parses the rest of a \u escape sequence: a character, or both halves of a surrogate pair. */
static bool read_code(struct reader *reader)
{
    uint32_t code, low;
    if (!read_hex(reader, &code))
        return false;
    const char *behind = reader->at;
    bool is_high = code >= 0xd800 && code < 0xdc00;
    if (is_high && take_byte(reader, '\\') && take_byte(reader, 'u') && read_hex(reader, &low) &&
        low >= 0xdc00 && low < 0xe000)
        code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
    else
        reader->at = behind;
    add_code(reader, code);
    return true;
}

static bool read_escape(struct reader *reader)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (take_byte(reader, 'u'))
        return read_code(reader);
    const char *name = reader->at < reader->end && *reader->at ? strchr(names, *reader->at) : NULL;
    if (!name)
        return false;
    reader->at++;
    append_bytes(reader, &values[name - names], 1);
    return true;
}

/* Parses a string after its opening quotation mark. The copy is at most three times as long as the
 * string in the JSON text. */
static bool read_string(struct reader *reader)
{
    while (reader->at < reader->end && *reader->at != '"') {
        unsigned char byte = (unsigned char)*reader->at;
        uint32_t code;
        if (byte < 0x20)
            return false;
        if (take_byte(reader, '\\')) {
            if (!read_escape(reader))
                return false;
            continue;
        }
        /* un_utf8_read() does not read past the NUL that terminates the JSON text. */
        size_t length = byte < 0x80 ? 1 : un_utf8_read(reader->at, &code);
        if (length)
            append_bytes(reader, reader->at, length);
        else
            append_bytes(reader, UN_REPLACEMENT, 3);
        reader->at += length ? length : 1;
    }
    return take_byte(reader, '"');
}

/* Skips a number, or the word true, false or null. */
static bool skip_word(struct reader *reader)
{
    const char *start = reader->at;
    while (reader->at < reader->end && *reader->at && !strchr(" \t\r\n,:]}[{\"", *reader->at))
        reader->at++;
    return reader->at > start;
}

static bool read_value(struct reader *reader, char *message, int depth);

/* Parses the name of an object's member, and the colon after it. Sets *is_message if the name is
 * "msg". */
static bool read_name(struct reader *reader, bool *is_message)
{
    const char *name = reader->at;
    if (!take_byte(reader, '"') || !read_string(reader))
        return false;
    *is_message = reader->at - name == 5 && !memcmp(name, "\"msg\"", 5);
    skip_space(reader);
    return take_byte(reader, ':');
}

/* Parses the members of an array or object after its opening bracket. Copies the value of the
 * object's member "msg" (the last such member, if there are several) to `message`, unless `message`
 * is NULL. */
static bool read_members(struct reader *reader, char closing, char *message, int depth)
{
    skip_space(reader);
    if (take_byte(reader, closing))
        return true;
    do {
        bool is_message = false;
        skip_space(reader);
        if (closing == '}' && !read_name(reader, &is_message))
            return false;
        if (!read_value(reader, is_message ? message : NULL, depth))
            return false;
        skip_space(reader);
    } while (take_byte(reader, ','));
    return take_byte(reader, closing);
}

/* Parses a value. If the value is a string, copies it to `message`, unless `message` is NULL. */
static bool read_value(struct reader *reader, char *message, int depth)
{
    skip_space(reader);
    if (depth == DEPTH_MAX)
        return false;
    if (take_byte(reader, '"')) {
        reader->to = message;
        bool is_whole = read_string(reader);
        if (reader->to)
            *reader->to = '\0';
        reader->to = NULL;
        return is_whole;
    }
    if (take_byte(reader, '{'))
        return read_members(reader, '}', NULL, depth + 1);
    if (take_byte(reader, '['))
        return read_members(reader, ']', NULL, depth + 1);
    return skip_word(reader);
}

/* Strips white space from both ends of a string, in place. Returns the new length. */
static size_t strip_space(char *text)
{
    static const char space[] = " \t\r\n\v\f";
    size_t before = strspn(text, space), length = strlen(text + before);
    memmove(text, text + before, length + 1);
    while (length && strchr(space, text[length - 1]))
        length--;
    text[length] = '\0';
    return length;
}

int un_messages_read(const char *text, size_t size, struct un_messages *messages)
{
    *messages = (struct un_messages){0};
    /* Parse a copy that is terminated by NUL, because `text` need not be. */
    char *copy = calloc(1, size + 1);
    messages->bytes = calloc(1, size * 3 + 1);
    if (!copy || !messages->bytes) {
        free(copy);
        un_messages_free(messages);
        return -1;
    }
    memcpy(copy, text, size);
    struct reader reader = {.at = copy, .end = copy + size};
    for (;;) {
        char *message = messages->bytes + messages->size;
        *message = '\0';
        reader.at = memchr(reader.at, '{', (size_t)(reader.end - reader.at));
        if (!reader.at)
            break;
        reader.at++;
        if (!read_members(&reader, '}', message, 1)) {
            *message = '\0';
            break;
        }
        size_t length = strip_space(message);
        messages->size += length ? length + 1 : 0;
        messages->count += length != 0;
    }
    free(copy);
    return 0;
}

void un_messages_free(struct un_messages *messages)
{
    free(messages->bytes);
    *messages = (struct un_messages){0};
}
