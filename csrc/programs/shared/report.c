/*
 * Printing the messages of usernsctl's programs to standard error, as text or as JSON.
 *
 * A JSON message is one line, written by a single write(2), so that no output of another process
 * can appear within the line. Members without a value are omitted.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "programs/shared/shared.h"
#include "sys/sys.h"

#include <time.h>

static bool in_json;

void report_in_json(void)
{
    in_json = true;
}

static void print_remedy(const char *remedy)
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

static void print_as_text(const struct report *report)
{
    bool is_warning = report->level && !strcmp(report->level, "warning");
    const char *step = is_warning ? report->level : report->step;
    fprintf(stderr, "%s: %s%s%s\n", report->program, step ? step : "", step ? ": " : "",
            report->message);
    if (report->cause)
        fprintf(stderr, "  why: %s [%s]\n", report->why, report->cause);
    for (const char *at = report->details; at && *at; at += strcspn(at, "\n") + 1)
        fprintf(stderr, "  %.*s\n", (int)strcspn(at, "\n"), at);
    if (report->remedy)
        print_remedy(report->remedy);
    if (report->more)
        fprintf(stderr, "  more: %s\n", report->more);
}

/* Replaces unprintable characters in each line of `text`. The text never becomes longer. */
static void make_lines_printable(char *text)
{
    char *to = text;
    for (char *line = text, *end; line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        un_make_printable(line);
        for (; *line; line++)
            *to++ = *line;
        *to++ = end ? '\n' : '\0';
    }
}

static void add_member(struct un_text *text, const char *name, const char *value)
{
    if (!value)
        return;
    un_auto_free char *copy = strdup(value);
    text->failed = text->failed || !copy;
    if (text->failed)
        return;
    make_lines_printable(copy);
    un_text_add(text, ", ");
    un_text_add_string(text, name);
    un_text_add(text, ": ");
    un_text_add_string(text, copy);
}

/* Prints a message as one line of JSON. Returns false if memory allocation fails. */
static bool print_as_json(const struct report *report)
{
    struct un_text text = {.bytes = NULL};
    struct timespec now;
    struct tm parts;
    char seconds[64], time[96];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(time, sizeof time, "{\"time\": \"%s.%03uZ\"", seconds,
             (unsigned)(now.tv_nsec / 1000000) % 1000);
    un_text_add(&text, time);
    add_member(&text, "level", report->level ? report->level : "error");
    add_member(&text, "program", report->program);
    add_member(&text, "step", report->step);
    add_member(&text, "message", report->message);
    add_member(&text, "cause", report->cause);
    add_member(&text, "why", report->why);
    add_member(&text, "details", report->details);
    add_member(&text, "remedy", report->remedy);
    add_member(&text, "more", report->more);
    un_text_add(&text, "}\n");
    bool is_complete = !text.failed;
    if (is_complete)
        un_write_all(STDERR_FILENO, text.bytes, text.length);
    un_text_free(&text);
    return is_complete;
}

void report_message(struct report report)
{
    struct un_cause cause;
    bool is_known = report.cause && un_cause_find(report.cause, &cause);
    if (!report.why)
        report.why = is_known ? cause.why : NULL;
    if (!report.remedy)
        report.remedy = is_known ? cause.remedy : NULL;
    if (!report.why)
        report.cause = NULL;
    if (!in_json || !print_as_json(&report))
        print_as_text(&report);
}

void report_error(const char *program, const struct un_error *err)
{
    report_error_with(program, err, NULL);
}

void report_error_with(const char *program, const struct un_error *err, const char *remedy)
{
    char reason[UN_DETAIL_MAX + 128], shown[UN_PATH_MAX];
    struct report report = {
        .program = program,
        .step = un_step_name(err->step),
        .message = un_error_reason(err, reason, sizeof reason),
        .cause = err->cause,
    };
    if (!remedy && *err->remedy)
        remedy = err->remedy;
    if (remedy) {
        snprintf(shown, sizeof shown, "%s", remedy);
        un_make_printable(shown);
        report.remedy = shown;
    }
    report_message(report);
}
