/* Tests of the checksum by which a launch file identifies a program. */
#include "base/base.h"
#include "check.h"
#include "launch/launch.h"

#include <sys/mman.h>

/* Size in bytes of a large file, of which un_content_sum() reads only samples. The size is not a
 * multiple of the block size. */
#define LARGE (10U * 1048576 + 123)

static int new_file(size_t size)
{
    int fd = memfd_create("program", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_INT(ftruncate(fd, (off_t)size), 0);
    return fd;
}

/* Writes the byte `byte` to `length` bytes of a file. */
static void fill(int fd, size_t offset, size_t length, char byte)
{
    static char bytes[LARGE];
    memset(bytes, byte, length);
    CHECK_INT(pwrite(fd, bytes, length, (off_t)offset), (long long)length);
}

/* Returns whether the checksum changes if `length` zeros at `offset` are overwritten. Then restores
 * the zeros. */
static bool notices(int fd, size_t offset, size_t length)
{
    char before[UN_CONTENT_SUM_ROOM], changed[UN_CONTENT_SUM_ROOM], after[UN_CONTENT_SUM_ROOM];
    CHECK_INT(un_content_sum(fd, before), 0);
    fill(fd, offset, length, 'x');
    CHECK_INT(un_content_sum(fd, changed), 0);
    fill(fd, offset, length, '\0');
    CHECK_INT(un_content_sum(fd, after), 0);
    CHECK_TEXT(after, before);
    return strcmp(before, changed) != 0;
}

static void a_small_file_is_read_whole(void)
{
    static const size_t sizes[] = {1, 7, 8, 4095, 4096, 4097, 65537, 262144};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        un_auto_close int fd = new_file(sizes[i]);
        for (size_t offset = 0; offset < sizes[i]; offset += 1 + sizes[i] / 61)
            CHECK(notices(fd, offset, 1));
        CHECK(notices(fd, sizes[i] - 1, 1));
    }
}

/* Checks that another build of a program has a different checksum. A changed build id is noticed,
 * because every byte of the head is read. Moved code is noticed, because the changed bytes span
 * more than the distance between two samples. */
static void another_build_of_a_large_file_is_noticed(void)
{
    un_auto_close int fd = new_file(LARGE);
    for (size_t offset = 0; offset < 65536; offset += 977)
        CHECK(notices(fd, offset, 1));
    for (size_t offset = 0; offset < LARGE - LARGE / 60; offset += LARGE / 60)
        CHECK(notices(fd, offset, LARGE / 60));
}

/* Checks that the number of reads is limited, however large a file is. */
static void a_huge_sparse_file_is_sampled(void)
{
    char sum[UN_CONTENT_SUM_ROOM];
    un_auto_close int fd = new_file((size_t)1 << 50);
    CHECK_INT(un_content_sum(fd, sum), 0);
}

static void only_regular_files_have_a_checksum(void)
{
    int ends[2];
    char sum[UN_CONTENT_SUM_ROOM];
    un_auto_close int directory = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    un_auto_close int device = open("/dev/zero", O_PATH | O_CLOEXEC);
    CHECK_INT(pipe2(ends, O_CLOEXEC), 0);
    CHECK_INT(un_content_sum(-1, sum), -1);
    CHECK_INT(un_content_sum(directory, sum), -1);
    CHECK_INT(un_content_sum(device, sum), -1);
    CHECK_INT(un_content_sum(ends[0], sum), -1);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    a_small_file_is_read_whole();
    another_build_of_a_large_file_is_noticed();
    a_huge_sparse_file_is_sampled();
    only_regular_files_have_a_checksum();
    return 0;
}
