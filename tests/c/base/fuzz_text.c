/* Fuzz target: any text is printed without control characters, and parsing a number from a text and
 * formatting it yields the same digits. */
#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_number(const char *text)
{
    char digits[32];
    uint64_t number;
    const char *end = un_number_read(text, UINT64_MAX, &number);
    if (!end)
        return;
    un_number_write(digits, number);
    while (*text == '0' && text[1] >= '0' && text[1] <= '9')
        text++;
    if (strncmp(digits, text, (size_t)(end - text)) != 0)
        abort();
}

static void check_path(const char *text)
{
    char path[PATH_MAX];
    const char *at = text;
    for (int i = 0; i < 100 && un_next_candidate(&at, "name", path); i++)
        if (strlen(path) < strlen("name"))
            abort();
    un_path_join(path, text, "name");
    un_is_below(text, "/a");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    check_number(text);
    check_path(text);
    un_make_printable(text);
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            abort();
    free(text);
    return 0;
}
