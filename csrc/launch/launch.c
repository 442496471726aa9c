/* Functions that all steps of a launch use, to read its records and to report failures. */
#include "launch/launch.h"
#include "base/base.h"

#include <stdarg.h>

const char *un_record_argument(const struct un_record *record, size_t number)
{
    const char *word = record->arguments;
    while (number--)
        word += strlen(word) + 1;
    return word;
}

struct un_source *un_record_source(const struct un_launch *launch, const struct un_record *record,
                                   size_t number)
{
    return &launch->source[un_argument_number(un_record_argument(record, number))];
}

const struct un_record *un_launch_next(const struct un_launch *launch, enum un_verb verb,
                                       const struct un_record *record)
{
    size_t i = record ? (size_t)(record - launch->record) + 1 : 0;
    for (; launch->of_verb[verb] && i < launch->record_count; i++)
        if (launch->record[i].verb == verb)
            return &launch->record[i];
    return NULL;
}

void un_launch_set_remedy(struct un_launch *launch, const char *filename, const char *remedy, ...)
{
    launch->remedy[0] = '\0';
    snprintf(launch->filename, sizeof launch->filename, "%s", filename ? filename : "");
    if (!remedy)
        return;
    va_list args;
    va_start(args, remedy);
    vsnprintf(launch->remedy, sizeof launch->remedy, remedy, args);
    va_end(args);
}

int un_launch_fail_file(struct un_launch *launch, const char *path, struct un_error *err)
{
    un_fail_errno(err, UN_STEP_SANDBOX, path);
    err->cause = un_cause_of_file_error(err->errnum);
    un_launch_set_remedy(launch, path, NULL);
    return -1;
}

void un_launch_close(struct un_launch *launch)
{
    if (!launch)
        return;
    for (size_t i = 0; launch->source && i < launch->of_verb[UN_VERB_SOURCE]; i++) {
        if (launch->source[i].is_ours)
            un_close_quietly(launch->source[i].fd);
        free(launch->source[i].path);
    }
    for (size_t i = 0; i < launch->bind_count; i++) {
        free(launch->bind[i].source);
        free(launch->bind[i].destination);
    }
    un_close_quietly(launch->root.scratch);
    un_close_quietly(launch->root.spare);
    un_close_quietly(launch->root.shown);
    un_view_clear(&launch->view);
    free(launch->closed_dirs.id);
    free(launch->copied_dirs.id);
    free(launch->source);
    free(launch->bind);
    free(launch->record);
    free(launch);
}

const struct un_view *un_launch_view(const struct un_launch *launch)
{
    return &launch->view;
}

const char *un_launch_remedy(const struct un_launch *launch)
{
    return *launch->remedy ? launch->remedy : NULL;
}

const char *un_launch_filename(const struct un_launch *launch)
{
    return *launch->filename ? launch->filename : NULL;
}
