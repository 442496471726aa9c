/* Placeholders in the arguments of a launch, which are expanded when the launch is performed. */
#include "launch/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

int un_marks_draw(struct un_marks *marks)
{
    uint64_t number;
    struct timespec now;
    struct tm parts;
    char second[16];
    if (getrandom(&number, sizeof number, 0) != sizeof number ||
        clock_gettime(CLOCK_REALTIME, &now) || !gmtime_r(&now.tv_sec, &parts))
        return -1;
    snprintf(marks->id, sizeof marks->id, "%016" PRIx64, number);
    strftime(second, sizeof second, "%Y%m%d-%H%M%S", &parts);
    snprintf(marks->stamp, sizeof marks->stamp, "%s.%06ld", second, now.tv_nsec / 1000);
    return 0;
}

bool un_marks_valid(const char *word, const char *known)
{
    for (word = strchr(word, '@'); word; word = strchr(word + 2, '@'))
        if (!word[1] || (word[1] != '@' && !strchr(known, word[1])))
            return false;
    return true;
}

static const char *meaning(const struct un_marks *marks, char letter)
{
    switch (letter) {
    case 's':
        return marks->scratch;
    case 'i':
        return marks->id;
    case 't':
        return marks->stamp;
    default:
        return "@";
    }
}

size_t un_marks_expand(const struct un_marks *marks, const char *word, char *to)
{
    size_t length = 0;
    while (*word) {
        bool is_mark = *word == '@';
        const char *text = is_mark ? meaning(marks, word[1]) : word;
        size_t count = is_mark ? strlen(text) : strcspn(word, "@");
        if (to)
            memcpy(to + length, text, count);
        length += count;
        word += is_mark ? 2 : count;
    }
    if (to)
        to[length] = '\0';
    return length;
}
