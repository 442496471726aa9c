"""What can be known of this machine without trying anything. Values; reading is facts_read's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from usernsctl._lean import asdict, dataclass, field
from usernsctl.maps import Extent

Engine = Literal["docker", "podman", "kubernetes", "gvisor", "other"]

#: Where programs are when PATH does not say: as csrc/base/base.h has it.
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

#: Bit numbers in sets of capabilities (linux/capability.h).
CAPABILITIES = {"setgid": 6, "setuid": 7, "sys_admin": 21, "setfcap": 31}

#: What a user namespace's own limit is unless somebody sets it (kernel/ucount.c).
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """:ivar gvisor: whether this "kernel" is that of a gVisor sandbox that we are in."""

    release: str | None = None
    gvisor: bool = False
    machine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """Who we are, and which ids exist in the user namespace that we are in.

    :ivar uid: the effective one; and so `gid`.
    :ivar uid_map: ``None`` where /proc does not tell; and so `gid_map`.
    """

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    uid_map: tuple[Extent, ...] | None = None
    gid_map: tuple[Extent, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileges:
    """What this process may do, and what it gave up. ``None``: not known.

    :ivar effective: a set of capabilities, bit N for capability N; and so the other sets.
    :ivar seccomp: 0 none, 1 strict, 2 a filter (proc_pid_status(5)).
    :ivar seccomp_filters: how many filters there are.
    :ivar dumpable: whether others of our user may look into this process (PR_SET_DUMPABLE).
    :ivar denies_write_execute: whether it can get no memory that it could write and execute
        (PR_SET_MDWE).
    """

    inheritable: int | None = None
    permitted: int | None = None
    effective: int | None = None
    bounding: int | None = None
    ambient: int | None = None
    securebits: tuple[str, ...] | None = None
    no_new_privs: bool | None = None
    seccomp: int | None = None
    seccomp_filters: int | None = None
    dumpable: bool | None = None
    denies_write_execute: bool | None = None

    def lacks_bounding(self, *names: str) -> tuple[str, ...]:
        """Those of the capabilities that the bounding set is known to lack."""
        if self.bounding is None:
            return ()
        return tuple(name for name in names if not self.bounding >> CAPABILITIES[name] & 1)

    def holds(self, *names: str) -> bool:
        """Whether all of the capabilities are known to be effective."""
        effective = self.effective or 0
        return all(effective >> CAPABILITIES[name] & 1 for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much there may be of what. ``None``: no limit, or not known.

    :ivar processes: RLIMIT_NPROC, the soft limit; so are the next ones.
    :ivar address_space: RLIMIT_AS, in bytes.
    :ivar data: RLIMIT_DATA, in bytes.
    :ivar file_size: RLIMIT_FSIZE, in bytes.
    :ivar open_files: RLIMIT_NOFILE.
    :ivar pending_signals: RLIMIT_SIGPENDING.
    :ivar pending_signals_current: how many are queued, for all processes of the user.
    :ivar hard: the hard limits, by the names above.
    :ivar pids: the smallest pids.max of our control group and those above it.
    :ivar pids_current: how many there are in the group that has that limit.
    """

    processes: int | None = None
    address_space: int | None = None
    data: int | None = None
    file_size: int | None = None
    open_files: int | None = None
    pending_signals: int | None = None
    pending_signals_current: int | None = None
    hard: Mapping[str, int] = field(default_factory=dict)
    pids: int | None = None
    pids_current: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityModules:
    """:ivar names: those active, as /sys/kernel/security/lsm has them; ``None``: not known.

    :ivar label: our own, such as ``"docker-default (enforce)"``; of SELinux, a context.
    :ivar selinux_enforcing: ``None`` where there is no SELinux.
    :ivar landlock: the version of Landlock's interface; 0: there is none, or it can't be had;
        ``None``: not known, as below a seccomp filter. Nothing tells whether Landlock confines this
        process.
    """

    names: tuple[str, ...] | None = None
    label: str | None = None
    selinux_enforcing: bool | None = None
    landlock: int | None = None

    @property
    def has_apparmor(self) -> bool:
        """Whether AppArmor labels processes here."""
        return "apparmor" in (self.names or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What we are in.

    :ivar engine: ``None`` where nothing speaks for a container.
    :ivar sign: what speaks for it.
    :ivar chroot: whether the root directory is not that of the mount namespace; ``None``: unknown.
    :ivar docker_daemon: whether there is a Docker daemon's socket here.
    :ivar userns_remap: what that daemon's configuration says of userns-remap.
    """

    engine: Engine | None = None
    sign: str = ""
    chroot: bool | None = None
    docker_daemon: bool = False
    userns_remap: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """newuidmap or newgidmap.

    :ivar path: ``None``: not on PATH.
    :ivar executable: whether we may execute it.
    :ivar privileged: whether it is setuid root, or has file capabilities.
    :ivar script: whether it is one, which has no privilege itself, but may start what has.
    :ivar nosuid: the mount point that it is on, where neither counts; else ``None``.
    :ivar system: it without symbolic links, if only root can put something else in its place, and
        it is where systems have their programs; else ``None``.
    """

    path: str | None = None
    mode: int | None = None
    owner: int | None = None
    executable: bool = True
    file_capabilities: bool = False
    privileged: bool = False
    script: bool = False
    nosuid: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subordinate:
    """Where subordinate ranges come from; the ranges themselves are the planner's to read.

    :ivar source: what nsswitch.conf says of ``subid``; ``None``: the files.
    :ivar user: our name; ``None``: we have none.
    :ivar free: the first of `free_count` ids that nobody has in either file, and that exist in the
        user namespace that we are in; ``None``: there are none.
    :ivar free_count: 65536, or as many as there are.
    :ivar gid_entries: lines of /etc/subgid that begin with our gid, which nothing ever looks at.
    :ivar unreadable: those of the files that name users and ranges which are there, but not for us
        to read.
    :ivar no_files: those that are no files, such as FIFOs.
    """

    source: str | None = None
    user: str | None = None
    free: int | None = None
    free_count: int = 65536
    gid_entries: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    no_files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """Our control group. `directory` is ``None`` where there is no hierarchy of version 2.

    :ivar delegated: whether we may make groups in it.
    """

    directory: str | None = None
    delegated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """:ivar mode: the permission bits, ``None`` where there is no such device."""

    path: str
    mode: int | None = None
    accessible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runsc:
    """:ivar path: ``None`` where there is none that can be used; `cause` and `problem` say why.

    :ivar refused: the one that is there, but can't be used.
    :ivar system: the one or the other without symbolic links, if it is called so, and only root can
        put something else in its place; else ``None``.
    :ivar noexec: the mount point that the one that is refused is on, where nothing is executed.
    :ivar other: another one that is root's, where systems have their programs, and answers.
    :ivar release: as it says itself, such as ``"release-20260817.0"``.
    :ivar age: in days; ``None`` where the release does not tell its day.
    """

    path: str | None = None
    release: str | None = None
    age: int | None = None
    cause: str | None = None
    problem: str | None = None
    refused: str | None = None
    system: str | None = None
    noexec: str | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All of them.

    :ivar has_proc: whether /proc is mounted. Without it most else is not known.
    :ivar supported: whether the kernel has user namespaces at all; ``None``: not known.
    :ivar initial: whether we are in the initial user namespace; ``None``: not known.
    :ivar namespaces: their identities, by the names in /proc/self/ns.
    :ivar threads: of this process.
    :ivar parent: the process that has started this one, such as a shell, if this one has its limits
        from there; else 0.
    :ivar sysctls: by path below /proc/sys; ``None``: this kernel does not have it.
    :ivar mounts: by mount point, what restricts each: ``"ro"``, ``"nosuid"``, ``"nodev"``,
        ``"noexec"``.
    """

    has_proc: bool = True
    supported: bool | None = None
    initial: bool | None = None
    kernel: Kernel = field(default_factory=Kernel)
    ids: Ids = field(default_factory=Ids)
    privileges: Privileges = field(default_factory=Privileges)
    namespaces: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    parent: int = 0
    limits: Limits = field(default_factory=Limits)
    sysctls: Mapping[str, int | None] = field(default_factory=dict)
    security: SecurityModules = field(default_factory=SecurityModules)
    mounts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    container: Container = field(default_factory=Container)
    helpers: Mapping[str, Helper] = field(default_factory=dict)
    subordinate: Subordinate = field(default_factory=Subordinate)
    cgroup: Cgroup = field(default_factory=Cgroup)
    devices: Mapping[str, Device] = field(default_factory=dict)
    runsc: Runsc | None = None

    def masked_proc(self) -> tuple[str, ...]:
        """What is mounted below /proc, so that a new /proc would show what is hidden there."""
        # Nothing is ever in that directory (fs/namespace.c, mnt_already_visible()).
        empty = "/proc/sys/fs/binfmt_misc"
        return tuple(
            point for point in self.mounts if point.startswith("/proc/") and point != empty
        )

    def plain(self) -> dict[str, Any]:
        """The same as JSON has it."""
        values = asdict(self)
        values["ids"]["uid_map"] = _lines(self.ids.uid_map)
        values["ids"]["gid_map"] = _lines(self.ids.gid_map)
        for name in ("inheritable", "permitted", "effective", "bounding", "ambient"):
            number = values["privileges"][name]
            values["privileges"][name] = None if number is None else f"{number:016x}"
        for file in (*values["helpers"].values(), *values["devices"].values()):
            file["mode"] = None if file["mode"] is None else f"{file['mode']:04o}"
        return values


def _lines(extents: tuple[Extent, ...] | None) -> list[str] | None:
    return None if extents is None else [str(extent) for extent in extents]
