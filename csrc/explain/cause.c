/* The causes that the C core itself can tell, each with what mends it. */
#include "include/usernsctl.h"

#include <string.h>

static const struct un_cause causes[] = {
    {"apparmor-restricts-userns",
     "AppArmor lets only programs with a profile that says userns use what they have in a new user "
     "namespace (Ubuntu 23.10 and later)",
     "usernsctl apparmor-profile --host | sudo tee /etc/apparmor.d/usernsctl-host; sudo "
     "apparmor_parser -r /etc/apparmor.d/usernsctl-host"},
    {"bind-shows-state",
     "usernsctl keeps records of the user's sandboxes and namespaces in one directory and "
     "templates "
     "in another, and runsc keeps its own files in those of --root and --debug-log; a program "
     "inside that could see these could kill other sandboxes, read what programs had in their "
     "memory, and make runsc act outside",
     "show only what is needed of it: --bind DIR/what-is-needed; or set XDG_RUNTIME_DIR (for the "
     "records) or XDG_DATA_HOME (for the templates) to a directory elsewhere"},
    {"bind-writes-machine",
     "files of /proc, /sys and the like hold no data: whoever writes to them changes this "
     "machine's "
     "kernel or its processes, so that with :rw a program inside could leave the sandbox",
     "usernsctl run --bind DIR -- CMD    # without :rw"},
    {"bounding-set",
     "a setuid program can gain only capabilities that are in the bounding set; one that is setuid "
     "root needs CAP_SYS_ADMIN, too, and one with file capabilities does not",
     "start with CAP_SETUID and CAP_SETGID: docker run --cap-add SETUID --cap-add SETGID; or, in "
     "place of the setuid bit: setcap cap_setuid=ep /usr/bin/newuidmap; setcap cap_setgid=ep "
     "/usr/bin/newgidmap"},
    {"caller-id-unmapped",
     "this process's own user or group id does not exist in the user namespace it is in",
     "start it as a user that the namespace maps: see /proc/self/uid_map and /proc/self/gid_map"},
    {"cgroup-not-delegated",
     "a process may start another one in a control group only if it may write the group's "
     "cgroup.procs, and that of the closest group that is above both its own group and that one; "
     "this user has no such groups",
     "systemd-run --user --scope --property Delegate=yes COMMAND; if limits are all you want, "
     "leave the control group out: runsc --ignore-cgroups, as usernsctl run does"},
    {"cgroup-not-unified", "a child can be started in a directory of cgroup v2 only",
     "name one below a mount that findmnt -t cgroup2 lists"},
    {"cgroup-takes-no-process",
     "a control group that enables controllers for the groups below it can hold no processes of "
     "its own; nor can one whose cgroup.type is \"domain invalid\" (cgroups(7))",
     "mkdir GROUP/leaf, and start it there; cat GROUP/cgroup.subtree_control GROUP/cgroup.type"},
    {"child-killed",
     "a signal ended usernsctl-child, which enters namespaces for usernsctl, before the command "
     "ran: the kernel kills programs where memory runs out, and so may root and this user",
     "dmesg | tail; cat /sys/fs/cgroup/memory.events    # and try again"},
    {"child-missing",
     "the program usernsctl-child, which enters namespaces for usernsctl, does not exist, or may "
     "not be executed here",
     "pip install --force-reinstall usernsctl; if findmnt -T DIRECTORY, with the directory of "
     "usernsctl-child, says noexec: install usernsctl elsewhere"},
    {"clone-into-cgroup-missing",
     "to start a process in a control group, usernsctl needs clone3(2) of Linux 5.7; this kernel "
     "is older, or a seccomp filter, such as that of a container engine, forbids clone3(2)",
     "leave the control group out; or allow clone3: add it to what usernsctl seccomp-profile "
     "prints, and pass that file: docker run --security-opt seccomp=FILE"},
    {"command-not-executable", "the command is there, but can't be executed",
     "chmod +x it; a script must begin with #! and its interpreter; a directory is no command"},
    {"command-not-found",
     "there is no such command, or it is in a directory that this user may not search",
     "name one that is on PATH, or give its whole path"},
    {"cwd-not-found",
     "the directory that the command was to start in does not exist, or is no directory, where the "
     "command runs",
     "make it, or name a directory by the path that it has where the command runs"},
    {"cwd-not-searchable",
     "the user that the command runs as may not search the directory that the command was to start "
     "in, or one on the way to it",
     "namei -l DIR    # says whose each of them is; name a directory that this user may search"},
    {"foreign-link",
     "a symbolic link on the way belongs to a user other than you and root, who could make it lead "
     "to any of your files",
     "readlink -f PATH    # and name what it says, if that is what you mean"},
    {"gid-differs-from-passwd",
     "newuidmap serves a process only if its group is the one in its user's passwd entry",
     "start it with that group: docker run --user UID:GID, or newgrp"},
    {"helper-failed", "newuidmap or newgidmap refused",
     "see what it said; usernsctl plan tells more"},
    {"helper-hung", "newuidmap or newgidmap did not end; the user database may not answer",
     "time getent passwd $(id -u)"},
    {"helper-killed", "newuidmap or newgidmap was killed", "see dmesg, and try again"},
    {"helper-missing",
     "newuidmap or newgidmap is not installed; without them, a user can't map its subordinate "
     "ranges",
     "apt-get install uidmap    # elsewhere the package is called shadow-utils"},
    {"helper-not-executable",
     "newuidmap or newgidmap is there, and this user may not execute it: its mode, a directory on "
     "the way, or a mount with noexec forbids it",
     "chmod 4755 /usr/bin/newuidmap /usr/bin/newgidmap"},
    {"helper-not-setuid",
     "newuidmap or newgidmap is not setuid root any more, as happens in images",
     "chmod u+s $(command -v newuidmap) $(command -v newgidmap)"},
    {"helper-on-nosuid",
     "newuidmap or newgidmap is on a mount with nosuid, where a setuid program gains nothing",
     "mount -o remount,suid it, or install the package uidmap on another file system"},
    {"helper-status-lost",
     "usernsctl could not learn whether newuidmap or newgidmap succeeded: another part of this "
     "process has waited for the helper",
     "wait for each child by its pid, and never for any child (waitpid(-1))"},
    {"helper-stopped", "newuidmap or newgidmap was stopped",
     "find out who stops it, and try again"},
    {"in-chroot", "the kernel makes no user namespace for a process in a chroot",
     "enter that root by pivot_root(2) (or bwrap, or a container engine) instead of chroot(2)"},
    {"inside-id-unmapped", "a process in the namespace can take on only an id that is mapped there",
     "map it (--map-users, --map-groups, --map-auto), or choose one that is; usernsctl plan shows "
     "them"},
    {"interpreter-not-found",
     "the command is there, but its interpreter (the #! line, or the ELF loader) is not",
     "install the interpreter, or correct the first line of the script"},
    {"join-denied",
     "a process can enter a user namespace only if it, or its user, has made that namespace; and "
     "it can't enter the one that it is in",
     "start from the namespace in which the user namespace was made, and as the user who made it"},
    {"landlock", "Landlock confines this process, and does not let it write to /proc",
     "start outside that confinement, or have it allow write access to /proc"},
    {"launch-malformed",
     "the launch is not one that usernsctl freeze has written: it is of another kind, was cut off, "
     "or was changed",
     "usernsctl freeze -o FILE -- CMD    # with the options that it is to have"},
    {"launch-outdated",
     "a frozen launch holds only where the programs and files that it was made for still are what "
     "they were, and for the version of usernsctl that made it",
     "usernsctl freeze -o FILE -- CMD    # with the options that it was made with"},
    {"launch-text",
     "what is in config.json must be UTF-8 (RFC 8259), and an argument, a variable or a path is "
     "not",
     "printf '%s' TEXT | iconv -f UTF-8 -t UTF-8 >/dev/null    # says where it is not"},
    {"launch-untrusted",
     "a launch decides what of this machine a sandbox sees, so nobody but root and the caller may "
     "be able to write to it, or to put another file in its place",
     "ls -l FILE; chmod go-w FILE    # or freeze it anew, as root or as yourself, in a directory "
     "that others can't write to"},
    {"lsm-denies-userns",
     "a security module (AppArmor, SELinux, or a BPF program) forbids user namespaces, or what is "
     "to be done in them",
     "see journalctl -k and ausearch -m avc for the denial; with AppArmor, give the profile that "
     "/proc/self/attr/current names what it lacks, such as userns, capability, mount, and the flag "
     "attach_disconnected; with SELinux, allow user_namespace create"},
    {"map-invalid", "the kernel takes no such map (user_namespaces(7))",
     "give extents as inside:outside:count, that do not overlap"},
    {"map-not-written",
     "newuidmap or newgidmap succeeded, but the map is not the one that usernsctl asked for",
     "check that newuidmap and newgidmap are those of your system: ls -l $(command -v newuidmap "
     "newgidmap)"},
    {"max-cgroup-namespaces", "the limit of cgroup namespaces is used up, or 0",
     "sysctl -w user.max_cgroup_namespaces=15000"},
    {"max-ipc-namespaces", "the limit of IPC namespaces is used up, or 0",
     "sysctl -w user.max_ipc_namespaces=15000"},
    {"max-mnt-namespaces", "the limit of mount namespaces is used up, or 0",
     "sysctl -w user.max_mnt_namespaces=15000"},
    {"max-net-namespaces", "the limit of network namespaces is used up, or 0",
     "sysctl -w user.max_net_namespaces=15000"},
    {"max-pid-namespaces", "the limit of PID namespaces is used up, or 0",
     "sysctl -w user.max_pid_namespaces=15000"},
    {"max-uts-namespaces", "the limit of UTS namespaces is used up, or 0",
     "sysctl -w user.max_uts_namespaces=15000"},
    {"max-user-namespaces", "the limit of user namespaces is used up, or 0",
     "sysctl -w user.max_user_namespaces=15000"},
    {"mount-by-descriptor-missing",
     "usernsctl shows files by open_tree(2), move_mount(2) and mount_setattr(2), so that nobody "
     "can swap them meanwhile; these came with Linux 5.12: this kernel is older, or a seccomp "
     "filter forbids them",
     "boot Linux 5.12 or newer; in a container docker run --rm --entrypoint usernsctl IMAGE "
     "seccomp-profile >seccomp.json; docker run --security-opt seccomp=seccomp.json IMAGE"},
    {"mount-denied", "a seccomp filter or a security module forbids mount(2) here",
     "docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >seccomp.json; "
     "docker run --security-opt seccomp=seccomp.json IMAGE; outside of containers, usernsctl "
     "doctor says which of them it is"},
    {"mount-without-owned-ns",
     "proc and sysfs can be mounted only together with a PID or network namespace of one's own",
     "add --pid (for /proc) or --net (for /sys)"},
    {"multithreaded", "a process with more than one thread can't enter another user namespace",
     "start the command in a child instead (usernsctl.run, usernsctl.Popen), or enter before "
     "anything starts a thread"},
    {"needs-setfcap",
     "mapping uid 0 of the parent namespace takes CAP_SETFCAP since Linux 5.12, even for root",
     "keep CAP_SETFCAP (docker run --cap-add SETFCAP), or start as a user other than root"},
    {"nesting-too-deep", "user namespaces can be nested 32 deep, no deeper",
     "start from an outer namespace"},
    {"no-config-user-ns", "this kernel is built without user namespaces (CONFIG_USER_NS)",
     "boot a kernel that has them: zgrep CONFIG_USER_NS /proc/config.gz"},
    {"no-new-privs", "no_new_privs keeps newuidmap from gaining the privilege that it needs",
     "start without it: in Kubernetes allowPrivilegeEscalation: true, in Docker without "
     "--security-opt no-new-privileges, of systemd NoNewPrivileges=no; or map one id only"},
    {"no-passwd-entry",
     "newuidmap needs a name for its caller's uid, and the user database has none",
     "useradd --uid UID NAME, which grants subordinate ranges too; or start as a user with a name"},
    {"no-proc", "/proc is not mounted", "mount -t proc proc /proc"},
    {"no-subordinate-range", "the user has no subordinate range, so only its own id can be mapped",
     "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"},
    {"not-dumpable",
     "this process is not dumpable, so its files in /proc, its maps among them, belong to root",
     "don't clear PR_SET_DUMPABLE, and don't start from a program that its user can't read"},
    {"nss-subid",
     "/etc/nsswitch.conf names a service as the source of subordinate ranges, and that service "
     "does not answer",
     "getsubids USER"},
    {"out-of-memory",
     "the memory that the control group allows, or this machine has, was used up; a program in "
     "gVisor may then end with a status of its own",
     "raise the limit (docker run --memory 2g; in Kubernetes resources.limits.memory), or use "
     "less"},
    {"outside-parent-map", "an id to be mapped does not exist in the user namespace we are in",
     "map only ids that cat /proc/self/uid_map /proc/self/gid_map lists in the first column"},
    {"proc-hidepid",
     "/proc is mounted with hidepid, which hides processes that nobody may look into: "
     "those whose maps are to be written can't be found",
     "mount -o remount,hidepid=off /proc"},
    {"proc-masked",
     "a container engine covers parts of /proc, and the kernel then allows no new one",
     "docker run --security-opt systempaths=unconfined; in Kubernetes procMount: Unmasked"},
    {"proc-read-only", "/proc is mounted read-only, so no map can be written",
     "mount -o remount,rw /proc, or start the container with a /proc that is writable"},
    {"process-limit", "no more processes are allowed: RLIMIT_NPROC, or pids.max of the cgroup",
     "raise it: ulimit -u, or docker run --pids-limit; see ps -u $(id -u) for what runs"},
    {"range-not-granted", "a user may map only what /etc/subuid and /etc/subgid grant it",
     "map ranges that getsubids lists, or have them granted: usermod --add-subuids FIRST-LAST "
     "USER"},
    {"range-outside-parent",
     "the granted range does not exist in this container, which has fewer ids than its host",
     "grant a range that does: in the image, usermod --add-subuids 1001-65535 "
     "--add-subgids 1001-65535 USER"},
    {"rootfs-unreadable",
     "the ids that the namespace maps may not search the root filesystem; to be uid 0 inside gives "
     "no rights over files of ids that are not mapped",
     "usernsctl bundle check DIR; chmod o+rx ROOTFS    # and o+x on each directory above it"},
    {"seccomp-denies-helper",
     "newuidmap and newgidmap inherit a seccomp filter that refuses a call of theirs; Debian's "
     "call "
     "openat2 since shadow 1:4.17.4-2+deb13u1, which older filters do not allow",
     "start outside that filter (grep Seccomp /proc/self/status), or have it allow openat2; "
     "usernsctl seccomp-profile prints a filter that does"},
    {"seccomp-denies-userns",
     "a seccomp filter forbids user namespaces, as the default filters of Docker and other "
     "engines do",
     "docker run --rm --entrypoint usernsctl IMAGE seccomp-profile >seccomp.json; docker run "
     "--security-opt seccomp=seccomp.json IMAGE; outside of containers, the filter is that of "
     "whatever started this, such as systemd's RestrictNamespaces= and SystemCallFilter="},
    {"setgroups-denied-on-join",
     "setgroups(2) is denied in this namespace, so nobody can drop groups there",
     "keep the groups: leave --setgid out"},
    {"setgroups-order", "an unprivileged process must give up setgroups(2) before it maps a group",
     "leave --setgroups out, or set it to deny"},
    {"start-timeout",
     "the child that enters the namespaces did not execute the command in time, and was killed: "
     "root in the namespaces may have stopped it, or a file system there does not answer",
     "use namespaces that nobody else is root in, such as new ones; or have more patience "
     "(start_timeout=)"},
    {"subid-file-unreadable", "the file that grants subordinate ranges can't be read",
     "chmod 644 /etc/subuid /etc/subgid"},
    {"subid-not-a-file",
     "what is to grant subordinate ranges is a FIFO, a device or a directory, and no file",
     "move it away, and grant ranges anew: mv FILE FILE.old; touch FILE; usermod --add-subuids "
     "100000-165535 --add-subgids 100000-165535 USER"},
    {"target-gone", "the process whose namespace or map it was has ended", "start again"},
    {"unprivileged-map", "a process without CAP_SETUID and CAP_SETGID may map one id only, its own",
     "map one id (--map-root-user or --map-current-user), or start with these capabilities"},
    {"unprivileged-userns-clone-off",
     "this kernel lets only root make user namespaces (Debian's kernel.unprivileged_userns_clone)",
     "sysctl -w kernel.unprivileged_userns_clone=1"},
};

const struct un_cause *un_cause_find(const char *id)
{
    for (size_t i = 0; id && i < sizeof causes / sizeof causes[0]; i++)
        if (!strcmp(causes[i].id, id))
            return &causes[i];
    return NULL;
}
