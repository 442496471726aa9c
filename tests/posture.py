"""Postures: properties of a sandbox's processes as seen from the host, written as words in a table.

A table in posture_table.py contains a :class:`Posture` for each kind of process.
:func:`differences` returns the cells in which a process differs from the table. The words depend
neither on the host nor on the release of runsc. For example, ``caller`` stands for the caller's ids
or files.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import prctl
from processes import children_of, status_of

# The source argument with which usernsctl calls mount(2), and the name of the directory that
# contains the mount points.
SCRATCH = "usernsctl"
FLAGS = ("ro", "rw", "nosuid", "nodev", "noexec")
# Top-level directories of the host from which a command in a sandbox may see programs.
PROGRAMS = {"bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr"}
CAPABILITIES = {
    int(getattr(prctl, f"CAP_{name.upper()}")): name
    for name in prctl.ALL_CAP_NAMES
    if name != "last_cap"
}
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
# Kinds of processes, by the last component of argv[0].
KINDS = {
    "usernsctl-watch": "watcher",
    "usernsctl-init": "init",
    "usernsctl-detach": "keeper",
    "runsc": "runsc",
    "runsc-gofer": "gofer",
    "runsc-sandbox": "sandbox",
    # Name of the sandbox process in releases with separate programs (since 20260817).
    "gvisor_sentry": "sandbox",
}
IDS = {"user": "Uid", "group": "Gid"}
SETS = {
    "effective": "Eff",
    "permitted": "Prm",
    "bounding": "Bnd",
    "inheritable": "Inh",
    "ambient": "Amb",
}
OURS = ("/.usernsctl-verify", "/.usernsctl-agent")
# O_PATH in the flags of fdinfo (open(2), proc_pid_fdinfo(5)).
O_PATH = 0o10000000


@dataclass(frozen=True, kw_only=True)
class Posture:
    """Properties of a process or, in a table, of a kind of process.

    In a table, ``a|b`` matches either word, and a word that begins with ``?`` is optional.

    :ivar parent: the parent's kind, ``caller``, or ``outside`` for any other process.
    :ivar session: the owner of the session and process group: ``caller``, ``own`` or a kind.
    :ivar ids: ``caller`` if the ids, seen from the host, are the caller's. Otherwise the real,
        effective, saved and filesystem uids, then the gids.
    :ivar groups: ``caller`` if the supplementary groups are the caller's, or ``other``.
    :ivar maps: the id maps, and the state of setgroups(2).
    :ivar effective: the effective capabilities. `permitted`, `bounding`, `inheritable` and
        `ambient` are the other capability sets.
    :ivar no_new_privs: whether execve(2) grants no new privileges.
    :ivar seccomp: whether a filter restricts the system calls.
    :ivar traceable: whether another process of the same user namespace, with the same ids and all
        capabilities but CAP_SYS_PTRACE, may read the process's memory and open its descriptors. In
        a table, None means that the test can't check this.
    :ivar namespaces: the namespaces that are not the caller's, with their owners.
    :ivar cgroup: the owner of the control group.
    :ivar cwd: the current directory; ``/`` is the process's root directory.
    :ivar mounts: the mounts below the process's root directory. A mount of a host filesystem has
        the flag ``ro`` or ``rw``; other mounts have all flags.
    :ivar descriptors: the targets of the descriptors, and how they are open.
    :ivar environment: all environment variables.
    :ivar tells: the names of those secrets of the caller that the arguments contain. Every user may
        read arguments.
    """

    parent: str
    session: str
    ids: str = "caller"
    groups: str = "caller"
    maps: frozenset[str]
    effective: frozenset[str]
    permitted: frozenset[str]
    bounding: frozenset[str]
    inheritable: frozenset[str] = frozenset()
    ambient: frozenset[str] = frozenset()
    no_new_privs: bool = True
    seccomp: bool
    traceable: bool | None
    namespaces: frozenset[str]
    cgroup: str = "caller"
    cwd: str = "/"
    mounts: frozenset[str]
    descriptors: frozenset[str]
    environment: frozenset[str]
    tells: frozenset[str] = frozenset()


def words(text: str) -> frozenset[str]:
    """Parse the comma-separated words of a table's cell."""
    return frozenset(word for word in (part.strip() for part in text.split(",")) if word)


@dataclass(frozen=True)
class Mount:
    """A mount, parsed from a line of proc_pid_mountinfo(5)."""

    device: str
    root: str
    point: str
    options: frozenset[str]
    type: str
    source: str

    @property
    def place(self) -> tuple[str, str, str]:
        return self.device, self.root, self.point

    @property
    def is_top_of_ours(self) -> bool:
        return self.source == SCRATCH and self.point.endswith(f"/{SCRATCH}")


