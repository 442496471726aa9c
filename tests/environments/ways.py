"""Misconfigurations of an environment, in addition to those in ../kernel/causes/broken.py.

Root applies some of them to files, mounts and programs in the trial's mount namespace, and others
to the command's process before this process changes its user to nobody. The process applies the
rest as nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "kernel" / "causes"))

from broken import HELPERS, NOBODY, SCRATCH, copy_helpers, cover, few_ids, use_path
from calls import (
    CALLS,
    CLONE_NEWPID,
    KILLED,
    LANDLOCK_CREATE,
    LANDLOCK_RESTRICT,
    MS_BIND,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    PR_CAPBSET_DROP,
    check,
    libc,
    mount,
    prctl,
    refuse,
    refuse_value,
    unshare,
)

CLONE_NEWTIME, CLONE_NEWUTS, CLONE_NEWNET = 0x80, 0x4000000, 0x40000000
MS_NODEV, MS_NOEXEC, MS_SHARED = 4, 8, 1 << 20
MNT_DETACH = 2
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_SET_MDWE, PR_SET_KEEPCAPS = 47, 2, 65, 8
PR_SET_SECUREBITS = 28
CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, CAP_SETFCAP = 6, 7, 21, 31
NO_FILE = "/nonexistent"

Way = Callable[[], None]


# ---- files of /etc -----------------------------------------------------------------------------


def ranges(uids: str, gids: str | None = None) -> Way:
    """Return a misconfiguration that replaces /etc/subuid and /etc/subgid."""

    def cover_both() -> None:
        cover("/etc/subuid", uids)
        cover("/etc/subgid", uids if gids is None else gids)

    return cover_both


def file(path: str, content: str) -> Way:
    return partial(cover, path, content)


def mode(path: str, bits: int) -> Way:
    """Return a misconfiguration that sets the mode of `path`.

    An earlier misconfiguration must have mounted another file over `path`, so that the mode of the
    host's file does not change.
    """
    return partial(os.chmod, path, bits)


def covered_mode(path: str, bits: int) -> Way:
    """Return a misconfiguration that overmounts `path` with a file or directory of mode `bits`.

    A file is overmounted with its copy, a directory with an empty directory.
    """

    def show() -> None:
        own = SCRATCH / f"copy{path.replace('/', '_')}"
        if os.path.isdir(path):
            own.mkdir()
        else:
            shutil.copy(path, own)
        own.chmod(bits)
        mount(str(own), path, None, MS_BIND)

    return show


def fifo(path: str) -> Way:
    def make() -> None:
        own = SCRATCH / path.replace("/", "_fifo")
        os.mkfifo(own, 0o644)
        mount(str(own), path, None, MS_BIND)

    return make


def device(path: str, source: str) -> Way:
    return partial(mount, source, path, None, MS_BIND)


def own_etc() -> None:
    """Mount a copy of /etc over /etc, so that programs can replace its files by rename(2)."""
    own = SCRATCH / "own-etc"
    if own.exists():
        return
    own.mkdir(0o755)
    for entry in Path("/etc").iterdir():
        # Other tests may remove their files from /etc at the same time.
        with contextlib.suppress(FileNotFoundError):
            copy_entry(entry, own / entry.name)
    mount(str(own), "/etc", None, MS_BIND)


def etc_without(*names: str) -> Way:
    """Return a misconfiguration that removes the files `names` from /etc."""

    def remove() -> None:
        own_etc()
        for name in names:
            Path("/etc", name).unlink()

    return remove


def subuid_directory() -> None:
    etc_without("subuid")()
    Path("/etc/subuid").mkdir()


def subuid_link(target: str) -> Way:
    """Return a misconfiguration that makes /etc/subuid a symbolic link to `target`.

    The file /etc/subuid-kept contains the former content of /etc/subuid.
    """

    def link() -> None:
        own_etc()
        Path("/etc/subuid").rename("/etc/subuid-kept")
        Path("/etc/subuid").symlink_to(target)

    return link


def named(name: str) -> Way:
    """Return a misconfiguration that renames the user, and grants ranges to that name."""

    def rename() -> None:
        entries = f"root:x:0:0:root:/root:/bin/sh\n{name}:x:{NOBODY}:{NOBODY}::/:/bin/sh\n"
        cover("/etc/passwd", entries)
        ranges(f"{name}:100000:65536\n")()

    return rename


def two_names() -> None:
    """Give the user's uid two names, and grant ranges to the second, as newuidmap accepts."""
    lines = (f"{name}:x:{NOBODY}:{NOBODY}::/:/bin/sh\n" for name in ("one", "other"))
    cover("/etc/passwd", "".join(("root:x:0:0:root:/root:/bin/sh\n", *lines)))
    ranges("other:100000:65536\n")()


