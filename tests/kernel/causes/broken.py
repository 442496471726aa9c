"""Run a command with misconfigurations: ``python broken.py WAY... -- COMMAND...``.

The misconfigurations apply only to this process and its mount namespace, so nothing remains when
the command exits. If root runs the script, it changes its user to NOBODY. Only the subid files of
the mount namespace, not the host's, grant NOBODY subordinate ranges. Any other user keeps its ids,
and can use only the misconfigurations in FOR_ANYBODY.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from calls import (
    CALLS,
    CAP_SETGID,
    CAP_SETUID,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    KILLED,
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE,
    LANDLOCK_RESTRICT,
    LANDLOCK_RULE_PATH_BENEATH,
    LANDLOCK_WRITE_FILE,
    MS_BIND,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    check,
    libc,
    mount,
    prctl,
    refuse,
    unshare,
)

NOBODY = 65534
RANGE = f"{NOBODY}:100000:65536\n"

# Exit status if the kernel lacks a feature that is needed to set up a misconfiguration.
UNSUPPORTED = 77

# Mount point of a tmpfs for the files of all misconfigurations.
SCRATCH = Path("/mnt")
HELPERS = ("newuidmap", "newgidmap")


def cover(path: str, content: str) -> None:
    """Bind-mount a new file with `content` over the file `path`."""
    own = SCRATCH / path.replace("/", "_")
    own.write_text(content)
    mount(str(own), path, None, MS_BIND)


# ---- seccomp -----------------------------------------------------------------------------------


def seccomp_engine() -> None:
    """Deny user namespaces with EPERM, as container engines do by default."""
    refuse(
        [
            ("unshare", 0, errno.EPERM),
            ("clone", CLONE_NEWUSER, errno.EPERM),
            ("clone3", 0, errno.ENOSYS),
        ]
    )


def seccomp_flags() -> None:
    """Deny new user namespaces and clone3(2), as systemd's RestrictNamespaces= does."""
    refuse(
        [
            ("unshare", CLONE_NEWUSER, errno.EPERM),
            ("clone", CLONE_NEWUSER, errno.EPERM),
            ("clone3", 0, errno.ENOSYS),
        ]
    )


def seccomp_mount() -> None:
    refuse([("mount", 0, errno.EPERM)])


def seccomp_mount_bind() -> None:
    """Deny open_tree(2), move_mount(2) and mount_setattr(2), as old seccomp profiles do."""
    refuse([(call, 0, errno.EPERM) for call in ("open_tree", "move_mount", "mount_setattr")])


def seccomp_ptrace() -> None:
    refuse([("ptrace", 0, errno.EPERM)])


def seccomp_pidfd() -> None:
    refuse([("pidfd_open", 0, errno.EPERM)])


def seccomp_pidfd_unknown() -> None:
    refuse([("pidfd_open", 0, errno.ENOSYS)])


def seccomp_fork() -> None:
    calls = [call for call in ("clone", "clone3", "fork") if call in CALLS]
    refuse([(call, 0, errno.EPERM) for call in calls])


def seccomp_vfork() -> None:
    """Kill callers of vfork(2), a system call that only some architectures have."""
    if "vfork" not in CALLS:
        sys.exit(UNSUPPORTED)
    refuse([("vfork", 0, KILLED)])


def seccomp_prctl() -> None:
    refuse([("prctl", 0, errno.EPERM)])


# ---- misconfigurations that any user can apply -------------------------------------------------


def no_new_privs() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def no_processes() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def landlock(*allowed: str) -> None:
    """Deny writes to all files, such as uid_map, except below the directories `allowed`."""
    rules = struct.pack("Q", LANDLOCK_WRITE_FILE)
    ruleset = check(libc.syscall(LANDLOCK_CREATE, rules, len(rules), 0), "landlock")
    for path in allowed:
        directory = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", LANDLOCK_WRITE_FILE, directory)
        done = libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        check(done, f"landlock: {path}")
        os.close(directory)
    if os.geteuid() != 0:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)


def unmapped() -> None:
    """Enter a user namespace whose maps are empty."""
    unshare(CLONE_NEWUSER)


