/* The verbs of records, and checks of their arguments. */
#include "launch/verbs.h"
#include "base/base.h"

#include <limits.h>

const struct un_verb_rule un_verb_rules[UN_VERB_COUNT] = {
    [UN_VERB_ARG] = {"arg", UN_PART_MOMENT, false, {UN_ARG_TEXT}},
    [UN_VERB_ASSUME] = {"assume",
                        UN_PART_ASSUMED,
                        false,
                        {UN_ARG_PATH, UN_ARG_NUMBER, UN_ARG_NUMBER, UN_ARG_MODE}},
    [UN_VERB_BIND] = {"bind", UN_PART_STEPS, false, {UN_ARG_SOURCE, UN_ARG_PATH, UN_ARG_ACCESS}},
    [UN_VERB_CWD] = {"cwd", UN_PART_MOMENT, true, {UN_ARG_PATH}},
    [UN_VERB_CWD_MOMENT] = {"cwd-moment", UN_PART_MOMENT, true, {0}},
    [UN_VERB_DEBUG_LOG] = {"debug-log", UN_PART_FILES, true, {UN_ARG_SOURCE}},
    [UN_VERB_DIRECTORY] = {"directory", UN_PART_STEPS, false, {UN_ARG_PATH, UN_ARG_PERMISSIONS}},
    [UN_VERB_DISCARD] = {"discard", UN_PART_FILES, false, {UN_ARG_SCRATCH}},
    [UN_VERB_DROP_BOUNDING] = {"drop-bounding", UN_PART_PRIVILEGES, true, {0}},
    [UN_VERB_END] = {"end", UN_PART_END, true, {0}},
    [UN_VERB_ENV_ALL] = {"env-all", UN_PART_MOMENT, false, {0}},
    [UN_VERB_ENV_NAME] = {"env-name", UN_PART_MOMENT, false, {UN_ARG_VARIABLE}},
    [UN_VERB_ENV_NEED] = {"env-need", UN_PART_MOMENT, false, {UN_ARG_VARIABLE}},
    [UN_VERB_ENV_SET] = {"env-set", UN_PART_MOMENT, false, {UN_ARG_SETTING}},
    [UN_VERB_FILE] = {"file", UN_PART_STEPS, false, {UN_ARG_SOURCE, UN_ARG_PATH}},
    [UN_VERB_GUARDED] = {"guarded", UN_PART_STEPS, false, {UN_ARG_NAME}},
    [UN_VERB_HIDE_PRIVATE] = {"hide-private", UN_PART_STEPS, false, {UN_ARG_PATH}},
    [UN_VERB_HOME] = {"home", UN_PART_STEPS, false, {UN_ARG_PATH}},
    [UN_VERB_HOME_MOMENT] = {"home-moment", UN_PART_STEPS, true, {0}},
    [UN_VERB_IDMAP] = {"idmap", UN_PART_IDS, false, {UN_ARG_ID_OPTION}},
    [UN_VERB_JSON] = {"json", UN_PART_CONFIG, false, {UN_ARG_JSON}},
    [UN_VERB_JSON_ARGS] = {"json-args", UN_PART_CONFIG, false, {0}},
    [UN_VERB_JSON_BIND_DESTINATION] = {"json-bind-destination",
                                       UN_PART_CONFIG,
                                       false,
                                       {UN_ARG_BIND}},
    [UN_VERB_JSON_BIND_SOURCE] = {"json-bind-source", UN_PART_CONFIG, false, {UN_ARG_BIND}},
    [UN_VERB_JSON_CWD] = {"json-cwd", UN_PART_CONFIG, false, {0}},
    [UN_VERB_JSON_ENV] = {"json-env", UN_PART_CONFIG, false, {0}},
    [UN_VERB_JSON_GID_MAP] = {"json-gid-map", UN_PART_CONFIG, false, {0}},
    [UN_VERB_JSON_HOSTNAME] = {"json-hostname", UN_PART_CONFIG, false, {0}},
    [UN_VERB_JSON_ROOT] = {"json-root", UN_PART_CONFIG, false, {0}},
    [UN_VERB_JSON_SEVERAL] = {"json-several", UN_PART_CONFIG, false, {UN_ARG_JSON}},
    [UN_VERB_JSON_UID_MAP] = {"json-uid-map", UN_PART_CONFIG, false, {0}},
    [UN_VERB_LINK] = {"link", UN_PART_STEPS, false, {UN_ARG_PATH, UN_ARG_TEXT}},
    [UN_VERB_MACHINE] = {"machine", UN_PART_STEPS, false, {UN_ARG_NAME}},
    [UN_VERB_MAKE] = {"make", UN_PART_FILES, false, {UN_ARG_SCRATCH, UN_ARG_PERMISSIONS}},
    [UN_VERB_MOUNT] = {"mount", UN_PART_STEPS, false, {UN_ARG_PATH, UN_ARG_KIND}},
    [UN_VERB_NO_MEMBARRIER] = {"no-membarrier", UN_PART_PRIVILEGES, true, {0}},
    [UN_VERB_NO_NEW_PRIVS] = {"no-new-privs", UN_PART_PRIVILEGES, true, {0}},
    [UN_VERB_OOM_SCORE] = {"oom-score", UN_PART_IDS, true, {UN_ARG_SCORE}},
    [UN_VERB_PROGRAM] = {"program", UN_PART_FILES, false, {UN_ARG_SOURCE}},
    [UN_VERB_PROGRAM_LINK] = {"program-link",
                              UN_PART_FILES,
                              false,
                              {UN_ARG_SOURCE, UN_ARG_SCRATCH}},
    [UN_VERB_PROGRAM_PATH] = {"program-path", UN_PART_FILES, false, {UN_ARG_SOURCE}},
    [UN_VERB_READ_ONLY] = {"read-only", UN_PART_STEPS, true, {0}},
    [UN_VERB_REMEDY] = {"remedy", UN_PART_ASSUMED, true, {UN_ARG_TEXT}},
    [UN_VERB_RESOLVER] = {"resolver", UN_PART_STEPS, true, {0}},
    [UN_VERB_RUNSC_ENV] = {"runsc-env", UN_PART_WATCHER, false, {UN_ARG_SETTING}},
    [UN_VERB_SCRATCH] = {"scratch", UN_PART_SCRATCH, false, {UN_ARG_PATH}},
    [UN_VERB_SNAPSHOT] = {"snapshot", UN_PART_STEPS, false, {UN_ARG_NAME}},
    [UN_VERB_SOURCE] = {"source", UN_PART_SOURCES, false, {UN_ARG_HOW, UN_ARG_PATH}},
    [UN_VERB_TMPFS] = {"tmpfs", UN_PART_FILES, false, {UN_ARG_SCRATCH, UN_ARG_NUMBER}},
    [UN_VERB_TOUCH] = {"touch", UN_PART_FILES, false, {UN_ARG_SCRATCH}},
    [UN_VERB_TREE] = {"tree", UN_PART_STEPS, true, {UN_ARG_SOURCE}},
    [UN_VERB_USER] = {"user", UN_PART_IDS, true, {UN_ARG_ID, UN_ARG_ID}},
    [UN_VERB_WATCH] = {"watch", UN_PART_WATCHER, false, {UN_ARG_MARKED}},
};

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

static bool is_name(const char *word, size_t length)
{
    bool is_dots = (length == 1 && word[0] == '.') || (length == 2 && !strncmp(word, "..", 2));
    return length && length <= NAME_MAX && !is_dots;
}

/* Returns whether a text is a path of names separated by single slashes. */
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

/* Accepts only options about ids: other options of usernsctl-exec are set by other records, or not
 * at all. */
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
        return un_marks_valid(word, "sit") ? NULL : "@s, @i, @t or @@ where it has an @";
    case UN_ARG_NAME:
        return !strchr(word, '/') && is_name(word, strlen(word)) ? NULL : "one name";
    case UN_ARG_SCRATCH:
        return is_relative(word) && un_marks_valid(word, "it") && strlen(word) < PATH_MAX / 2
                   ? NULL
                   : "a relative path without . and .., with no @ but @i, @t and @@";
    case UN_ARG_PATH:
        return *word == '/' && strlen(word) < UN_PATH_MAX ? NULL : "an absolute path";
    case UN_ARG_ID_OPTION:
        return is_id_option(word) ? NULL : "an option about ids";
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
