/* Fuzz target: parses any arguments of usernsctl-exec, and any line of passwd(5). In the input, a
 * line feed ends an argument. */
#include "base/base.h"
#include "programs/exec/exec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS = 64 };

static void check_options(int count, char **words)
{
    static struct un_options options;
    struct un_error err;
    err.detail[0] = '\0';
    if (un_options_parse(count, words, &options, &err)) {
        if (err.step != UN_STEP_ARGUMENT || !*err.detail)
            abort();
        return;
    }
    if (options.keep_count > UN_KEEP_MAX)
        abort();
    for (size_t i = 1; i < options.keep_count; i++)
        if (options.keep[i - 1] >= options.keep[i])
            abort();
    if (options.action == UN_RUN && !options.launch && options.hold < 0 && !*options.command)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    char *line = malloc(size + 1);
    char *words[WORDS + 2] = {"usernsctl-exec"};
    int count = 1;
    if (!text || !line)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    memcpy(line, text, size + 1);
    un_home_of(line);
    for (char *at = text; count <= WORDS && at; count++) {
        words[count] = at;
        at = strchr(at, '\n');
        if (at)
            *at++ = '\0';
    }
    words[count] = NULL;
    check_options(count, words);
    free(text);
    free(line);
    return 0;
}
