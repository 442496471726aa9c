/* Tests of copying files out of and into a sandbox by the agent: which records the agent sends, and
 * which files it creates from records. */
#include "check.h"
#include "programs/agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static char top[] = "/tmp/usernsctl-files-XXXXXX";

static const char *below(const char *name)
{
    static char path[4][256];
    static unsigned number;
    char *to = path[number++ % 4];
    snprintf(to, sizeof *path, "%s/%s", top, name);
    return to;
}

static int remove_one(const char *path, const struct stat *found, int kind, struct FTW *where)
{
    (void)found, (void)kind, (void)where;
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK_INT(write(fd, text, strlen(text)), (long long)strlen(text));
    close(fd);
}

static const char *text_of(const char *path)
{
    static char text[256];
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t size = read(fd, text, sizeof text - 1);
    CHECK(size >= 0);
    text[size] = '\0';
    close(fd);
    return text;
}

static mode_t mode_of(const char *path)
{
    struct stat found;
    CHECK_INT(lstat(path, &found), 0);
    return found.st_mode;
}

/* ---- tests of sending files ------------------------------------------------------------------ */

struct received {
    int fd;
    struct agent_record record;
    char text[1024];
};

/* Makes agent_copy_out() send `path` to a memfd. Returns whether it wrote all records. */
static bool send_to_file(struct received *received, const char *path, enum agent_sending what)
{
    received->fd = memfd_create("records", 0);
    bool sent = agent_copy_out(received->fd, path, what);
    lseek(received->fd, 0, SEEK_SET);
    return sent;
}

static void expect(struct received *received, uint32_t kind, const char *text)
{
    CHECK_INT(read(received->fd, &received->record, sizeof received->record), 32);
    CHECK_INT(received->record.kind, kind);
    CHECK(received->record.size < sizeof received->text);
    CHECK_INT(read(received->fd, received->text, received->record.size), received->record.size);
    received->text[received->record.size] = '\0';
    CHECK_TEXT(received->text, text);
}

static void expect_end(struct received *received)
{
    CHECK_INT(read(received->fd, received->text, 1), 0);
    close(received->fd);
}

static void test_a_tree_is_sent_depth_first(void)
{
    struct received received;
    CHECK_INT(mkdir(below("tree"), 0750), 0);
    CHECK_INT(mkdir(below("tree/sub"), 0700), 0);
    write_text(below("tree/sub/file"), "content");
    CHECK(send_to_file(&received, below("tree"), AGENT_SEND_TREE));
    expect(&received, AGENT_DIRECTORY, "");
    CHECK_INT(received.record.mode, S_IFDIR | 0750);
    expect(&received, AGENT_DIRECTORY, "sub");
    expect(&received, AGENT_FILE, "file");
    CHECK(received.record.length == 7);
    expect(&received, AGENT_DATA, "content");
    for (int i = 0; i < 3; i++)
        expect(&received, AGENT_LEAVE, "");
    expect(&received, AGENT_DONE, "");
    expect_end(&received);
    remove_tree(below("tree"));
}

static void test_links_are_sent_and_other_kinds_are_named(void)
{
    struct received received;
    CHECK_INT(mkdir(below("tree"), 0700), 0);
    CHECK_INT(symlink("/etc", below("tree/link")), 0);
    CHECK(send_to_file(&received, below("tree"), AGENT_SEND_TREE));
    expect(&received, AGENT_DIRECTORY, "");
    expect(&received, AGENT_LINK, "link/etc");
    CHECK(received.record.length == 4);
    close(received.fd);
    CHECK_INT(unlink(below("tree/link")), 0);
    CHECK_INT(mkfifo(below("tree/fifo"), 0600), 0);
    CHECK(send_to_file(&received, below("tree"), AGENT_SEND_TREE));
    expect(&received, AGENT_DIRECTORY, "");
    expect(&received, AGENT_OTHER, "fifo");
    CHECK_INT(received.record.mode, S_IFIFO | 0600);
    close(received.fd);
    CHECK(!send_to_file(&received, below("tree/fifo"), AGENT_SEND_FILE));
    expect(&received, AGENT_STOPPED, "");
    CHECK_INT(received.record.mode, EINVAL);
    expect_end(&received);
    remove_tree(below("tree"));
}

