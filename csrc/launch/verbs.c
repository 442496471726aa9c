/* The verbs of a launch's records, and the validation of the records' arguments. */
#include "launch/verbs.h"
#include "base/base.h"

#define RULE(id, name, part, once, ...)                                                            \
    [UN_VERB_##id] = {name, UN_PART_##part, once, {__VA_ARGS__}},

const struct un_verb_rule un_verb_rules[UN_VERB_COUNT] = {UN_EACH_VERB(RULE)};

enum un_verb un_verb_find(const char *name)
{
    unsigned first = 0, end = UN_VERB_COUNT;
    while (first < end) {
        unsigned middle = (first + end) / 2;
        int order = strcmp(name, un_verb_rules[middle].name);
        if (order == 0)
            return (enum un_verb)middle;
        if (order < 0)
            end = middle;
        else
            first = middle + 1;
    }
    return UN_VERB_COUNT;
}

static bool is_number(const char *word, uint64_t most)
{
    uint64_t number;
    const char *end = un_number_read(word, most, &number);
    return end && !*end;
}

static bool is_octal(const char *word, unsigned long most)
{
    size_t digits = strspn(word, "01234567");
    return digits && digits < 9 && !word[digits] && un_argument_mode(word) <= most;
}

static bool is_sum(const char *word)
{
    size_t digits = strspn(word, "0123456789abcdef");
    return digits == UN_CONTENT_SUM_ROOM - 1 && !word[digits];
}

static bool is_name(const char *word, size_t length)
{
    bool is_dots = (length == 1 && word[0] == '.') || (length == 2 && !strncmp(word, "..", 2));
    return length && length <= NAME_MAX && !is_dots;
}

/* Returns whether a string is a relative path whose names are separated by single slashes. */
static bool is_relative(const char *word)
{
    for (;;) {
        size_t length = strcspn(word, "/");
        if (!is_name(word, length))
            return false;
        if (!word[length])
            return true;
        word += length + 1;
    }
}

static bool is_one_of_three(const char *word, const char *a, const char *b, const char *c)
{
    return !strcmp(word, a) || !strcmp(word, b) || !strcmp(word, c);
}

static bool is_utf8(const char *word)
{
    uint32_t code;
    for (size_t length; *word; word += length) {
        length = (unsigned char)*word < 0x80 ? 1 : un_utf8_read(word, &code);
        if (!length)
            return false;
    }
    return true;
}

static bool is_setting(const char *word)
{
    return strchr(word, '=') && *word != '=';
}

/* Returns whether an argument is an option of usernsctl-exec that maps ids. Other options of
 * usernsctl-exec are not allowed in a launch file. */
static bool is_id_option(const char *word)
{
    return !strcmp(word, "-r") || !strcmp(word, "-c") || !strncmp(word, "--map-", 6) ||
           !strncmp(word, "--setgroups=", 12) || !strcmp(word, "--allow-single-id");
}

static const char *text_fault(int argument, const char *word)
{
    switch (argument) {
    case UN_ARG_JSON:
        return is_utf8(word) ? NULL : "UTF-8";
    case UN_ARG_MARKED:
        return un_marks_valid(word, "sit") ? NULL : "text in which each @ begins @s, @i, @t or @@";
    case UN_ARG_NAME:
        return !strchr(word, '/') && is_name(word, strlen(word)) ? NULL
                                                                 : "a file name without a slash";
    case UN_ARG_SCRATCH:
        return is_relative(word) && un_marks_valid(word, "it") && strlen(word) < PATH_MAX / 2
                   ? NULL
                   : "a relative path without . and .., with no @ but @i, @t and @@";
    case UN_ARG_PATH:
        return *word == '/' && strlen(word) < UN_PATH_MAX ? NULL : "an absolute path";
    case UN_ARG_ID_OPTION:
        return is_id_option(word) ? NULL : "an id-map option";
    case UN_ARG_VARIABLE:
        return *word && !strchr(word, '=') ? NULL : "the name of a variable";
    case UN_ARG_SETTING:
        return is_setting(word) ? NULL : "NAME=VALUE";
    default:
        return NULL;
    }
}

const char *un_argument_fault(int argument, const char *word, size_t sources, size_t binds)
{
    switch (argument) {
    case UN_ARG_SOURCE:
        return sources && is_number(word, sources - 1) ? NULL : "the number of a source";
    case UN_ARG_BIND:
        return binds && is_number(word, binds - 1) ? NULL : "the number of a bind";
    case UN_ARG_MODE:
        return is_octal(word, 0177777) ? NULL : "a mode in octal";
    case UN_ARG_PERMISSIONS:
        return is_octal(word, 07777) ? NULL : "permissions in octal, up to 7777";
    case UN_ARG_NUMBER:
        return is_number(word, INT64_MAX) ? NULL : "a number";
    case UN_ARG_SUM:
        return is_sum(word) ? NULL : "16 hexadecimal digits";
    case UN_ARG_ID:
        return is_number(word, UINT32_MAX - 1) ? NULL : "an id";
    case UN_ARG_SCORE:
        return is_number(word + (*word == '-'), 1000) ? NULL : "a number from -1000 to 1000";
    case UN_ARG_HOW:
        return is_one_of_three(word, "own", "follow", "exact") ? NULL : "own, follow or exact";
    case UN_ARG_ACCESS:
        return is_one_of_three(word, "ro", "rw", "rw") ? NULL : "ro or rw";
    case UN_ARG_KIND:
        return is_one_of_three(word, "empty", "other", "other") ? NULL : "empty or other";
    default:
        return text_fault(argument, word);
    }
}

uint64_t un_argument_number(const char *word)
{
    uint64_t number = 0;
    un_number_read(word, UINT64_MAX, &number);
    return number;
}

unsigned un_argument_mode(const char *word)
{
    unsigned mode = 0;
    for (; *word >= '0' && *word <= '7'; word++)
        mode = mode * 8 + (unsigned)(*word - '0');
    return mode;
}
