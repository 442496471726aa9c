/* Fuzz target: parsing any launch file, and generating its config.json, reads no bytes out of
 * bounds. In the input, a line feed stands for the NUL at the end of a string, so that the seeds
 * are readable. */
#include "launch/launch.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Sets those members of a launch that un_launch_build() usually sets. */
static void fill_in_build_results(struct un_launch *launch)
{
    strcpy(launch->marks.scratch, "/mnt/usernsctl");
    strcpy(launch->marks.id, "0123456789abcdef");
    strcpy(launch->marks.stamp, "20250101-000000.000000");
    launch->bind_count = launch->of_verb[UN_VERB_BIND];
    for (size_t i = 0; i < launch->bind_count; i++) {
        launch->bind[i].source = strdup("/mnt/usernsctl/shown/1");
        launch->bind[i].destination = strdup("/data");
    }
}

static void expand(const struct un_launch *launch)
{
    for (size_t i = 0; i < launch->record_count; i++) {
        const struct un_record *record = &launch->record[i];
        if (record->verb != UN_VERB_WATCH)
            continue;
        size_t length = un_marks_expand(&launch->marks, record->arguments, NULL);
        char *text = malloc(length + 1);
        if (text && un_marks_expand(&launch->marks, record->arguments, text) != length)
            abort();
        free(text);
    }
}

static void read_launch(const char *bytes, size_t size)
{
    static struct un_idmap maps;
    struct un_launch *launch;
    struct un_error err;
    struct un_text text = {0};
    if (un_launch_parse(bytes, size, &launch, &err))
        return;
    fill_in_build_results(launch);
    expand(launch);
    /* Parts of the input, which may be invalid UTF-8, become arguments and environment. */
    const char *const args[] = {launch->record[0].arguments, bytes, NULL};
    const struct un_launch_params params = {
        .args = args, .env = args, .cwd = bytes, .hostname = bytes};
    un_config_text(launch, &params, &maps, &text, &err);
    un_text_free(&text);
    un_launch_close(launch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Copy the input to a buffer of exactly its size, so that AddressSanitizer detects reads past
     * the end. */
    char *bytes = malloc(size ? size : 1);
    if (!bytes)
        return 0;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(data[i] == '\n' ? '\0' : data[i]);
    read_launch(bytes, size);
    free(bytes);
    return 0;
}
