/* Looking up causes in the catalogue (src/usernsctl/explain/causes/). */
#include "explain/explain.h"

bool un_cause_find(const char *id, struct un_cause *cause)
{
    for (const char *at = un_text_causes; id && *at; at = un_texts_next_list(at)) {
        if (strcmp(at, id))
            continue;
        const char *why = un_texts_next(at);
        *cause = (struct un_cause){.id = at, .why = why, .remedy = un_texts_next(why)};
        return true;
    }
    return false;
}