static void test_only_what_was_asked_for_is_sent(void)
{
    struct received received;
    CHECK_INT(mkdir(below("tree"), 0700), 0);
    write_text(below("tree/file"), "content");
    CHECK(!send_to_file(&received, below("tree"), AGENT_SEND_FILE));
    expect(&received, AGENT_STOPPED, "");
    CHECK_INT(received.record.mode, EISDIR);
    close(received.fd);
    CHECK(!send_to_file(&received, below("tree/file"), AGENT_SEND_ENTRIES));
    expect(&received, AGENT_STOPPED, "");
    CHECK_INT(received.record.mode, ENOTDIR);
    close(received.fd);
    CHECK(send_to_file(&received, below("tree"), AGENT_SEND_ENTRIES));
    expect(&received, AGENT_FILE, "file");
    expect(&received, AGENT_DONE, "");
    expect_end(&received);
    CHECK(!send_to_file(&received, below("missing"), AGENT_SEND_TREE));
    expect(&received, AGENT_STOPPED, "");
    CHECK_INT(received.record.mode, ENOENT);
    close(received.fd);
    remove_tree(below("tree"));
}

static void test_large_files_are_sent_in_parts(void)
{
    struct received received;
    uint64_t left = 3 * AGENT_DATA_MAX + 5;
    write_text(below("file"), "");
    CHECK_INT(truncate(below("file"), (off_t)left), 0);
    CHECK(send_to_file(&received, below("file"), AGENT_SEND_FILE));
    expect(&received, AGENT_FILE, "");
    while (left) {
        CHECK_INT(read(received.fd, &received.record, sizeof received.record), 32);
        CHECK_INT(received.record.kind, AGENT_DATA);
        CHECK(received.record.size && received.record.size <= AGENT_DATA_MAX);
        CHECK(received.record.size <= left);
        left -= received.record.size;
        lseek(received.fd, received.record.size, SEEK_CUR);
    }
    expect(&received, AGENT_LEAVE, "");
    CHECK_INT(received.record.mode, 0);
    expect(&received, AGENT_DONE, "");
    expect_end(&received);
    CHECK_INT(unlink(below("file")), 0);
}

static void test_a_full_output_ends_the_copy(void)
{
    int fd = open("/dev/full", O_WRONLY);
    write_text(below("file"), "content");
    CHECK(!agent_copy_out(fd, below("file"), AGENT_SEND_TREE));
    close(fd);
    CHECK_INT(unlink(below("file")), 0);
}

/* ---- tests of creating files ----------------------------------------------------------------- */

struct sent {
    int input;
    int output;
    bool merges;
    bool parents;
};

static void begin(struct sent *sent)
{
    *sent = (struct sent){memfd_create("records", 0), memfd_create("answer", 0), false, false};
}

static void add(struct sent *sent, uint32_t kind, mode_t mode, const char *text)
{
    const struct agent_record record = {
        .kind = kind,
        .mode = mode,
        .size = (uint32_t)strlen(text),
        .seconds = 1000,
    };
    CHECK_INT(write(sent->input, &record, sizeof record), 32);
    CHECK_INT(write(sent->input, text, strlen(text)), (long long)strlen(text));
}

/* Adds the record of a symbolic link. `text` consists of the link's name, which has `length` bytes,
 * and the link's target. */
static void add_link(struct sent *sent, const char *text, uint64_t length)
{
    const struct agent_record record = {
        .kind = AGENT_LINK, .size = (uint32_t)strlen(text), .length = length};
    CHECK_INT(write(sent->input, &record, sizeof record), 32);
    CHECK_INT(write(sent->input, text, strlen(text)), (long long)strlen(text));
}

/* Makes the agent create files at `path` from the records that were added. Returns the errno in the
 * agent's answer, or 0 for the answer AGENT_DONE. */
static int create(struct sent *sent, const char *path, bool single)
{
    lseek(sent->input, 0, SEEK_SET);
    const struct agent_copying how = {
        .input = sent->input,
        .output = sent->output,
        .path = path,
        .parents = sent->parents,
        .merges = sent->merges,
    };
    bool done = single ? agent_write_file(&how) : agent_copy_in(&how);
    struct agent_record answer;
    lseek(sent->output, 0, SEEK_SET);
    CHECK_INT(read(sent->output, &answer, sizeof answer), 32);
    CHECK_INT(answer.kind, done ? AGENT_DONE : AGENT_STOPPED);
    CHECK_INT(lseek(sent->output, 0, SEEK_END), 32 + answer.size);
    close(sent->input);
    close(sent->output);
    return (int)answer.mode;
}

