#include "base/base.h"

#include <ctype.h>
#include <inttypes.h>

/* Ranges of characters that a terminal interprets, reorders or does not display: Unicode's
 * categories Cc (from U+0080 on), Cf, Zl and Zp, and the noncharacters of the last block. */
static const struct {
    uint32_t first, last;
} unprintable[] = {
    {0x80, 0x9f},       {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
    {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},
    {0x180e, 0x180e},   {0x200b, 0x200f},   {0x2028, 0x202e},   {0x2060, 0x206f},
    {0xfeff, 0xfeff},   {0xfff0, 0xfffb},   {0xfffe, 0xffff},   {0x110bd, 0x110bd},
    {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a},
    {0xe0000, 0xe0fff},
};

static bool is_printable(uint32_t code)
{
    for (size_t i = 0; i < sizeof unprintable / sizeof *unprintable; i++)
        if (code >= unprintable[i].first && code <= unprintable[i].last)
            return false;
    return true;
}

void un_make_printable(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        unsigned char byte = (unsigned char)*from;
        uint32_t code = byte;
        size_t len = byte < 0x80 ? 1 : un_utf8_read(from, &code);
        bool keep = byte < 0x80 ? !iscntrl(byte) : len && is_printable(code);
        if (keep)
            for (size_t i = 0; i < len; i++)
                *to++ = from[i];
        else
            *to++ = byte < 0x80 && isspace(byte) ? ' ' : '?';
        from += len ? len : 1;
    }
    *to = '\0';
}

/* Writes an escape sequence for a character: JSON's short form, such as \n, if there is one,
 * otherwise Python's (\xNN, \uNNNN or \UNNNNNNNN). */
static char *write_escape(char *to, uint32_t code)
{
    static const char signs[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    const char *sign = code && code < 0x80 ? strchr(signs, (int)code) : NULL;
    if (sign)
        return to + sprintf(to, "\\%c", names[sign - signs]);
    if (code >= 0x7f && code < 0x100)
        return to + sprintf(to, "\\x%02" PRIx32, code);
    return to + sprintf(to, code < 0x10000 ? "\\u%04" PRIx32 : "\\U%08" PRIx32, code);
}

static bool is_quotable(uint32_t code)
{
    bool is_ascii = code < 0x80;
    return is_ascii ? code >= ' ' && code != '"' && code != '\\' && code != 0x7f
                    : is_printable(code);
}

void un_quote(const char *text, char quoted[UN_QUOTED_ROOM])
{
    char *to = quoted;
    *to++ = '"';
    for (int count = 0; *text && count < UN_QUOTED_MAX; count++) {
        uint32_t code = (unsigned char)*text;
        size_t length = code < 0x80 ? 1 : un_utf8_read(text, &code);
        if (!length)
            to = stpcpy(to, UN_REPLACEMENT);
        else if (!is_quotable(code))
            to = write_escape(to, code);
        else
            to = mempcpy(to, text, length);
        text += length ? length : 1;
    }
    strcpy(to, *text ? "...\"" : "\"");
}
