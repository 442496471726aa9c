/* The causes that the C core itself can tell, each with what mends it. */
#include "usernsctl.h"

#include <string.h>

static const struct un_cause causes[] = {
    {"caller-id-unmapped",
     "this process's own user or group id does not exist in the user namespace it is in",
     "start it as a user that the namespace maps: see /proc/self/uid_map and /proc/self/gid_map"},
    {"command-not-executable", "the command is there, but can't be executed",
     "chmod +x it; a script must begin with #! and its interpreter"},
    {"command-not-found", "there is no such command",
     "name one that is on PATH, or give its whole path"},
    {"interpreter-not-found",
     "the command is there, but its interpreter (the #! line, or the ELF loader) is not",
     "install the interpreter, or correct the first line of the script"},
    {"map-invalid", "the kernel takes no such map (user_namespaces(7))",
     "give extents as inside:outside:count, that do not overlap"},
    {"multithreaded", "a process with more than one thread can't enter another user namespace",
     "start the command in a child instead (usernsctl.run, usernsctl.Popen), or enter before "
     "anything starts a thread"},
    {"needs-setfcap",
     "mapping uid 0 of the parent namespace takes CAP_SETFCAP since Linux 5.12, even for root",
     "keep CAP_SETFCAP (docker run --cap-add SETFCAP), or start as a user other than root"},
    {"no-proc", "/proc is not mounted", "mount -t proc proc /proc"},
    {"outside-parent-map", "an id to be mapped does not exist in the user namespace we are in",
     "map only ids that cat /proc/self/uid_map /proc/self/gid_map lists in the first column"},
    {"setgroups-order", "an unprivileged process must give up setgroups(2) before it maps a group",
     "leave --setgroups out, or set it to deny"},
    {"unprivileged-map", "a process without CAP_SETUID and CAP_SETGID may map one id only, its own",
     "map one id (--map-root-user or --map-current-user), or start with these capabilities"},
};

const struct un_cause *un_cause_find(const char *id)
{
    for (size_t i = 0; id && i < sizeof causes / sizeof causes[0]; i++)
        if (!strcmp(causes[i].id, id))
            return &causes[i];
    return NULL;
}
