#include "base/base.h"
#include "programs/shared/shared.h"

void report_error(const char *program, const struct un_error *err)
{
    report_error_with(program, err, NULL);
}

void report_error_with(const char *program, const struct un_error *err, const char *remedy)
{
    char reason[UN_DETAIL_MAX + 128];
    struct un_cause cause;
    fprintf(stderr, "%s: %s: %s\n", program, un_step_name(err->step),
            un_error_reason(err, reason, sizeof reason));
    if (!remedy && *err->remedy)
        remedy = err->remedy;
    if (!remedy) {
        report_cause(err->cause);
        return;
    }
    char shown[UN_PATH_MAX];
    snprintf(shown, sizeof shown, "%s", remedy);
    un_make_printable(shown);
    if (un_cause_find(err->cause, &cause))
        fprintf(stderr, "  why: %s [%s]\n", cause.why, cause.id);
    print_remedy(shown);
}

void report_cause(const char *id)
{
    struct un_cause cause;
    if (!un_cause_find(id, &cause))
        return;
    fprintf(stderr, "  why: %s [%s]\n", cause.why, cause.id);
    print_remedy(cause.remedy);
}

void print_remedy(const char *remedy)
{
    if (!strchr(remedy, '\n')) {
        fprintf(stderr, "  remedy: %s\n", remedy);
        return;
    }
    fputs("  remedy:\n", stderr);
    for (size_t length; *remedy; remedy += length + (remedy[length] == '\n')) {
        length = strcspn(remedy, "\n");
        fprintf(stderr, "    %.*s\n", (int)length, remedy);
    }
}
