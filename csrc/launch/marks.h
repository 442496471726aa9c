/* Marks: what a word of a launch leaves to the moment. Internal. */
#ifndef USERNSCTL_LAUNCH_MARKS_H
#define USERNSCTL_LAUNCH_MARKS_H

#include "include/usernsctl.h"

/* What the marks stand for: @s, @i and @t; @@ is one @. */
struct un_marks {
    char scratch[UN_PATH_MAX]; /* the path of the directory with all that is made */
    char id[17];               /* random: of this performance alone */
    char stamp[48];            /* the time of it, YYYYmmdd-HHMMSS.micros, UTC */
};

/* Draws the id and the stamp. -1 with errno. */
int un_marks_draw(struct un_marks *marks);
/* Whether each @ of a word begins a mark: @@, or one whose letter is in `known`. */
bool un_marks_valid(const char *word, const char *known);
/* The length of a valid word with its marks replaced; the text itself goes to `to`, ended by NUL,
 * unless that is NULL. */
size_t un_marks_expand(const struct un_marks *marks, const char *word, char *to);

#endif
