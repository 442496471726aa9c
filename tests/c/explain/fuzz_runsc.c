/* Fuzz target: explaining any message of runsc, with any config.json, reads no bytes out of bounds
 * and prints no control characters. The input consists of the config.json, a NUL or line feed, and
 * the messages. Inputs of odd size are explained as if the process limit was reached. */
#include "base/base.h"
#include "explain/explain.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_quoted(const char *text)
{
    char quoted[UN_QUOTED_ROOM];
    un_quote(text, quoted);
    size_t length = strlen(quoted);
    if (length < 2 || quoted[0] != '"' || quoted[length - 1] != '"')
        abort();
    for (size_t i = 1; i + 1 < length; i++) {
        if (quoted[i] == '\\')
            i++;
        else if ((unsigned char)quoted[i] < ' ' || quoted[i] == '"' || quoted[i] == 0x7f)
            abort();
    }
}

static void explain(const char *message, const char *limit, const char *config, size_t size)
{
    struct un_runsc_failure failure;
    struct un_error err;
    if (!un_runsc_explain(message, limit, config, size, "/nonexistent", &failure, &err) &&
        (!*failure.remedy || (failure.has_cause && !*failure.cause.why)))
        abort();
    check_quoted(message);
    /* Also use a short message as a pattern, which may be malformed. Matching a long pattern would
     * take too long. */
    if (strlen(message) < 24)
        un_match(message, "a text\n", 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *limit = size % 2 ? "process-limit" : "";
    struct un_messages messages;
    size_t length = 0;
    while (length < size && data[length] && data[length] != '\n')
        length++;
    /* Copy the two parts of the input to buffers of exactly their sizes, so that AddressSanitizer
     * detects reads past the end. */
    char *config = malloc(length + 1);
    char *text = malloc(size - length + 1);
    if (config && text) {
        memcpy(config, data, length);
        memcpy(text, data + length, size - length);
        if (!un_messages_read(text, size - length, &messages)) {
            const char *at = messages.bytes;
            for (size_t i = 0; i < messages.count; i++, at += strlen(at) + 1)
                explain(at, limit, config, length);
            un_messages_free(&messages);
        }
        text[size - length] = '\0';
        explain(text, limit, config, length);
    }
    free(config);
    free(text);
    return 0;
}
