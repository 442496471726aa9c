/*
 * Checksums by which a launch file identifies the programs that it executes.
 *
 * The modification time does not identify a program, because image builders set the times of files
 * to a fixed value. Reading all of a large program, such as runsc with tens of MB, would delay each
 * start. So the checksum of a large file covers only its first 64 KiB, where the linkers of C and
 * Go store the build id, and blocks at regular distances. Another build of the program differs in
 * nearly every block, because code and addresses move.
 *
 * The checksum detects programs that were replaced by mistake. The checksum need not be
 * cryptographic, because a user who may write to a program can run any code in its place anyway.
 */
#include "base/base.h"
#include "launch/launch.h"

#include <inttypes.h>
#include <sys/stat.h>

#define BLOCK_SIZE 4096U
/* Maximum size in bytes of a file that is read as a whole. */
#define WHOLE_SIZE (256U << 10)
/* Number of bytes at the beginning of a larger file that are read as a whole. */
#define HEAD_SIZE (64U << 10)
/* Number of blocks that are read beyond the head of a file larger than WHOLE_SIZE. */
#define SAMPLES 64U

/* Mixes a 64-bit word into the checksum. Each step is a bijection of `sum`, so two files that
 * differ in a single word never have the same checksum. The constant is 2^64 divided by the golden
 * ratio. */
static uint64_t mix(uint64_t sum, uint64_t word)
{
    sum = (sum ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ sum >> 32;
}

/* Adds the `length` bytes at `offset` of the file to the checksum. Fails with ESTALE if the file is
 * shorter. */
static int add_block(int fd, uint64_t offset, size_t length, uint64_t *sum)
{
    uint64_t words[BLOCK_SIZE / sizeof(uint64_t)] = {0};
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(fd, (char *)words + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got == 0)
            errno = ESTALE;
        if (got <= 0)
            return -1;
        done += (size_t)got;
    }
    for (size_t i = 0; i < BLOCK_SIZE / sizeof *words; i++)
        *sum = mix(*sum, words[i]);
    return 0;
}

int un_content_sum(int fd, char text[UN_CONTENT_SUM_ROOM])
{
    struct stat status;
    uint64_t sum = 0;
    un_auto_close int file = un_reopen(fd, O_RDONLY);
    if (file < 0 || fstat(file, &status))
        return -1;
    if (!S_ISREG(status.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    uint64_t size = (uint64_t)status.st_size;
    uint64_t stride = size > WHOLE_SIZE ? (size - HEAD_SIZE) / SAMPLES : BLOCK_SIZE;
    for (uint64_t offset = 0; offset < size; offset += offset < HEAD_SIZE ? BLOCK_SIZE : stride) {
        uint64_t rest = size - offset;
        if (add_block(file, offset, rest < BLOCK_SIZE ? (size_t)rest : BLOCK_SIZE, &sum))
            return -1;
    }
    snprintf(text, UN_CONTENT_SUM_ROOM, "%016" PRIx64, sum);
    return 0;
}