def copy_entry(entry: Path, copy: Path) -> None:
    """Copy a file or directory with its owner, mode and symbolic links."""
    seen = entry.lstat()
    if stat.S_ISFIFO(seen.st_mode):
        os.mkfifo(copy, stat.S_IMODE(seen.st_mode))
    elif stat.S_ISDIR(seen.st_mode):
        shutil.copytree(entry, copy, symlinks=True, ignore_dangling_symlinks=True)
    else:
        shutil.copy2(entry, copy, follow_symlinks=False)
    os.chown(copy, seen.st_uid, seen.st_gid, follow_symlinks=False)


def another_user(uid: int) -> Way:
    """Return a step that adds the user of a trial with a limit of processes.

    RLIMIT_NPROC counts a user's processes in all trials, so each of these trials needs a user of
    its own.
    """

    def make() -> None:
        for path, rest in (("/etc/passwd", f"{uid}::/nonexistent:/bin/sh"), ("/etc/group", "")):
            cover(path, f"{Path(path).read_text()}another:x:{uid}:{rest}\n")
        ranges(f"{uid}:100000:65536\n")()

    return make


def slow_nss() -> None:
    """Remove the user from /etc/passwd; make getent and getsubids hang in searches for the user."""
    cover("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    programs("getent", "getsubids", text="#!/bin/sh\nexec sleep 100\n")()


# ---- mounts ------------------------------------------------------------------------------------


def empty(path: str) -> Way:
    def hide() -> None:
        mount("none", path, "tmpfs", 0)
        # The empty directory is the root of a tmpfs. Let all users search it.
        os.chmod(path, 0o755)

    return hide


def remounted(path: str, flags: int) -> Way:
    def remount() -> None:
        mount(path, path, None, MS_BIND)
        mount("none", path, None, MS_BIND | MS_REMOUNT | flags)

    return remount


def devices(*names: str, flags: int = 0) -> Way:
    """Return a misconfiguration that mounts a /dev with only the devices `names`."""

    def make() -> None:
        kept = SCRATCH / "dev"
        kept.mkdir()
        mount("none", str(kept), "tmpfs", 0)
        kept.chmod(0o755)
        for name in names:
            kind = Path("/dev", name).stat()
            os.mknod(kept / name, stat.S_IFCHR | 0o666, kind.st_rdev)
            (kept / name).chmod(0o666)
        mount(str(kept), "/dev", None, MS_BIND)
        if flags:
            mount("none", "/dev", None, MS_BIND | MS_REMOUNT | flags)

    return make


def proc(options: str) -> Way:
    def make() -> None:
        done = libc.mount(b"proc", b"/proc", b"proc", 0, options.encode())
        check(done, f"proc with {options}")

    return make


def engine_masks() -> None:
    """Mask and write-protect parts of /proc and /sys, as container engines do."""
    for path in ("/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list"):
        if os.path.exists(path):
            mount("/dev/null", path, None, MS_BIND)
    for path in ("/proc/acpi", "/proc/scsi", "/sys/firmware"):
        if os.path.exists(path):
            mount("none", path, "tmpfs", MS_RDONLY)
    for path in ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"):
        if os.path.exists(path):
            remounted(path, MS_RDONLY)()


def sysctl(name: str, text: str) -> Way:
    """Return a misconfiguration that mounts a copy of /proc/sys/kernel with the file `name`."""

    def make() -> None:
        own = SCRATCH / "kernel"
        own.mkdir()
        for entry in Path("/proc/sys/kernel").iterdir():
            # Root may not read all files, such as those that can only be written.
            with contextlib.suppress(OSError):
                (own / entry.name).write_bytes(entry.read_bytes())
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text(text)
        mount(str(own), "/proc/sys/kernel", None, MS_BIND)

    return make


def shared() -> None:
    """Make all mounts shared, as systemd does."""
    mount("none", "/", None, MS_REC | MS_SHARED)


def proc_of_outer_pids() -> None:
    """Unmount the trial's /proc, which is mounted over the /proc of the outer PID namespace."""
    check(libc.umount2(b"/proc", MNT_DETACH), "umount")


def proc_of_other_pids() -> None:
    """Mount the /proc of a PID namespace that does not contain the trial."""
    maker = os.fork()
    if maker == 0:
        unshare(CLONE_NEWPID)
        first = os.fork()
        if first == 0:
            mount("proc", "/proc", "proc", 0)
            os._exit(0)
        os._exit(os.waitpid(first, 0)[1])
    assert os.waitpid(maker, 0)[1] == 0


def chroot_into_mount_point() -> None:
    """Change the root to a mount point other than the mount namespace's root."""
    root = SCRATCH / "whole"
    root.mkdir()
    mount("/", str(root), None, MS_BIND | MS_REC)
    os.chroot(root)
    os.chdir("/")


# Directories on which `usernsctl run` can mount its private tmpfs.
MOUNT_POINTS = ("mnt", "media", "srv", "tmp", "run", "var/tmp", "home", "boot")
# Directory in which no_mount_point() keeps SCRATCH.
KEPT = Path("/scratch")


def no_mount_point() -> None:
    """Change the root to a directory that lacks MOUNT_POINTS."""
    root = SCRATCH / "root"
    root.mkdir()
    mount("none", str(root), "tmpfs", 0)
    (root / "var").mkdir()
    for entry in (*Path("/").iterdir(), *Path("/var").iterdir()):
        name = str(entry.relative_to("/"))
        own = root / name
        if name in MOUNT_POINTS or name == "var":
            continue
        if entry.is_symlink():
            own.symlink_to(os.readlink(entry))
        elif entry.is_dir():
            own.mkdir()
            mount(str(entry), str(own), None, MS_BIND | MS_REC)
    for directory in (root, root / "var"):
        directory.chmod(0o755)
    # The programs of other misconfigurations are in SCRATCH, which the new root lacks. Keep them at
    # another path.
    (root / KEPT.name).mkdir()
    mount(str(SCRATCH), str(root / KEPT.name), None, MS_BIND)
    for name, value in os.environ.items():
        os.environ[name] = value.replace(f"{SCRATCH}/", f"{KEPT}/")
    os.chdir(root)
    check(libc.syscall(CALLS["pivot_root"], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def gone_directory() -> None:
    place = SCRATCH / "gone"
    place.mkdir()
    os.chdir(place)
    place.rmdir()


def closed_directory() -> None:
    place = SCRATCH / "closed"
    place.mkdir()
    os.chdir(place)
    place.chmod(0)


# ---- programs ----------------------------------------------------------------------------------


def programs(*names: str, text: str | bytes, bits: int = 0o755) -> Way:
    """Return a misconfiguration that puts programs into the first directory of PATH."""

    def make() -> None:
        directory = SCRATCH / "first"
        if not directory.exists():
            directory.mkdir()
            use_path(directory)
        for name in names:
            own = directory / name
            own.write_bytes(text if isinstance(text, bytes) else text.encode())
            own.chmod(bits)

    return make


def directories_first(*names: str) -> Way:
    """Return a misconfiguration that puts directories `names` into the first directory of PATH."""

    def make() -> None:
        directory = SCRATCH / "first"
        directory.mkdir(exist_ok=True)
        for name in names:
            (directory / name).mkdir()
        use_path(directory)

    return make


def path_first(*directories: str) -> Way:
    return lambda: use_path(Path(":".join(directories)))


def programs_missing(*names: str) -> Way:
    """Return a misconfiguration that sets PATH to a directory with all programs except `names`."""

    def make() -> None:
        directory = SCRATCH / "fewer"
        directory.mkdir()
        for program in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
            own = directory / program.name
            if program.name not in names and not own.is_symlink():
                own.symlink_to(program)
        os.environ["PATH"] = str(directory)

    return make


def helpers_elsewhere() -> None:
    """Move newuidmap and newgidmap to another directory of PATH, with the mode that NixOS sets."""
    directory = copy_helpers()
    for name in HELPERS:
        (directory / name).chmod(0o4511)
        covered_mode(f"/usr/bin/{name}", 0o644)()
    use_path(directory)


def helpers(bits: int, owner: int = 0) -> Way:
    """Return a misconfiguration that replaces newuidmap and newgidmap with copies.

    :param bits: the mode of the copies.
    :param owner: the uid of their owner.
    """

    def make() -> None:
        directory = copy_helpers()
        for name in HELPERS:
            os.chown(directory / name, owner, 0)
            (directory / name).chmod(bits)
            found = shutil.which(name)
            assert found is not None
            mount(str(directory / name), found, None, MS_BIND)

    return make


def only_newuidmap() -> None:
    found = shutil.which("newgidmap")
    assert found is not None
    directory = SCRATCH / "without-newgidmap"
    directory.mkdir()
    for program in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        own = directory / program.name
        if program.name != "newgidmap" and not own.is_symlink():
            own.symlink_to(program)
    os.environ["PATH"] = str(directory)


def helper_capabilities(root_id: int | None) -> Way:
    """Return a misconfiguration that gives the helpers file capabilities.

    :param root_id: the root uid of the user namespace in which the file capabilities apply, or
        ``None`` for all user namespaces.
    """

    def make() -> None:
        helpers(0o755)()
        for name, bit in (("newuidmap", CAP_SETUID), ("newgidmap", CAP_SETGID)):
            revision = 0x02000000 if root_id is None else 0x03000000
            value = struct.pack("<IIIII", revision | 1, 1 << bit, 0, 0, 0)
            if root_id is not None:
                value += struct.pack("<I", root_id)
            os.setxattr(SCRATCH / "bin" / name, "security.capability", value)

    return make


def helpers_setuid_and_capable() -> None:
    """Give the helpers the set-user-ID bit and file capabilities."""
    helper_capabilities(None)()
    for name in HELPERS:
        own = SCRATCH / "bin" / name
        value = os.getxattr(own, "security.capability")
        own.chmod(0o4755)
        os.setxattr(own, "security.capability", value)


def helper_wrong_capability() -> None:
    """Swap the file capabilities: give CAP_SETGID to newuidmap, and CAP_SETUID to newgidmap."""
    helpers(0o755)()
    for name, bit in (("newuidmap", CAP_SETGID), ("newgidmap", CAP_SETUID)):
        value = struct.pack("<IIIII", 0x02000001, 1 << bit, 0, 0, 0)
        os.setxattr(SCRATCH / "bin" / name, "security.capability", value)


def runsc(text: str | bytes, bits: int = 0o755) -> Way:
    return programs("runsc", text=text, bits=bits)


def runsc_copy(bits: int = 0o755, size: int | None = None) -> Way:
    """Return a misconfiguration that replaces runsc with a copy, truncated to `size` if given."""

    def make() -> None:
        found = shutil.which("runsc")
        assert found is not None
        own = SCRATCH / "runsc"
        shutil.copy(found, own)
        if size is not None:
            os.truncate(own, size)
        own.chmod(bits)
        mount(str(own), found, None, MS_BIND)

    return make


def runsc_damaged() -> None:
    """Overwrite the first page of runsc's code with invalid instructions."""
    runsc_copy()()
    with open(SCRATCH / "runsc", "r+b") as file:
        file.seek(1 << 12)
        # Write invalid instructions: UD2 on x86-64 (0f 0b), and UDF on AArch64 (zeros).
        file.write(b"\x0f\x0b" * (1 << 11) if os.uname().machine == "x86_64" else bytes(1 << 12))


def runsc_closed() -> None:
    """Put runsc into a directory that only root can search."""
    directory = SCRATCH / "closed"
    directory.mkdir()
    (directory / "runsc").symlink_to(shutil.which("runsc") or "")
    directory.chmod(0)
    os.environ["USERNSCTL_RUNSC"] = str(directory / "runsc")


def runsc_noexec() -> None:
    directory = SCRATCH / "noexec"
    directory.mkdir()
    (directory / "runsc").write_bytes(Path(shutil.which("runsc") or "").read_bytes())
    (directory / "runsc").chmod(0o755)
    mount(str(directory), str(directory), None, MS_BIND)
    mount("none", str(directory), None, MS_BIND | MS_REMOUNT | MS_NOEXEC)
    os.environ["USERNSCTL_RUNSC"] = str(directory / "runsc")


def runsc_missing() -> None:
    found = shutil.which("runsc")
    assert found is not None
    hidden = SCRATCH / "without-runsc"
    hidden.mkdir(exist_ok=True)
    for program in (*Path("/usr/bin").iterdir(), *Path("/usr/sbin").iterdir()):
        own = hidden / program.name
        if program.name != "runsc" and not own.is_symlink():
            own.symlink_to(program)
    os.environ["PATH"] = str(hidden)


GO_PROGRAM = """
#include <stdio.h>
__asm__(".section .note.go.buildid,\\"a\\",%note\\n"
        ".long 4, 4, 4\\n.asciz \\"Go\\"\\n.byte 0\\n.long 0\\n.previous\\n");
int main(void)
{
    fputs("flag provided but not defined: -rootless\\nusage: gofmt\\n", stderr);
    return 2;
}
"""


def runsc_other_go_program() -> None:
    """Put an imitation of a Go program, under the name runsc, into the first directory of PATH."""
    directory = SCRATCH / "first"
    directory.mkdir(exist_ok=True)
    subprocess.run(
        ["cc", "-x", "c", "-o", directory / "runsc", "-"], input=GO_PROGRAM.encode(), check=True
    )
    use_path(directory)


#: First lines of a shell script that answers --version as runsc does.
VERSION = """#!/bin/sh
case "$*" in
*--version*) echo 'runsc version release-20240729.0'; echo 'spec: 1.1.0-rc.1'; exit 0 ;;
esac
"""


# ---- inherited attributes ----------------------------------------------------------------------


def filtered(*rules: tuple[str, int, int]) -> Way:
    return partial(refuse, list(rules))


def denied(*calls: str, number: int = errno.EPERM) -> Way:
    return filtered(*((call, 0, number) for call in calls))


def killed(*calls: str) -> Way:
    return filtered(*((call, 0, KILLED) for call in calls))


def denied_value(call: str, value: int, number: int = errno.EPERM) -> Way:
    """Return a misconfiguration that denies `call` if its first argument is `value`."""
    return partial(refuse_value, call, value, number)


def landlock_apart_from_files(network: int, scopes: int) -> Way:
    """Return a misconfiguration that restricts by Landlock, but denies no access to files.

    :param network: bits of LANDLOCK_ACCESS_NET_*.
    :param scopes: bits of LANDLOCK_SCOPE_*, which Linux 6.12 added. Nothing is restricted before.
    """

    def restrict() -> None:
        if libc.syscall(LANDLOCK_CREATE, None, 0, 1) < 6:
            return
        rules = struct.pack("QQQ", 0, network, scopes)
        ruleset = check(libc.syscall(LANDLOCK_CREATE, rules, len(rules), 0), "landlock")
        check(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "landlock")
        os.close(ruleset)

    return restrict


def personality(bits: int) -> Way:
    def change() -> None:
        libc.personality(bits)

    return change


def securebits(bits: int) -> Way:
    return partial(prctl, PR_SET_SECUREBITS, bits)


def one_processor() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def most_open_files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def unbounded(*capabilities: int) -> Way:
    def drop() -> None:
        for capability in capabilities:
            prctl(PR_CAPBSET_DROP, capability)

    return drop


def limit(name: str, soft: int, hard: int | None = None) -> Way:
    number = getattr(resource, f"RLIMIT_{name}")

    def put() -> None:
        most = resource.getrlimit(number)[1] if hard is None else hard
        resource.setrlimit(number, (soft, most))

    return put


def umask(bits: int) -> Way:
    return lambda: (os.umask(bits), None)[1]


def closed(*descriptors: int) -> Way:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def ignored(*signals: signal.Signals) -> Way:
    def ignore() -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)

    return ignore


def blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def variables(**values: str | None) -> Way:
    def put() -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return put


def no_variables() -> None:
    path = os.environ["PATH"]
    os.environ.clear()
    os.environ["PATH"] = path


def groups() -> None:
    os.setgroups(range(1000, 1040))


def mdwe() -> None:
    prctl(PR_SET_MDWE, 1)


def ids(*, uids: tuple[int, int, int], gids: tuple[int, int, int]) -> Way:
    """Return a misconfiguration that sets the real, effective and saved uids and gids.

    The misconfiguration also drops all supplementary groups. Only root can apply it.
    """

    def become() -> None:
        os.setgroups([])
        os.setresgid(*gids)
        os.setresuid(*uids)

    return become


def no_root() -> None:
    """Set SECBIT_NOROOT, with which root gains no capabilities at execve(2) (capabilities(7))."""
    prctl(PR_SET_SECUREBITS, 1)


def ambient(*capabilities: int) -> Way:
    """Return a misconfiguration that sets ambient capabilities, as systemd does."""

    def keep() -> None:
        os.environ["TRIAL_AMBIENT"] = ",".join(map(str, capabilities))

    return keep


def ten_descriptors() -> None:
    for _ in range(100):
        os.set_inheritable(os.dup(0), True)


def socket_input() -> None:
    ends = socket.socketpair()
    os.dup2(ends[0].fileno(), 0)
    ends[1].detach()


# ---- namespaces --------------------------------------------------------------------------------


def time_namespace() -> None:
    """Create a time namespace for the commands, whose clocks are a thousand days ahead."""
    unshare(CLONE_NEWTIME)
    offsets = "".join(f"{clock} {1000 * 86400} 0\n" for clock in ("monotonic", "boottime"))
    Path("/proc/self/timens_offsets").write_text(offsets)


def no_network() -> None:
    unshare(CLONE_NEWNET)


def no_hostname() -> None:
    unshare(CLONE_NEWUTS)
    socket.sethostname("")


def container(limits: dict[str, int] | None = None) -> Way:
    """Return a misconfiguration that enters a container's user namespace, with ids 0 to 65535.

    :param limits: values that root of the namespace writes to files of /proc/sys/user.
    """

    def make() -> None:
        few_ids()
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        for name, most in (limits or {}).items():
            Path(f"/proc/sys/user/{name}").write_text(str(most))

    return make


RANGE_INSIDE = f"{NOBODY}:1000:60000\n"
