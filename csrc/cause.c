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
    {"gid-differs-from-passwd",
     "newuidmap serves a process only if its group is the one in its user's passwd entry",
     "start it with that group: docker run --user UID:GID, or newgrp"},
    {"helper-failed", "newuidmap or newgidmap refused",
     "see what it said; usernsctl plan tells more"},
    {"helper-hung", "newuidmap or newgidmap did not end; the user database may not answer",
     "time getent passwd $(id -u)"},
    {"helper-killed", "newuidmap or newgidmap was killed", "see dmesg, and try again"},
    {"helper-missing", "newuidmap and newgidmap are what lets a user map its subordinate ranges",
     "apt-get install uidmap (elsewhere the package is called shadow-utils)"},
    {"helper-not-setuid", "newuidmap or newgidmap has lost its privilege, as happens in images",
     "chmod u+s $(command -v newuidmap) $(command -v newgidmap)"},
    {"helper-on-nosuid", "newuidmap or newgidmap is on a mount where setuid does not count",
     "mount -o remount,suid it, or install the package uidmap on another file system"},
    {"helper-stopped", "newuidmap or newgidmap was stopped",
     "find out who stops it, and try again"},
    {"interpreter-not-found",
     "the command is there, but its interpreter (the #! line, or the ELF loader) is not",
     "install the interpreter, or correct the first line of the script"},
    {"map-invalid", "the kernel takes no such map (user_namespaces(7))",
     "give extents as inside:outside:count, that do not overlap"},
    {"map-not-written", "what writes the maps did not write what it was told to",
     "see that newuidmap and newgidmap are those of your system"},
    {"multithreaded", "a process with more than one thread can't enter another user namespace",
     "start the command in a child instead (usernsctl.run, usernsctl.Popen), or enter before "
     "anything starts a thread"},
    {"needs-setfcap",
     "mapping uid 0 of the parent namespace takes CAP_SETFCAP since Linux 5.12, even for root",
     "keep CAP_SETFCAP (docker run --cap-add SETFCAP), or start as a user other than root"},
    {"no-new-privs", "no_new_privs keeps newuidmap from gaining the privilege that it needs",
     "start without it: in Kubernetes allowPrivilegeEscalation: true, in Docker without "
     "--security-opt no-new-privileges; or map one id only"},
    {"no-passwd-entry", "newuidmap needs to know the name of who calls it",
     "add a line for this uid to /etc/passwd, or start as a user that has one"},
    {"no-proc", "/proc is not mounted", "mount -t proc proc /proc"},
    {"no-subordinate-range", "the user has no subordinate range, so only its own id can be mapped",
     "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"},
    {"nss-subid", "nsswitch.conf has subordinate ranges come from a service that does not answer",
     "getsubids USER"},
    {"outside-parent-map", "an id to be mapped does not exist in the user namespace we are in",
     "map only ids that cat /proc/self/uid_map /proc/self/gid_map lists in the first column"},
    {"range-not-granted", "a user may map only what /etc/subuid and /etc/subgid grant it",
     "map ranges that getsubids lists, or have them granted: usermod --add-subuids FIRST-LAST "
     "USER"},
    {"range-outside-parent",
     "the granted range does not exist in this container, which has fewer ids than its host",
     "grant a range that does: in the image, usermod --add-subuids 1001-65535 "
     "--add-subgids 1001-65535 USER"},
    {"setgroups-order", "an unprivileged process must give up setgroups(2) before it maps a group",
     "leave --setgroups out, or set it to deny"},
    {"subid-file-unreadable", "the file that grants subordinate ranges can't be read",
     "chmod 644 /etc/subuid /etc/subgid"},
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