static void test_a_tree_is_created_with_modes_and_times(void)
{
    struct sent sent;
    struct stat found;
    begin(&sent);
    sent.parents = true;
    add(&sent, AGENT_DIRECTORY, 0750, "");
    add(&sent, AGENT_FILE, 04755, "file");
    add(&sent, AGENT_DATA, 0, "con");
    add(&sent, AGENT_DATA, 0, "tent");
    add(&sent, AGENT_LEAVE, 0, "");
    add_link(&sent, "link/etc", 4);
    add(&sent, AGENT_DIRECTORY, 0700, "sub");
    add(&sent, AGENT_LEAVE, 0, "");
    add(&sent, AGENT_LEAVE, 0, "");
    add(&sent, AGENT_DONE, 0, "");
    CHECK_INT(create(&sent, below("a/b/tree"), false), 0);
    CHECK_INT(mode_of(below("a/b/tree")), S_IFDIR | 0750);
    CHECK_INT(mode_of(below("a/b/tree/file")), S_IFREG | 0755);
    CHECK_TEXT(text_of(below("a/b/tree/file")), "content");
    CHECK_INT(S_ISLNK(mode_of(below("a/b/tree/link"))), 1);
    CHECK_INT(lstat(below("a/b/tree/sub"), &found), 0);
    CHECK_INT(found.st_mtim.tv_sec, 1000);
    remove_tree(below("a"));
}

/* Makes the agent create a directory from two records: the record of the directory, and a record of
 * the kind `kind` for the entry `name`. Returns the errno in the agent's answer. */
static int create_one(uint32_t kind, const char *name)
{
    struct sent sent;
    begin(&sent);
    add(&sent, AGENT_DIRECTORY, 0700, "");
    add(&sent, kind, 0700, name);
    int errnum = create(&sent, below("tree"), false);
    remove_tree(below("tree"));
    return errnum;
}

static void test_names_that_lead_elsewhere_are_refused(void)
{
    static const char *const names[] = {"", ".", "..", "/", "a/b", "../x", "/etc", "a/"};
    char longest[AGENT_NAME_MAX + 2];
    for (size_t i = 0; i < COUNT(names); i++) {
        CHECK_INT(create_one(AGENT_DIRECTORY, names[i]), EPROTO);
        CHECK_INT(create_one(AGENT_FILE, names[i]), EPROTO);
    }
    memset(longest, 'n', sizeof longest);
    longest[AGENT_NAME_MAX + 1] = '\0';
    CHECK_INT(create_one(AGENT_FILE, longest), EPROTO);
    CHECK_INT(create_one(AGENT_DATA, "data of no file"), EPROTO);
    CHECK_INT(create_one(AGENT_OTHER, "fifo"), EPROTO);
    CHECK_INT(create_one(99, "x"), EPROTO);
    CHECK_INT(create_one(AGENT_DONE, ""), EPROTO);
}

static void test_nothing_is_replaced_without_merging(void)
{
    struct sent sent;
    CHECK_INT(mkdir(below("tree"), 0755), 0);
    write_text(below("tree/file"), "old");
    for (int merges = 0; merges < 2; merges++) {
        begin(&sent);
        sent.merges = merges;
        add(&sent, AGENT_DIRECTORY, 0700, "");
        add(&sent, AGENT_FILE, 0600, "file");
        add(&sent, AGENT_DATA, 0, "new");
        add(&sent, AGENT_LEAVE, 0, "");
        add(&sent, AGENT_LEAVE, 0, "");
        add(&sent, AGENT_DONE, 0, "");
        CHECK_INT(create(&sent, below("tree"), false), merges ? 0 : EEXIST);
        CHECK_TEXT(text_of(below("tree/file")), merges ? "new" : "old");
        CHECK_INT(mode_of(below("tree")), S_IFDIR | 0755);
    }
    remove_tree(below("tree"));
}

static void test_a_merge_does_not_follow_links(void)
{
    struct sent sent;
    CHECK_INT(mkdir(below("tree"), 0700), 0);
    CHECK_INT(mkdir(below("other"), 0700), 0);
    CHECK_INT(symlink("../other", below("tree/dir")), 0);
    begin(&sent);
    sent.merges = true;
    add(&sent, AGENT_DIRECTORY, 0700, "");
    add(&sent, AGENT_DIRECTORY, 0700, "dir");
    CHECK_INT(create(&sent, below("tree"), false), ENOTDIR);
    remove_tree(below("tree"));
    CHECK_INT(rmdir(below("other")), 0);
}

static void test_depth_is_limited(void)
{
    struct sent sent;
    begin(&sent);
    add(&sent, AGENT_DIRECTORY, 0700, "");
    for (int i = 0; i < AGENT_DEPTH_MAX; i++)
        add(&sent, AGENT_DIRECTORY, 0700, "d");
    add(&sent, AGENT_DIRECTORY, 0700, "d");
    CHECK_INT(create(&sent, below("tree"), false), ENAMETOOLONG);
    remove_tree(below("tree"));
}

