/*
 * Installing the packet filter of a sandbox's network namespace by nft(8).
 *
 * gVisor, and thus the programs in the sandbox, can't change the filter, because gVisor has no
 * capabilities in this namespace. Unreachable routes alone would not suffice: the kernel ignores
 * them for a socket that is bound to a device, and pasta copies routes of the host, which may be
 * more specific than the unreachable routes.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "sys/sys.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/mman.h>

#define FILTER_MS 10000
#define OUTPUT_MAX 400

/* The first rules of the filter, before those for denied addresses. IPv6 neighbor discovery is
 * accepted, because no address is reachable without it. DNS queries to the name server go to the
 * chain "allowed", because the address of the name server, for which pasta answers, is link-local
 * and would be denied. Multicast packets are dropped, because they could reach the host, too. If no
 * rule of "allowed" accepts a packet, the policy of the chain "output" applies. */
#define OUTPUT                                                                                     \
    "chain output {\ntype filter hook output priority 0; policy %s;\n"                             \
    "oifname \"lo\" accept\n"                                                                      \
    "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept\n"          \
    "ip daddr " NAME_SERVER_4 " meta l4proto { tcp, udp } th dport 53 goto allowed\n"              \
    "ip6 daddr " NAME_SERVER_6 " meta l4proto { tcp, udp } th dport 53 goto allowed\n"             \
    "ip daddr 224.0.0.0/4 drop\nip6 daddr ff00::/8 drop\n"

/* The IPv6 prefix of the addresses that a NAT64 translator maps to IPv4 addresses (RFC 6052). */
#define TRANSLATED "64:ff9b::"
#define TRANSLATED_BITS 96

static bool write_denied(int fd, const struct prefix *prefix)
{
    char text[INET6_ADDRSTRLEN];
    const char *family = prefix->family == AF_INET ? "ip" : "ip6";
    if (!inet_ntop(prefix->family, prefix->address, text, sizeof text) ||
        dprintf(fd, "%s daddr %s/%d drop\n", family, text, prefix->length) <= 0)
        return false;
    return prefix->family != AF_INET || dprintf(fd, "ip6 daddr " TRANSLATED "%s/%d drop\n", text,
                                                TRANSLATED_BITS + prefix->length) > 0;
}

/* Writes the rules to a memfd. Returns its descriptor, with the offset 0, or -1 with errno set. */
static int write_rules(const struct network *network, const struct prefixes *denied)
{
    int fd = memfd_create("rules", MFD_CLOEXEC);
    bool is_written = fd >= 0 && dprintf(fd, "table inet usernsctl {\nchain allowed {\n") > 0;
    for (size_t i = 0; is_written && i < network->allow_count; i++)
        is_written = dprintf(fd, "%s accept\n", network->allow[i]) > 0;
    is_written =
        is_written && dprintf(fd, "}\n" OUTPUT, network->allow_count ? "drop" : "accept") > 0;
    for (size_t i = 0; is_written && i < denied->count; i++)
        is_written = write_denied(fd, &denied->prefix[i]);
    if (is_written && dprintf(fd, "goto allowed\n}\n}\n") > 0 && !lseek(fd, 0, SEEK_SET))
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

int filter_output(const struct network *network, const struct prefixes *denied,
                  struct un_error *err)
{
    const char *const argv[] = {network->nft, "-f", "-", NULL};
    char output[OUTPUT_MAX];
    un_auto_close int rules = write_rules(network, denied);
    if (rules < 0)
        return un_fail_errno(err, UN_STEP_NETWORK, "can't write the rules for nft");
    struct un_job job = {
        .argv = argv, .output = output, .output_size = sizeof output, .input = rules};
    if (!un_run_jobs(&job, 1, FILTER_MS, err))
        return judge_nft(&job, err);
    err->step = UN_STEP_NETWORK;
    err->cause = err->errnum == ENOENT ? "nft-missing" : "nft-failed";
    return -1;
}
