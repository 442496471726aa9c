/*
 * Dropping the privileges that runsc does not need. Which privileges runsc needs was found by
 * trial. hardening.for_run() in Python drops the same privileges.
 *
 * - no_new_privs is set, so that runsc and its children can't gain privileges from a set-user-id
 *   program.
 * - The bounding set is reduced to the capabilities that runsc needs, so that runsc can't use
 *   others to change the namespaces in which it was started. The sandbox itself runs in a nested
 *   user namespace, where the bounding set is full at first (user_namespaces(7)). But capabilities
 *   in the nested namespace have no effect outside of it.
 */
#include "base/base.h"
#include "launch/launch.h"
#include "sys/sys.h"

#include <sys/prctl.h>

#define BIT(capability) (UINT64_C(1) << (capability))

/* Capabilities that runsc needs. Without one of the first four, runsc creates a user namespace, and
 * executes itself again there. CAP_SETFCAP is needed to map id 0 into the nested user namespace
 * (user_namespaces(7), since Linux 5.12). */
#define OF_RUNSC                                                                                   \
    (BIT(CAP_SYS_ADMIN) | BIT(CAP_SYS_CHROOT) | BIT(CAP_SETUID) | BIT(CAP_SETGID) |                \
     BIT(CAP_SETFCAP))
/* Capabilities that runsc's gofer needs to access the files of all ids, if the user namespace maps
 * several ids. */
#define OF_FILES                                                                                   \
    (BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_FOWNER) |         \
     BIT(CAP_FSETID))

/* Capabilities that usernsctl-watch needs to create the sandbox's network, and drops afterwards
 * (programs/shared/network.c). */
#define OF_NETWORK (BIT(CAP_NET_ADMIN) | BIT(CAP_SETPCAP))

static int drop_bounding(uint64_t kept, struct un_error *err)
{
    for (unsigned long cap = 0; cap < 64; cap++) {
        int has = kept & BIT(cap) ? 0 : prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
        if (has < 0 && errno == EINVAL)
            /* PR_CAPBSET_READ fails with EINVAL for a number above that of the kernel's last
             * capability. */
            return 0;
        if (has < 0 || (has && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)))
            return un_fail_errno(err, UN_STEP_CAPABILITIES,
                                 "can't drop capabilities from the bounding set");
        if (has && prctl(PR_CAPBSET_READ, cap, 0, 0, 0))
            return un_fail(
                err, UN_STEP_CAPABILITIES, 0, NULL,
                "the bounding set is not in effect, although the kernel reported success");
    }
    return 0;
}

static int forbid_privileges(struct un_error *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return un_fail_errno(err, UN_STEP_CAPABILITIES, "PR_SET_NO_NEW_PRIVS");
    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return un_fail(err, UN_STEP_CAPABILITIES, 0, NULL,
                       "no_new_privs is not in effect, although the kernel reported success");
    return 0;
}

int un_drop_privileges(struct un_launch *launch, bool has_several, struct un_error *err)
{
    uint64_t kept = has_several ? OF_RUNSC | OF_FILES : OF_RUNSC;
    un_launch_set_remedy(launch, NULL, NULL);
    if (launch->of_verb[UN_VERB_PRIVATE_NETWORK])
        kept |= OF_NETWORK;
    if (launch->of_verb[UN_VERB_DROP_BOUNDING] && drop_bounding(kept, err))
        return -1;
    if (launch->of_verb[UN_VERB_NO_NEW_PRIVS] && forbid_privileges(err))
        return -1;
    if (launch->of_verb[UN_VERB_NO_MEMBARRIER])
        un_add_membarrier_filter();
    return 0;
}
