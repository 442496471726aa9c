/*
 * Starting pasta, which connects a network namespace to the host's network through the TAP device
 * that inside.c has created.
 *
 * pasta receives a descriptor of the namespace as its standard input, because it closes all other
 * descriptors, and because the pid in a path /proc/PID/ns/net could be reused. pasta then runs in
 * the background, in an empty root directory, with its own seccomp filter.
 */
#include "base/base.h"
#include "programs/network/network.h"
#include "sys/sys.h"

#include <signal.h>

#define START_MS 10000
#define OUTPUT_MAX 400

static const char *cause_of_failure(const char *output)
{
    return strstr(output, TUN) ? "tun-missing" : "pasta-failed";
}

static int judge_pasta(const struct un_job *job, struct un_error *err)
{
    const char *path = job->argv[0];
    int length = (int)strcspn(job->output, "\n");
    const char *colon = length ? ": " : "";
    if (job->timed_out || job->stopped_by)
        return un_fail(err, UN_STEP_NETWORK, 0, "pasta-hung",
                       "%s was not ready after %d s, and was killed%s%.*s", path, START_MS / 1000,
                       colon, length, job->output);
    if (job->ended != CLD_EXITED)
        return un_fail(err, UN_STEP_NETWORK, 0, "pasta-failed", "%s was killed by signal %d%s%.*s",
                       path, job->status, colon, length, job->output);
    /* A pasta that does not know an option is too old. Its message then contains the word
     * "option". */
    if (job->status && strstr(job->output, "option"))
        return un_fail(err, UN_STEP_NETWORK, 0, "pasta-too-old", "%s does not know an option%s%.*s",
                       path, colon, length, job->output);
    if (job->status)
        return un_fail(err, UN_STEP_NETWORK, 0, cause_of_failure(job->output),
                       "%s exited with status %d%s%.*s", path, job->status, colon, length,
                       job->output);
    return 0;
}

int start_pasta(const char *path, int namespace, struct un_error *err)
{
    const char *const argv[] = {
        path,
        "--quiet",
        "--config-net",
        "--ns-ifname",
        DEVICE,
        "--tcp-ports",
        "none",
        "--udp-ports",
        "none",
        "--tcp-ns",
        "none",
        "--udp-ns",
        "none",
        "--no-map-gw",
        "--no-netns-quit",
        "--dns-forward",
        NAME_SERVER_4,
        "--dns-forward",
        NAME_SERVER_6,
        "--netns",
        "/proc/self/fd/0",
        NULL,
    };
    char output[OUTPUT_MAX];
    struct un_job job = {
        .argv = argv, .output = output, .output_size = sizeof output, .input = namespace};
    if (!un_run_jobs(&job, 1, START_MS, err))
        return judge_pasta(&job, err);
    err->step = UN_STEP_NETWORK;
    err->cause = err->errnum == ENOENT   ? "pasta-missing"
                 : err->errnum == EACCES ? "pasta-failed"
                                         : NULL;
    return -1;
}
