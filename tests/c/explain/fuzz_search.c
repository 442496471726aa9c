/* Fuzz target: searching any text for messages of the catalogue reads no bytes out of bounds, and
 * finds each message and each cause only once. In the input, the first line feed separates two
 * pieces of the text. */
#include "explain/explain.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_occurrences(const struct un_search *search, size_t from, size_t size)
{
    struct un_cause cause;
    for (size_t i = from; i < search->count; i++) {
        const struct un_occurrence *found = &search->occurrence[i];
        const char *id = found->causes;
        if (found->at >= size || !found->count)
            abort();
        for (size_t place = 0; place < found->count; place++, id += strlen(id) + 1)
            if (!un_cause_find(id, &cause))
                abort();
        for (size_t before = 0; before < i; before++)
            if (search->occurrence[before].causes == found->causes)
                abort();
    }
}

static void add(struct un_search *search, const uint8_t *data, size_t size)
{
    size_t before = search->count;
    /* Copy the piece to a buffer of exactly its size, so that AddressSanitizer detects reads past
     * the end. */
    char *piece = malloc(size ? size : 1);
    if (!piece)
        return;
    memcpy(piece, data, size);
    un_search_add(search, piece, size);
    check_occurrences(search, before, size);
    before = search->count;
    un_search_add(search, piece, size);
    if (search->count != before)
        abort();
    free(piece);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct un_search search;
    const char *ids[UN_CAUSES_MAX];
    size_t length = 0;
    while (length < size && data[length] != '\n')
        length++;
    search.count = 0;
    add(&search, data, length);
    add(&search, data + length, size - length);
    size_t count = un_search_causes(&search, ids);
    for (size_t i = 0; i < count; i++)
        for (size_t before = 0; before < i; before++)
            if (!strcmp(ids[before], ids[i]))
                abort();
    return 0;
}