def mounts_of(pid: int | str) -> dict[int, Mount]:
    """Return the mounts that a process sees, by mount id."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        id, _, device, root, point, options = before.split(" ")[:6]
        type, source = after.split(" ")[:2]
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
        found[int(id)] = Mount(device, root, point, frozenset(options.split(",")), type, source)
    return found


def namespaces_of(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def stat_of(pid: int | str) -> list[str]:
    """Return the fields of proc_pid_stat(5) after the name: state, ppid, pgrp, session etc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()


def identity_of(file: int | str) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_dev, found.st_ino


class Caller:
    """The creator of a sandbox, the files that it passes to the sandbox, and its secrets.

    :param given: descriptors or paths of the files that the creator passes to the sandbox, by the
        files' names in the table.
    :param secrets: strings that no other process may learn, by their names in the table.
    :param asked: mount points in the sandbox where the creator has requested mounts of other host
        files.
    :param pid: a process with the creator's ids, namespaces, mounts and cgroup; this process by
        default.
    """

    def __init__(
        self,
        given: Mapping[str, int | str],
        secrets: Mapping[str, str],
        asked: Iterable[str] = (),
        pid: int | None = None,
    ) -> None:
        self.pid = pid = os.getpid() if pid is None else pid
        self.status = status_of(pid)
        self.asked = {*OURS, *asked}
        self.given = {identity_of(file): name for name, file in given.items()}
        self.secrets = dict(secrets)
        self.namespaces = namespaces_of(pid)
        self.cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        self.group, self.session = stat_of(pid)[2:4]


def family_of(pid: int) -> Iterator[int]:
    """Yield the pids of a process and its descendants, parents first."""
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in children_of(pid):
            yield from family_of(child)


def kind_of(pid: int) -> str:
    """Return the kind of the process, by its name. If the name is unknown, return the name."""
    if Path(f"/proc/{pid}/comm").read_text() == "usernsctl-hold\n":
        return "holder"
    name = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
    if not name:
        # Stubs, which run the command's code, are clones of the sandbox process with an empty
        # /proc/PID/cmdline.
        return "stub"
    name = name.rpartition("/")[2]
    return KINDS.get(name, name)