def nest() -> None:
    """Enter a new user namespace, in which the caller is root."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def nested_deep() -> None:
    try:
        while True:
            nest()
    except OSError as full:
        if full.errno not in (errno.ENOSPC, errno.EUSERS):
            raise


def nested_no_more() -> None:
    nest()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def no_cgroup_namespaces() -> None:
    nest()
    Path("/proc/sys/user/max_cgroup_namespaces").write_text("0")


# ---- misconfigurations that only root can apply ------------------------------------------------


def chroot() -> None:
    """Change the root to a directory that is not a mount point, with a copy of /.

    The copy has a bind mount of each directory in /, and the same symbolic links.
    """
    root = SCRATCH / "root"
    root.mkdir()
    for entry in Path("/").iterdir():
        own = root / entry.name
        if entry.is_symlink():
            own.symlink_to(entry.readlink())
        elif entry.is_dir():
            own.mkdir()
            mount(str(entry), str(own), None, MS_BIND | MS_REC)
    os.chroot(root)
    os.chdir("/")


def proc_read_only() -> None:
    mount("/proc", "/proc", None, MS_BIND)
    mount("none", "/proc", None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def no_proc() -> None:
    mount("none", "/proc", "tmpfs", 0)


def no_proc_sys() -> None:
    mount("none", "/proc/sys", "tmpfs", 0)


def read_only() -> None:
    """Make /, /tmp, /var/tmp, /run and SCRATCH read-only, as docker run --read-only does."""
    own = [place for place in ("/tmp", "/var/tmp", "/run") if os.path.isdir(place)]
    for place in own:
        mount(place, place, None, MS_BIND)
    for place in (*own, str(SCRATCH), "/"):
        mount("none", place, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def proc_masked() -> None:
    mount("/dev/null", "/proc/uptime", None, MS_BIND)


def powerless_root() -> None:
    """Empty the bounding set, so that root loses all capabilities at the next execve(2)."""
    capability = 0
    # The kernel knows the capabilities up to the first for which prctl(2) fails.
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        prctl(PR_CAPBSET_DROP, capability)
        capability += 1


def use_path(directory: Path) -> None:
    os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"


def helpers_missing() -> None:
    """Set PATH to a directory with all programs except newuidmap and newgidmap."""
    directory = SCRATCH / "bin"
    directory.mkdir()
    for program in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        own = directory / program.name
        if program.name not in HELPERS and not own.is_symlink():
            own.symlink_to(program)
    os.environ["PATH"] = str(directory)


def copy_helpers() -> Path:
    directory = SCRATCH / "bin"
    directory.mkdir()
    for name in HELPERS:
        found = shutil.which(name)
        assert found is not None
        shutil.copy(found, directory / name)
        (directory / name).chmod(0o4755)
    return directory


def helpers_powerless() -> None:
    directory = copy_helpers()
    for name in HELPERS:
        (directory / name).chmod(0o755)
    use_path(directory)


def helpers_nosuid() -> None:
    directory = copy_helpers()
    mount(str(directory), str(directory), None, MS_BIND)
    mount("none", str(directory), None, MS_BIND | MS_REMOUNT | MS_NOSUID)
    use_path(directory)


def bounded() -> None:
    prctl(PR_CAPBSET_DROP, CAP_SETUID)
    prctl(PR_CAPBSET_DROP, CAP_SETGID)


def no_ranges() -> None:
    cover("/etc/subuid", "")
    cover("/etc/subgid", "")


def ranges_unreadable() -> None:
    cover("/etc/subuid", RANGE)
    os.chmod("/etc/subuid", 0)


def ranges_overlap() -> None:
    cover("/etc/subuid", f"{NOBODY}:100000:65536\n{NOBODY}:150000:65536\n")


def ranges_shared() -> None:
    cover("/etc/subuid", f"{RANGE}somebody:165000:65536\n")


def ranges_of_service() -> None:
    cover("/etc/nsswitch.conf", "passwd: files\ngroup: files\nsubid: nowhere\n")


def gid_entry() -> None:
    """Grant a range in /etc/subgid by gid, to a user whose uid differs from the gid."""
    cover("/etc/passwd", f"odd:x:{NOBODY}:1234:odd:/:/bin/sh\n")
    cover("/etc/subgid", "1234:100000:65536\n")


def nameless() -> None:
    cover("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")


def other_group() -> None:
    cover("/etc/passwd", f"nobody:x:{NOBODY}:1234:nobody:/:/bin/sh\n")


def few_ids(text: str = "0 0 65536") -> None:
    """Enter a user namespace with the ids 0 to 65535, as in a container, or with the map `text`.

    NOBODY's subordinate ids are not mapped in this namespace.
    """
    ready, told = os.pipe(), os.pipe()
    pid = os.getpid()
    writer = os.fork()
    if writer == 0:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{pid}/{name}").write_text(text)
        os.write(told[1], b"x")
        os._exit(0)
    unshare(CLONE_NEWUSER)
    os.write(ready[1], b"x")
    os.read(told[0], 1)
    os.waitpid(writer, 0)
    for descriptor in (*ready, *told):
        os.close(descriptor)


#: Misconfigurations that only root can apply. They are applied before this process changes to
#: NOBODY.
FOR_ROOT: dict[str, Callable[[], None]] = {
    "chroot": chroot,
    "proc-read-only": proc_read_only,
    "proc-masked": proc_masked,
    "no-proc": no_proc,
    "no-proc-sys": no_proc_sys,
    "read-only": read_only,
    "powerless-root": powerless_root,
    "helpers-missing": helpers_missing,
    "helpers-powerless": helpers_powerless,
    "helpers-nosuid": helpers_nosuid,
    "bounded": bounded,
    "no-ranges": no_ranges,
    "ranges-unreadable": ranges_unreadable,
    "ranges-overlap": ranges_overlap,
    "ranges-shared": ranges_shared,
    "ranges-of-service": ranges_of_service,
    "gid-entry": gid_entry,
    "nameless": nameless,
    "other-group": other_group,
    "few-ids": few_ids,
}
#: Misconfigurations that any user can apply. Root applies them before it changes to NOBODY, because
#: they would otherwise require no_new_privs.
EARLY: dict[str, Callable[[], None]] = {
    "seccomp-engine": seccomp_engine,
    "seccomp-flags": seccomp_flags,
    "seccomp-mount": seccomp_mount,
    "seccomp-mount-bind": seccomp_mount_bind,
    "seccomp-ptrace": seccomp_ptrace,
    "seccomp-pidfd": seccomp_pidfd,
    "seccomp-pidfd-unknown": seccomp_pidfd_unknown,
    "seccomp-fork": seccomp_fork,
    "seccomp-vfork": seccomp_vfork,
    "landlock": landlock,
}
#: Misconfigurations that any user can apply. Root applies them after it has changed to NOBODY.
LATE: dict[str, Callable[[], None]] = {
    "seccomp-prctl": seccomp_prctl,
    "no-new-privs": no_new_privs,
    "no-processes": no_processes,
    "unmapped": unmapped,
    "nested-deep": nested_deep,
    "nested-no-more": nested_no_more,
    "no-cgroup-namespaces": no_cgroup_namespaces,
}
FOR_ANYBODY = EARLY.keys() | LATE.keys()


def prepare() -> None:
    """As root, create a mount namespace with a tmpfs, and grant NOBODY subordinate ranges there."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("broken", str(SCRATCH), "tmpfs", 0)
    SCRATCH.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    cover("/etc/subuid", RANGE)
    cover("/etc/subgid", RANGE)


def become_nobody(gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # The change of ids made this process non-dumpable. Undo this, because a non-dumpable process
    # can't open its own files in /proc.
    prctl(PR_SET_DUMPABLE, 1)


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    ways, command = arguments[:split], arguments[split + 1 :]
    os.umask(0o022)
    if os.geteuid() == 0:
        prepare()
        for way in ways:
            if way in FOR_ROOT:
                FOR_ROOT[way]()
    for way in ways:
        if way in EARLY:
            EARLY[way]()
    if os.geteuid() == 0 and "powerless-root" not in ways:
        become_nobody(1234 if "gid-entry" in ways else NOBODY)
    for way in ways:
        if way in LATE:
            LATE[way]()
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        print(f"this kernel has no {error.filename}", file=sys.stderr)
        sys.exit(UNSUPPORTED)
