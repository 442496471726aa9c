/* The format of an error that a program reports to its parent: fields, each terminated by NUL. */
#include "base/base.h"
#include "programs/shared/shared.h"

int error_send(int fd, struct un_error *err)
{
    char text[ERROR_FIELDS_MAX];
    un_diagnose(err, "/proc");
    int length = snprintf(text, sizeof text, "%d%c%d%c%s%c%s%c%c%s%c", err->step, 0, err->errnum, 0,
                          err->cause ? err->cause : "", 0, err->detail, 0, 0, err->remedy, 0);
    /* Write all fields by a single write(2), so that the reader can't receive a part of the
     * error. */
    (void)!write(fd, text, (size_t)length);
    return -1;
}

/* Returns the field at *at, and advances *at past its NUL. Returns NULL if the field does not end
 * before `end`. */
static const char *next_field(const char **at, const char *end)
{
    const char *field = *at;
    const char *stop = field < end ? memchr(field, '\0', (size_t)(end - field)) : NULL;
    if (stop)
        *at = stop + 1;
    return stop ? field : NULL;
}

bool error_parse(const char *text, size_t size, struct un_error *err)
{
    const char *field[ERROR_FIELDS], *at = text;
    struct un_cause cause;
    for (size_t i = 0; i < ERROR_FIELDS; i++) {
        field[i] = next_field(&at, text + size);
        if (!field[i])
            return false;
    }
    *err = (struct un_error){.step = atoi(field[0]), .errnum = atoi(field[1])};
    err->cause = un_cause_find(field[2], &cause) ? cause.id : NULL;
    snprintf(err->detail, sizeof err->detail, "%s", field[3]);
    snprintf(err->remedy, sizeof err->remedy, "%s", field[5]);
    return true;
}
