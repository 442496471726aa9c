#include "base/base.h"

const char *un_number_read(const char *text, uint64_t most, uint64_t *number)
{
    const char *at = text;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        unsigned digit = (unsigned)(*at - '0');
        if (digit > most || value > (most - digit) / 10)
            return NULL;
        value = value * 10 + digit;
    }
    *number = value;
    return at == text ? NULL : at;
}

char *un_number_write(char *to, uint64_t number)
{
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (count)
        *to++ = digits[--count];
    *to = '\0';
    return to;
}