class Family:
    """A sandbox's processes at one point in time."""

    def __init__(self, caller: Caller, pids: Iterable[int]) -> None:
        self.caller = caller
        # The caller's mounts may have changed, so read them again: when a mount point is removed,
        # the kernel detaches its mount in all mount namespaces.
        callers = mounts_of(caller.pid).values()
        self.callers_mounts = {mount.place for mount in callers}
        self.machine = {mount.device: mount.type for mount in callers}
        self.kinds: dict[int, str] = {}
        self.mounts: dict[int, str] = {}
        # Names of filesystems by device, for descriptors whose mount no process sees.
        self.devices = dict(self.machine)
        self._namespaces: dict[str, str] = {}
        for pid in pids:
            with gone_is_fine():
                kind = kind_of(pid)
                # A process may have a descriptor of a mount that only another process sees, so
                # collect the mounts of all processes.
                mounts = mounts_of(pid)
                self.mounts |= self._labels(mounts)
                for mount in mounts.values():
                    ours = mount.source == "usernsctl"
                    self.devices.setdefault(mount.device, "scratch" if ours else mount.type)
                for name, link in namespaces_of(pid).items():
                    if link != caller.namespaces[name]:
                        self._namespaces.setdefault(link, kind)
                self.kinds[pid] = kind

    def postures(self) -> Iterator[tuple[str, int, Posture]]:
        """Yield kind, pid and posture of each process that still exists."""
        for pid, kind in self.kinds.items():
            with gone_is_fine():
                yield kind, pid, self._posture(pid, kind)

    def _posture(self, pid: int, kind: str) -> Posture:
        status = status_of(pid)
        sets = {name: capabilities(status[f"Cap{short}"]) for name, short in SETS.items()}
        return Posture(
            parent=self._who(stat_of(pid)[1]),
            session=self._session(pid),
            ids=self._ids(status),
            groups="caller" if status["Groups"] == self.caller.status["Groups"] else "other",
            maps=self._maps(pid),
            **sets,
            no_new_privs=status["NoNewPrivs"] == "1",
            seccomp=status["Seccomp"] == "2",
            traceable=may_be_traced(pid),
            namespaces=frozenset(self._own_namespaces(pid, kind)),
            cgroup=self._cgroup(pid),
            cwd=self._cwd(pid),
            mounts=frozenset(self._seen(pid)),
            descriptors=frozenset(self._descriptors(pid)),
            environment=frozenset(environment_of(pid)),
            tells=self._tells(pid),
        )

    def _who(self, pid: str) -> str:
        return "caller" if int(pid) == self.caller.pid else self.kinds.get(int(pid), "outside")

    def _session(self, pid: int) -> str:
        group, session = stat_of(pid)[2:4]
        if (group, session) == (self.caller.group, self.caller.session):
            return "caller"
        return "own" if (group, session) == (str(pid),) * 2 else self._who(group)

    def _ids(self, status: dict[str, str]) -> str:
        same = all(status[name] == self.caller.status[name] for name in ("Uid", "Gid"))
        return "caller" if same else f"{status['Uid']} {status['Gid']}"

    def _maps(self, pid: int) -> frozenset[str]:
        """Return the first extents of the id maps as words. Later extents depend on the caller."""
        found = set()
        for kind, name in (("uid", "Uid"), ("gid", "Gid")):
            extents = Path(f"/proc/{pid}/{kind}_map").read_text().split()
            ours = self.caller.status[name].split()[0]
            inside, outside, count = extents[:3]
            several = count != "1" or len(extents) > 3
            first = "caller" if outside == ours else outside
            found.add(f"{kind} {inside} is {first}{' of several' if several else ''}")
        setgroups = Path(f"/proc/{pid}/setgroups").read_text().strip()
        return frozenset(found | {f"setgroups {setgroups}"})

    def _own_namespaces(self, pid: int, kind: str) -> Iterator[str]:
        for name, link in namespaces_of(pid).items():
            if (owner := self._namespaces.get(link)) is not None:
                yield f"{name} own" if owner == kind else f"{name} of {owner}"

    def _cgroup(self, pid: int) -> str:
        found = Path(f"/proc/{pid}/cgroup").read_text()
        return "caller" if found == self.caller.cgroup else found

    def _cwd(self, pid: int) -> str:
        root, cwd = (os.readlink(f"/proc/{pid}/{name}") for name in ("root", "cwd"))
        return "/" if cwd == root else cwd

    def _labels(self, mounts: Mapping[int, Mount]) -> dict[int, str]:
        """Map the ids of a process's mounts to the mounts' names in the table, without flags."""
        everything = self.callers_mounts <= {mount.place for mount in mounts.values()}
        tops = [mount.point for mount in mounts.values() if mount.is_top_of_ours]
        top = tops[-1] if tops else None
        return {
            id: "caller's"
            if everything and mount.place in self.callers_mounts
            else self._label(mount, top)
            for id, mount in mounts.items()
        }

    def _label(self, mount: Mount, top: str | None) -> str:
        """Return the name by which the table of postures lists a mount.

        :param top: the mount point of usernsctl's tmpfs, or None if the process does not see it.
        """
        inside = None
        if top is not None and f"{mount.point}/".startswith(f"{top}/"):
            inside = mount.point.removeprefix(top)
        if mount.source == SCRATCH:
            return label_of_ours(mount.point, top, inside)
        # All nsfs mounts, which keep namespaces alive, have the same device. If the caller has such
        # a mount, `machine` contains that device, too.
        if mount.device not in self.machine or mount.point.endswith("/state/null-netns"):
            return mount.type if inside else f"{mount.source} at {mount.point}"
        shown = mount.point if inside is None else inside.removeprefix("/root")
        if shown.split("/")[1] in PROGRAMS:
            return "programs"
        if shown.split("/")[1] == "proc":
            # This label includes the mounts with which a container engine masks files of /proc.
            return "/proc"
        return shown if shown in self.caller.asked else "machine"

    def _seen(self, pid: int) -> Iterator[str]:
        mounts = mounts_of(pid)
        for id, label in self._labels(mounts).items():
            mount = mounts[id]
            if label == "caller's":
                # Omit the flags: those of the caller's own mount are not part of the posture.
                yield label
                continue
            machines = mount.device in self.machine
            shown = [flag for flag in FLAGS[: 2 if machines else None] if flag in mount.options]
            yield " ".join([label, *shown])

    def _descriptors(self, pid: int) -> Iterator[str]:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield self._descriptor(pid, entry)

    def _descriptor(self, pid: int, entry: Path) -> str:
        link = os.readlink(entry)
        if (given := self.caller.given.get(identity_of(str(entry)))) is not None:
            return given
        if kind := re.match(r"anon_inode:\[?([\w ]+)|(pipe|socket|net|mnt|user):", link):
            return kind[1] or kind[2]
        if link.startswith("/memfd:"):
            return "memfd"
        lines = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().splitlines()
        info = dict(re.split(r":\s*", line, maxsplit=1) for line in lines if ":" in line)
        flags = int(info["flags"], 8)
        how = "path" if flags & O_PATH else ("r", "w", "rw")[flags & os.O_ACCMODE]
        if link == os.devnull:
            return f"null {how}"
        # Since Go 1.25, the Go runtime keeps the control group's files with the CPU limit open.
        # Match only the last components of their paths, because the gofer, which has called
        # chroot(2), sees no more.
        if re.search(r"/cpu\.(max|cfs_(quota|period)_us)$", link):
            return f"limit of processors {how}"
        # Here, the link names the directory of a detached sandbox's record.
        if re.search(r"/usernsctl/sandboxes/[^/]+$", link):
            return f"record {how}"
        device = os.stat(entry).st_dev
        # If no process sees a mount of the file's device, use the file's directory as the name.
        directory = re.sub(rf"^/.*/{SCRATCH}/(.*)/[^/]*$", r"\1", link)
        unknown = self.devices.get(f"{os.major(device)}:{os.minor(device)}", directory)
        return f"{self.mounts.get(int(info['mnt_id']), unknown)} {how}"

    def _tells(self, pid: int) -> frozenset[str]:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        return frozenset(name for name, text in self.caller.secrets.items() if text in arguments)


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """Ignore errors about a process that exits while it is inspected."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        yield


def label_of_ours(point: str, top: str | None, inside: str | None) -> str:
    """Return the table's name of a mount that usernsctl has created.

    :param top: the mount point of usernsctl's tmpfs, or None if the process does not see it.
    :param inside: the mount point relative to `top`, or None if it is not below `top`.
    """
    if top is None:
        # If a process does not see usernsctl's tmpfs, its root directory is the root filesystem
        # that usernsctl has built.
        if point == "/":
            return "root"
        return "hidden" if point.split("/")[1] in PROGRAMS else point
    if inside is None:
        return "scratch"
    return "hidden" if inside.startswith("/root/") else inside.removeprefix("/") or "scratch"


def capabilities(mask: str) -> frozenset[str]:
    bits = int(mask, 16)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    if bits == (2 << last) - 1:
        return frozenset({"all"})
    return frozenset(CAPABILITIES.get(bit, str(bit)) for bit in range(64) if bits >> bit & 1)


def environment_of(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        # The values of runsc's own environment variables differ between releases, so yield only
        # their names.
        if entry:
            yield re.sub(r"^(GVISOR_\w+)=.*", r"\1", entry.decode(errors="replace"))


def may_be_traced(pid: int) -> bool:
    """Return whether another process in the user namespace of `pid` may inspect `pid`.

    That process has all capabilities except CAP_SYS_PTRACE. See PTRACE_MODE_READ in ptrace(2).
    """
    join = ["nsenter", "--user", f"--target={pid}", "--preserve-credentials", "--"]
    drop = ["setpriv", "--bounding-set=-sys_ptrace", "--"]
    ids = {name: int(status_of(pid)[field].split()[0]) for name, field in IDS.items()}
    # To inspect a container of another user, root must first change to ids that the container maps.
    become = {} if ids["user"] == os.geteuid() else ids
    done = subprocess.run(
        [*join, *drop, "readlink", f"/proc/{pid}/exe"], capture_output=True, **become
    )
    return done.returncode == 0


def differences(table: Mapping[str, Posture], family: Family) -> list[str]:
    """Return the differences between processes and a table, one line for each differing cell."""
    found = []
    seen = set()
    for kind, pid, posture in family.postures():
        seen.add(kind)
        if kind not in table:
            found.append(f"{kind}: a process that the table does not have (pid {pid})")
            continue
        for field in fields(Posture):
            found += compare(
                f"{kind}.{field.name}",
                getattr(table[kind], field.name),
                getattr(posture, field.name),
            )
    found += [f"{kind}: there is none" for kind in table if kind not in seen]
    return list(dict.fromkeys(found))


def lasting_differences(
    table: Mapping[str, Posture], look: Callable[[], Family], seconds: float
) -> list[str]:
    """Return the differences that remain once a start's short-lived processes have exited."""
    deadline = time.monotonic() + seconds
    while (found := differences(table, look())) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def compare(cell: str, wanted: object, got: object) -> list[str]:
    if wanted is None:
        return []
    if isinstance(wanted, str) and isinstance(got, str):
        return [] if got in wanted.split("|") else [f"{cell}: it is {got}, not {wanted}"]
    if not isinstance(wanted, frozenset) or not isinstance(got, frozenset):
        return [] if wanted == got else [f"{cell}: it is {got}, not {wanted}"]
    choices = [word.removeprefix("?").split("|") for word in wanted]
    required = [word.split("|") for word in wanted if not word.startswith("?")]
    more = got - {word for words in choices for word in words}
    less = {"|".join(words) for words in required if got.isdisjoint(words)}
    return [
        f"{cell}: {what}: {', '.join(sorted(words))}"
        for what, words in (("too much", more), ("missing", less))
        if words
    ]
