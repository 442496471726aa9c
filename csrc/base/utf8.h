/* UTF-8, read strictly. Internal. */
#ifndef USERNSCTL_BASE_UTF8_H
#define USERNSCTL_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The length of the character that `text` begins with, which is no ASCII; 0 if it is not UTF-8:
 * half of a surrogate pair, too great, or written longer than it need be (RFC 3629). */
size_t un_utf8_read(const char *text, uint32_t *code);

/* What stands in the place of a byte that is not UTF-8: U+FFFD. */
#define UN_REPLACEMENT "\xef\xbf\xbd"

#endif