static void test_invalid_records_end_the_copy(void)
{
    static const struct {
        const char *text; /* text after the last record; may be shorter than the record's size */
        struct agent_record record[3];
    } cases[] = {
        {"", {{.kind = 99}}},
        {"", {{.kind = AGENT_LEAVE}}},
        {"n", {{.kind = AGENT_LINK, .size = 1, .length = 1}}},
        {"", {{.kind = AGENT_DIRECTORY}, {.kind = AGENT_DONE}}},
        {"d", {{.kind = AGENT_DIRECTORY}, {.kind = AGENT_DATA, .size = 1}}},
        {"n", {{.kind = AGENT_DIRECTORY}, {.kind = AGENT_LINK, .size = 1, .length = 2}}},
        {"na", {{.kind = AGENT_DIRECTORY}, {.kind = AGENT_LINK, .size = 9, .length = 1}}},
        {"n/a", {{.kind = AGENT_DIRECTORY}, {.kind = AGENT_LINK, .size = 3, .length = 2}}},
        {"da", {{.kind = AGENT_FILE}, {.kind = AGENT_DATA, .size = 9}}},
        {"", {{.kind = AGENT_FILE}, {.kind = AGENT_DATA, .size = AGENT_DATA_MAX + 1}}},
        {"", {{.kind = AGENT_FILE}, {.kind = AGENT_FILE}}},
        {"", {{.kind = AGENT_DIRECTORY}}},
        {"", {{.kind = 0}}},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct sent sent;
        begin(&sent);
        for (size_t j = 0; j < COUNT(cases[i].record) && cases[i].record[j].kind; j++)
            CHECK_INT(write(sent.input, &cases[i].record[j], sizeof *cases[i].record), 32);
        CHECK_INT(write(sent.input, cases[i].text, strlen(cases[i].text)),
                  (long long)strlen(cases[i].text));
        CHECK_INT(create(&sent, below("invalid"), false), EPROTO);
        remove_tree(below("invalid"));
    }
}

static void test_a_path_may_not_be_too_long(void)
{
    static char path[AGENT_PATH_SIZE + 1];
    struct sent sent;
    begin(&sent);
    memset(path, '/', AGENT_PATH_SIZE);
    CHECK_INT(create(&sent, path, false), ENAMETOOLONG);
}

static void test_a_file_is_written_or_left_as_it_was(void)
{
    struct sent sent;
    const char *path = below("file");
    begin(&sent);
    add(&sent, AGENT_DATA, 0, "content");
    add(&sent, AGENT_DONE, 0640, "");
    CHECK_INT(create(&sent, path, true), 0);
    CHECK_TEXT(text_of(path), "content");
    CHECK_INT(mode_of(path), S_IFREG | 0640);
    CHECK_INT(unlink(path), 0);
    /* If the input ends too early, the incomplete file is removed. */
    begin(&sent);
    add(&sent, AGENT_DATA, 0, "content");
    CHECK_INT(create(&sent, path, true), EPROTO);
    CHECK_INT(access(path, F_OK), -1);
    /* The agent does not write to a FIFO, even if a reader has it open. */
    CHECK_INT(mkfifo(path, 0600), 0);
    int reader = open(path, O_RDONLY | O_NONBLOCK);
    begin(&sent);
    add(&sent, AGENT_DATA, 0, "content");
    add(&sent, AGENT_DONE, 0640, "");
    CHECK_INT(create(&sent, path, true), EINVAL);
    char byte;
    CHECK_INT(read(reader, &byte, 1), 0);
    close(reader);
    CHECK_INT(unlink(path), 0);
}

static void test_the_command_line_names_a_verb_and_an_absolute_path(void)
{
    char *const wrong[][3] = {
        {NULL},
        {(char *)"get", NULL},
        {(char *)"get", (char *)"x", NULL},
        {(char *)"no", (char *)"/x", NULL},
    };
    for (size_t i = 0; i < COUNT(wrong); i++)
        CHECK_INT(agent_handle_files((char **)(uintptr_t)wrong[i]), 1);
}

int main(void)
{
    umask(022);
    CHECK(mkdtemp(top) != NULL);
    test_a_tree_is_sent_depth_first();
    test_links_are_sent_and_other_kinds_are_named();
    test_only_what_was_asked_for_is_sent();
    test_large_files_are_sent_in_parts();
    test_a_full_output_ends_the_copy();
    test_a_tree_is_created_with_modes_and_times();
    test_names_that_lead_elsewhere_are_refused();
    test_nothing_is_replaced_without_merging();
    test_a_merge_does_not_follow_links();
    test_depth_is_limited();
    test_invalid_records_end_the_copy();
    test_a_path_may_not_be_too_long();
    test_a_file_is_written_or_left_as_it_was();
    test_the_command_line_names_a_verb_and_an_absolute_path();
    CHECK_INT(rmdir(top), 0);
    return 0;
}
