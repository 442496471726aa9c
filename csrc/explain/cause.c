/* The causes of failures, as the catalogue has them (src/usernsctl/explain/causes/). */
#include "explain/explain.h"

#include <string.h>

static const char *next(const char *word)
{
    return word + strlen(word) + 1;
}

bool un_cause_find(const char *id, struct un_cause *cause)
{
    /* Each has three words, and an empty one behind them. */
    for (const char *at = un_text_causes; id && *at; at = next(next(next(at))) + 1) {
        if (strcmp(at, id))
            continue;
        *cause = (struct un_cause){.id = at, .why = next(at), .remedy = next(next(at))};
        return true;
    }
    return false;
}
