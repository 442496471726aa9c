/*
 * The packet filter of a network namespace, by nft(8).
 *
 * gVisor, and so the programs inside, can't change the filter: gVisor has no capabilities there.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "sys/sys.h"

#include <signal.h>
#include <sys/mman.h>

#define FILTER_MS 10000
#define OUTPUT_MAX 400

/* Neighbour discovery of IPv6, without which no address is reachable. */
#define BEGINNING                                                                                  \
    "table inet usernsctl {\nchain output {\ntype filter hook output priority 0; policy drop;\n"   \
    "oifname \"lo\" accept\n"                                                                      \
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept\n"

/* Writes the rules to a file in memory. Returns a descriptor at its beginning, or -1 with errno. */
static int write_rules(const struct network *network)
{
    int fd = memfd_create("rules", MFD_CLOEXEC);
    int failed = fd < 0 || dprintf(fd, "%s", BEGINNING) < 0;
    for (size_t i = 0; !failed && i < network->allow_count; i++)
        failed = dprintf(fd, "%s accept\n", network->allow[i]) < 0;
    if (!failed && dprintf(fd, "}\n}\n") >= 0 && !lseek(fd, 0, SEEK_SET))
        return fd;
    un_close_quietly(fd);
    return -1;
}

static int judge_nft(const struct un_job *job, struct un_error *err)
{
    int length = (int)strcspn(job->output, "\n");
    if (job->ended == CLD_EXITED && !job->status && !job->timed_out && !job->stopped_by)
        return 0;
    return un_fail(err, UN_STEP_NETWORK, 0, "nft-failed", "%s %s%s%.*s", job->argv[0],
                   job->timed_out ? "was killed after a timeout" : "failed", length ? ": " : "",
                   length, job->output);
}

int filter_output(const struct network *network, struct un_error *err)
{
    const char *const argv[] = {network->nft, "-f", "-", NULL};
    char output[OUTPUT_MAX];
    if (!network->nft)
        return 0;
    un_auto_close int rules = write_rules(network);
    if (rules < 0)
        return un_fail_errno(err, UN_STEP_NETWORK, "the rules for nft");
    struct un_job job = {
        .argv = argv, .output = output, .output_size = sizeof output, .input = rules};
    if (!un_run_jobs(&job, 1, FILTER_MS, err))
        return judge_nft(&job, err);
    err->step = UN_STEP_NETWORK;
    err->cause = err->errnum == ENOENT ? "nft-missing" : "nft-failed";
    return -1;
}
