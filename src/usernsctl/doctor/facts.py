"""Values that describe this host and this process; :mod:`usernsctl.doctor.reading` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from usernsctl._lean import asdict, dataclass, field
from usernsctl.maps import Extent

Engine = Literal["docker", "podman", "kubernetes", "gvisor", "other"]

#: The search path if PATH is not set, the same as in csrc/base/base.h.
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

#: Bit numbers of capabilities in capability sets (linux/capability.h).
CAPABILITIES = {"setgid": 6, "setuid": 7, "sys_admin": 21, "sys_resource": 24, "setfcap": 31}

#: The default limit on namespaces in a new user namespace (kernel/ucount.c).
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """The kernel of this host.

    :ivar gvisor: whether the kernel is gVisor's, that is, whether this process is in a gVisor
        sandbox.
    """

    release: str | None = None
    gvisor: bool = False
    machine: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """The ids of this process, and the maps of its user namespace.

    :ivar uid: the effective uid.
    :ivar gid: the effective gid.
    :ivar uid_map: the extents of the uid map; ``None`` if /proc can't be read.
    :ivar gid_map: the extents of the gid map; ``None`` if /proc can't be read.
    """

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    uid_map: tuple[Extent, ...] | None = None
    gid_map: tuple[Extent, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileges:
    """The privileges and restrictions of this process. Unknown values are ``None``.

    :ivar effective: the effective capabilities; bit N stands for capability N, here and in the
        other sets.
    :ivar seccomp: 0 for none, 1 for strict mode, 2 for a filter (proc_pid_status(5)).
    :ivar seccomp_filters: the number of seccomp filters.
    :ivar dumpable: whether other processes of the user may trace this process (PR_SET_DUMPABLE).
    :ivar denies_write_execute: whether the kernel denies memory that is both writable and
        executable (PR_SET_MDWE).
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
        """Return the capabilities in `names` that are known to be missing in the bounding set."""
        if self.bounding is None:
            return ()
        return tuple(name for name in names if not self.bounding >> CAPABILITIES[name] & 1)

    def holds(self, *names: str) -> bool:
        """Return whether all capabilities in `names` are known to be effective."""
        effective = self.effective or 0
        return all(effective >> CAPABILITIES[name] & 1 for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits. A value is ``None`` if no limit is set, or if the limit is unknown.

    :ivar processes: RLIMIT_NPROC. This field and those up to `pending_signals` are soft limits.
    :ivar address_space: RLIMIT_AS, in bytes.
    :ivar data: RLIMIT_DATA, in bytes.
    :ivar file_size: RLIMIT_FSIZE, in bytes.
    :ivar open_files: RLIMIT_NOFILE.
    :ivar pending_signals: RLIMIT_SIGPENDING.
    :ivar pending_signals_current: the number of queued signals of all processes of the user.
    :ivar hard: the hard limits, keyed by the names of the fields above.
    :ivar pids: the lowest pids.max of this process's control group and its ancestors.
    :ivar pids_current: the number of processes in the control group with the lowest pids.max.
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
    """The security modules of the kernel.

    :ivar names: the active modules (/sys/kernel/security/lsm), or ``None`` if they are unknown.
    :ivar label: the label of this process, such as ``"docker-default (enforce)"``, or its SELinux
        context; ``None`` if it is unknown.
    :ivar selinux_enforcing: whether SELinux is in enforcing mode; ``None`` if SELinux is disabled,
        or /sys/fs/selinux is not mounted.
    :ivar landlock: the version of Landlock's ABI; 0 if the kernel lacks or denies Landlock;
        ``None`` if a seccomp filter is active: the filter may kill a process that queries the
        version. The kernel does not reveal whether Landlock confines this process.
    """

    names: tuple[str, ...] | None = None
    label: str | None = None
    selinux_enforcing: bool | None = None
    landlock: int | None = None

    @property
    def has_apparmor(self) -> bool:
        """True if AppArmor is one of the active modules."""
        return "apparmor" in (self.names or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """The container in which this process runs.

    :ivar engine: the container engine; ``None`` if there is no sign of a container.
    :ivar sign: the evidence that this process is in a container, as text.
    :ivar chroot: whether the root directory of this process differs from the root directory of its
        mount namespace; ``None`` if that is unknown.
    :ivar docker_daemon: whether the socket of a Docker daemon exists on this host.
    :ivar userns_remap: the value of userns-remap in the daemon's configuration, or ``None``.
    """

    engine: Engine | None = None
    sign: str = ""
    chroot: bool | None = None
    docker_daemon: bool = False
    userns_remap: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Helper:
    """The program file of a helper, newuidmap or newgidmap.

    :ivar path: the path of the helper, or ``None`` if the helper is not on PATH.
    :ivar executable: whether this process may execute the helper.
    :ivar privileged: whether the helper is setuid root, or has file capabilities.
    :ivar script: whether the helper is not an ELF program. The helper may then be a script that
        starts a privileged program.
    :ivar nosuid: the mount point of the helper's filesystem if the mount is nosuid, otherwise
        ``None``.
    :ivar system: `path` with symbolic links resolved, if the file is in a system directory such as
        /usr/bin and only root can replace it; otherwise ``None``.
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
    """The sources of subordinate id ranges. The core reads the ranges themselves.

    :ivar source: the service that nsswitch.conf names for ``subid``, or ``None`` for the files
        subuid and subgid.
    :ivar user: the name of the user, or ``None`` if the user has no entry in /etc/passwd.
    :ivar free: the first of `free_count` ids that neither subuid nor subgid grants and that this
        user namespace maps; ``None`` if no id is free.
    :ivar free_count: the number of free ids from `free` on, at most 65536.
    :ivar gid_entries: the lines of /etc/subgid that begin with the user's gid. The lines have no
        effect, because the file contains uids.
    :ivar unreadable: the paths among /etc/passwd, /etc/subuid and /etc/subgid that exist but can't
        be read.
    :ivar no_files: the paths among /etc/subuid and /etc/subgid that are not regular files, but for
        example FIFOs or symbolic links.
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
    """The control group of this process.

    :ivar directory: the path of the cgroup's directory; ``None`` if no cgroup v2 hierarchy is
        found.
    :ivar delegated: whether this process may create child cgroups.
    """

    directory: str | None = None
    delegated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device file.

    :ivar mode: the permission bits, or ``None`` if the device file does not exist.
    """

    path: str
    mode: int | None = None
    accessible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runsc:
    """The runsc that usernsctl would use on this host.

    :ivar path: the path of runsc; ``None`` if no runsc can be used; `cause` and `problem` then say
        why.
    :ivar refused: the path of a runsc that exists, but can't be used; otherwise ``None``.
    :ivar system: `path` or `refused` with symbolic links resolved, if the file's name is runsc and
        only root can replace the file; otherwise ``None``.
    :ivar noexec: the mount point of `refused` if the mount is noexec; otherwise ``None``.
    :ivar other: the path of another runsc that works, is in a system directory such as /usr/bin,
        and can be replaced only by root; otherwise ``None``.
    :ivar release: the release that runsc prints, such as ``"release-20260817.0"``; ``None`` if it
        is unknown.
    :ivar age: the age of the release in days; ``None`` if the release is unknown or its name has no
        date.
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
    """All values that doctor reads about this host and this process.

    :ivar has_proc: whether /proc is mounted. Without /proc, most other values are unknown.
    :ivar supported: whether the kernel supports user namespaces; ``None`` if that is unknown.
    :ivar initial: whether this process is in the initial user namespace; ``None`` if that is
        unknown.
    :ivar namespaces: the namespaces of this process, each as "TYPE:[INODE]", keyed by the file name
        in /proc/self/ns.
    :ivar threads: the number of threads of this process.
    :ivar parent: the pid of the parent, such as a shell, if the parent's hard limits equal those of
        this process; otherwise 0.
    :ivar sysctls: the value of each sysctl, keyed by its path below /proc/sys; ``None`` if this
        kernel lacks the sysctl.
    :ivar programs: the path of each program that a private network needs, keyed by the program's
        name; ``None`` if it is missing.
    :ivar mounts: the restrictions of each mount point: ``"ro"``, ``"nosuid"``, ``"nodev"``,
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
    programs: Mapping[str, str | None] = field(default_factory=dict)
    runsc: Runsc | None = None

    def masked_proc(self) -> tuple[str, ...]:
        """Return the mount points below /proc that make the kernel deny a mount of a new /proc."""
        # When the kernel checks whether a new /proc may be mounted, it ignores mounts on this
        # empty directory (fs/namespace.c, mnt_already_visible()).
        empty = "/proc/sys/fs/binfmt_misc"
        return tuple(
            point for point in self.mounts if point.startswith("/proc/") and point != empty
        )

    def plain(self) -> dict[str, Any]:
        """Return the facts as JSON values: dictionaries, lists, strings and numbers."""
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
