/* Fuzz target: parsing arguments of usernsctl-child as a task, and encoding the task again, yields
 * the same arguments. In the input, a tab ends an argument. */
#include "base/base.h"
#include "child/child.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { WORDS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct un_task task;
    struct un_task_argv argv = {0};
    struct un_error err;
    char *text = malloc(size + 1);
    char *words[WORDS + 1];
    size_t count = 0;
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    for (char *at = text; count < WORDS && at; count++) {
        words[count] = at;
        at = strchr(at, '\t');
        if (at)
            *at++ = '\0';
    }
    words[count] = NULL;
    un_task_init(&task);
    if (un_task_parse(words, &task)) {
        if (un_task_argv_make(&task, &argv, &err))
            abort();
        un_task_argv_free(&argv);
    }
    free(text);
    return 0;
}
