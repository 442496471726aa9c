"""Functions that read facts about a host from files below a root directory."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import stat
import time
from collections.abc import Mapping

from usernsctl import _core
from usernsctl._lean import dataclass
from usernsctl._system.paths import open_file
from usernsctl.doctor.facts import (
    DEFAULT_PATH,
    Cgroup,
    Container,
    Device,
    Engine,
    Facts,
    Helper,
    Ids,
    Kernel,
    Limits,
    Privileges,
    Runsc,
    SecurityModules,
    Subordinate,
)
from usernsctl.errors import RunscError
from usernsctl.gvisor.launch.network import PROGRAMS
from usernsctl.gvisor.runsc.find import find_runsc
from usernsctl.gvisor.runsc.releases import release_of
from usernsctl.maps import Extent, parse_map


class Tree:
    """The files below a root directory, from which facts are read."""

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")

    @property
    def is_real(self) -> bool:
        """True if facts are read from the host's root directory, not from a recorded tree."""
        return not self._root

    def path(self, path: str) -> str:
        """Return the path on this host of a path in the tree."""
        return f"{self._root}/{path.lstrip('/')}"

    def text(self, path: str) -> str | None:
        """Return the text of a regular file, or None if the file can't be read."""
        try:
            # Set O_NONBLOCK, because opening a FIFO would otherwise wait for a writer.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with open_file(self.path(path), flags) as file:
                is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                return os.fsdecode(file.read()) if is_file else None
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """Return the number in a file, or None if the file can't be read or contains no number."""
        try:
            return int((self.text(path) or "").strip())
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an empty list if the directory can't be read."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def link(self, path: str) -> str | None:
        """Return the target of a symbolic link, or None if the link can't be read."""
        try:
            return os.readlink(self.path(path))
        except OSError:
            return None

    def is_absent(self, path: str) -> bool:
        """Return whether the file is known not to exist."""
        try:
            os.lstat(self.path(path))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def is_no_file(self, path: str) -> bool:
        """Return whether the path exists and is not a regular file."""
        try:
            return not stat.S_ISREG(os.lstat(self.path(path)).st_mode)
        except OSError:
            return False

    def exists(self, path: str) -> bool:
        """Return whether the file exists and is visible to this process."""
        return os.path.exists(self.path(path))

    def real(self, path: str) -> str:
        """Return a path in the tree with all symbolic links resolved."""
        real = os.path.realpath(self.path(path))
        return real.removeprefix(os.path.realpath(self._root or "/").rstrip("/")) or "/"

    def is_roots(self, path: str) -> bool:
        """Return whether only root can replace the file at `path`, which has no symbolic links."""
        while True:
            try:
                found = os.lstat(self.path(path))
            except OSError:
                return False
            if found.st_uid or found.st_mode & 0o022 or stat.S_ISLNK(found.st_mode):
                return False
            if path == "/":
                return True
            path = os.path.dirname(path)

    def which(self, name: str, search: str | None) -> tuple[str | None, bool]:
        """Find the program `name` in the absolute directories of `search`, as the core does.

        :returns: the path of the first executable file with this name; if no file with this name is
            executable, the path of the first file; ``None`` if no such file exists. The second
            value says whether the file is executable.
        """
        directories = (search or DEFAULT_PATH).split(":")
        paths = [f"{one}/{name}" for one in directories if one.startswith("/")]
        files = [path for path in paths if os.path.isfile(self.path(path))]
        for path in files:
            if os.access(self.path(path), os.X_OK):
                return path, True
        return files[0] if files else None, False

    def is_script(self, path: str) -> bool:
        """Return whether a file can be read and is not an ELF program."""
        try:
            with open(self.path(path), "rb") as file:
                return file.read(4) != b"\x7fELF"
        except OSError:
            return False

    def has_attribute(self, path: str, attribute: str) -> bool:
        """Return whether a file has an extended attribute (xattr(7)) whose value is not empty."""
        # Prefer fgetxattr(2), which a seccomp filter must allow for gVisor, to getxattr(2), whose
        # callers a filter may kill.
        file = self.path(path)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            fd = None
        try:
            return bool(os.getxattr(file if fd is None else fd, attribute))
        except OSError:
            return False
        finally:
            if fd is not None:
                os.close(fd)


# The build date that gVisor's /proc/version has contained since 2018. csrc/programs/verify/main.c
# searches for the same text.
_GVISOR_BUILD = "Sun Jan 10 15:06:54 PST 2016"

_KUBERNETES_SECRETS = "var/run/secrets/kubernetes.io"
_DOCKER_SOCKETS = ("run/docker.sock", "var/run/docker.sock")
_UNIFIED = ("sys/fs/cgroup", "sys/fs/cgroup/unified")


def read_container(
    tree: Tree, environ: Mapping[str, str], points: Mapping[str, tuple[str, ...]] | None
) -> Container:
    """Return the facts about the container in which this process runs.

    :param points: the mount points in this mount namespace, or ``None`` if they are unknown.
    """
    engine, sign = _engine(tree, environ)
    return Container(
        engine=engine,
        sign=sign,
        # Each mount namespace has a mount at "/", but a process in a chroot does not see it in
        # mountinfo.
        chroot=None if points is None else "/" not in points,
        docker_daemon=any(tree.exists(path) for path in _DOCKER_SOCKETS),
        userns_remap=_userns_remap(tree),
    )


def _engine(tree: Tree, environ: Mapping[str, str]) -> tuple[Engine | None, str]:
    # Check the most specific engine first: the container of a Pod also shows the signs of
    # containerd or Docker.
    if is_gvisor(tree):
        return "gvisor", "/proc/version is gVisor's"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "kubernetes", "the variable KUBERNETES_SERVICE_HOST is set"
    if tree.exists(_KUBERNETES_SECRETS):
        return "kubernetes", f"/{_KUBERNETES_SECRETS} exists"
    if tree.exists("run/.containerenv"):
        return "podman", "/run/.containerenv exists"
    if tree.exists(".dockerenv"):
        return "docker", "/.dockerenv exists"
    if environ.get("container"):
        return "other", f"the variable container is {environ['container']}"
    return None, ""


def is_gvisor(tree: Tree) -> bool:
    """Return whether the kernel is gVisor's, according to /proc/version."""
    return _GVISOR_BUILD in (tree.text("proc/version") or "")


def _userns_remap(tree: Tree) -> str | None:
    try:
        settings = json.loads(tree.text("etc/docker/daemon.json") or "{}")
    except ValueError:
        return None
    remap = settings.get("userns-remap") if isinstance(settings, dict) else None
    return remap if isinstance(remap, str) and remap else None


def _own_groups(tree: Tree) -> dict[str, str]:
    """Return a dict that maps controllers to this process's control groups; "" is cgroup v2."""
    groups = {}
    for line in (tree.text("proc/self/cgroup") or "").split("\n"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            groups[controllers] = path
    return groups


def read_cgroup(tree: Tree) -> Cgroup:
    """Return the control group of this process in the cgroup v2 hierarchy."""
    path = _own_groups(tree).get("")
    for top in _UNIFIED:
        if path is not None and tree.exists(f"{top}/cgroup.procs"):
            directory = f"/{top}{path}".rstrip("/")
            return Cgroup(
                directory=directory,
                delegated=os.access(tree.path(directory), os.W_OK | os.X_OK)
                and os.access(tree.path(f"{directory}/cgroup.procs"), os.W_OK),
            )
    return Cgroup()


def read_pids(tree: Tree) -> tuple[int | None, int | None]:
    """Return the lowest pids.max that applies to this process, and pids.current of the same cgroup.

    That cgroup is the cgroup of this process or one of its ancestors.
    """
    groups = _own_groups(tree)
    places = [(f"sys/fs/cgroup/{names}", path) for names, path in groups.items() if names == "pids"]
    places += [(top, groups[""]) for top in _UNIFIED if "" in groups]
    found: list[tuple[int, int | None]] = []
    for top, path in places:
        while True:
            directory = f"{top}{path.rstrip('/')}"
            most = tree.number(f"{directory}/pids.max")
            if most is not None:
                found.append((most, tree.number(f"{directory}/pids.current")))
            if path.rstrip("/") == "":
                break
            path = os.path.dirname(path)
    return min(found, key=lambda limit: limit[0], default=(None, None))


SYSCTLS = (
    "user/max_user_namespaces",
    "user/max_mnt_namespaces",
    "user/max_net_namespaces",
    "user/max_pid_namespaces",
    "user/max_ipc_namespaces",
    "user/max_uts_namespaces",
    "user/max_cgroup_namespaces",
    "kernel/unprivileged_userns_clone",
    "kernel/apparmor_restrict_unprivileged_userns",
    "kernel/apparmor_restrict_unprivileged_unconfined",
    "kernel/yama/ptrace_scope",
    "kernel/cap_last_cap",
    "vm/mmap_min_addr",
    "vm/max_map_count",
)

HELPERS = ("newuidmap", "newgidmap")
DEVICES = ("/dev/null", "/dev/net/tun", "/dev/kvm")

# Timeout for each program that is started to read a fact, in seconds.
_PROGRAM_SECONDS = 10.0

# The inode number of the initial user namespace, PROC_USER_INIT_INO (linux/proc_ns.h).
_INITIAL = "user:[4026531837]"

# The mount options that Facts records, as proc_pid_mountinfo(5) names them.
_RESTRICTIONS = ("ro", "nosuid", "nodev", "noexec")


def read_facts(
    root: str = "/",
    environ: Mapping[str, str] | None = None,
    *,
    only_files: bool = False,
    seconds: float = 30.0,
) -> Facts:
    """Read the facts about the host. Starts only runsc, and only if its release is unknown.

    :param root: the directory that contains proc, sys, etc and the other directories to read.
        Values that only system calls return are unknown unless `root` is ``/``.
    :param environ: the environment variables, such as PATH; by default ``os.environ``.
    :param only_files: whether to read only files, for a process that a seccomp filter would kill if
        it made other system calls: no program is started, and neither uname(2) nor fgetxattr(2) is
        called.
    :param seconds: the total timeout for all invocations of runsc, in seconds.
    """
    environ = os.environ if environ is None else environ
    tree = Tree(root)
    may_call = tree.is_real and not only_files
    status = _Status.read(tree)
    mountinfo = tree.text("proc/self/mountinfo")
    points = _mounts(mountinfo or "")
    namespaces = _namespaces(tree)
    ids = _ids(tree, status)
    return Facts(
        has_proc=bool(status.fields),
        supported=not tree.is_absent("proc/self/ns/user") if status.fields else None,
        initial=namespaces["user"] == _INITIAL if "user" in namespaces else None,
        kernel=_kernel(tree, may_call=may_call),
        ids=ids,
        privileges=_privileges(status, live=tree.is_real),
        namespaces=namespaces,
        threads=status.number("Threads", 10) or 1,
        parent=_parent(tree, status),
        limits=_limits(tree, status),
        sysctls={name: tree.number(f"proc/sys/{name}") for name in SYSCTLS},
        security=_security(tree, status),
        mounts=points,
        container=read_container(tree, environ, points if mountinfo is not None else None),
        helpers={name: _helper(tree, name, environ, points, only_files) for name in HELPERS},
        subordinate=_subordinate(tree, status, ids),
        cgroup=read_cgroup(tree),
        devices={path: _device(tree, path) for path in DEVICES},
        programs={name: _program(tree, name) for name in PROGRAMS},
        runsc=_runsc(tree, environ, points, time.monotonic() + seconds) if may_call else None,
    )


@dataclass(frozen=True, slots=True)
class _Status:
    """The fields of /proc/self/status (proc_pid_status(5)), keyed by name."""

    fields: Mapping[str, str]

    @classmethod
    def read(cls, tree: Tree) -> _Status:
        pairs = (line.partition(":") for line in (tree.text("proc/self/status") or "").split("\n"))
        return cls({name: value.strip() for name, colon, value in pairs if colon})

    def number(self, name: str, base: int, column: int = 0) -> int | None:
        columns = self.fields.get(name, "").split()
        return int(columns[column], base) if len(columns) > column else None


def _mounts(mountinfo: str) -> dict[str, tuple[str, ...]]:
    return {
        point: tuple(name for name in _RESTRICTIONS if name in options)
        for point, options in mount_options(mountinfo).items()
    }


def mount_options(mountinfo: str) -> dict[str, list[str]]:
    """Return the options of each mount point; for stacked mounts, of the topmost mount.

    :param mountinfo: the content of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
    """
    found = {}
    for line in mountinfo.split("\n")[:-1]:
        fields = line.partition(" - ")[0].split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        found[point] = fields[5].split(",")
    return found


def _namespaces(tree: Tree) -> dict[str, str]:
    found = {}
    for name in tree.names("proc/self/ns"):
        identity = tree.link(f"proc/self/ns/{name}")
        if identity is not None:
            found[name] = identity
    return found


def _kernel(tree: Tree, *, may_call: bool) -> Kernel:
    words = (tree.text("proc/version") or "").split()
    return Kernel(
        release=words[2] if words[:2] == ["Linux", "version"] and len(words) > 2 else None,
        gvisor=is_gvisor(tree),
        machine=os.uname().machine if may_call else None,
    )


def _ids(tree: Tree, status: _Status) -> Ids:
    uid, gid = status.number("Uid", 10, 1), status.number("Gid", 10, 1)
    return Ids(
        uid=os.geteuid() if uid is None else uid,
        gid=os.getegid() if gid is None else gid,
        groups=tuple(int(word) for word in status.fields.get("Groups", "").split()),
        uid_map=_map(tree.text("proc/self/uid_map")),
        gid_map=_map(tree.text("proc/self/gid_map")),
    )


def _map(text: str | None) -> tuple[Extent, ...] | None:
    return None if text is None else parse_map(text)


def _privileges(status: _Status, *, live: bool) -> Privileges:
    no_new_privs = status.number("NoNewPrivs", 10)
    securebits, dumpable = _called() if live else (None, None)
    return Privileges(
        inheritable=status.number("CapInh", 16),
        permitted=status.number("CapPrm", 16),
        effective=status.number("CapEff", 16),
        bounding=status.number("CapBnd", 16),
        ambient=status.number("CapAmb", 16),
        securebits=securebits,
        no_new_privs=None if no_new_privs is None else no_new_privs == 1,
        seccomp=status.number("Seccomp", 10),
        seccomp_filters=status.number("Seccomp_filters", 10),
        dumpable=dumpable,
        denies_write_execute=_core.denies_write_execute() if live else None,
    )


def _called() -> tuple[tuple[str, ...] | None, bool | None]:
    """Return the names of the securebits that are set, and whether this process is dumpable."""
    from usernsctl.hardening import SECUREBITS

    bits = _core.securebits()
    names = None if bits is None else sorted(n for n, bit in SECUREBITS.items() if bits & 1 << bit)
    return None if names is None else tuple(names), _core.is_dumpable()


# The name of each limit in /proc/self/limits, keyed by the field of Limits.
_LIMITS = {
    "processes": "Max processes",
    "address_space": "Max address space",
    "data": "Max data size",
    "file_size": "Max file size",
    "open_files": "Max open files",
    "pending_signals": "Max pending signals",
}


def _parent(tree: Tree, status: _Status) -> int:
    """Return the pid of the parent if its hard limits equal those of this process, otherwise 0.

    If the limits differ, the parent, for example systemd, may have lowered the limits of this
    process only. A remedy that sets limits of the parent could then lower them.
    """
    parent = status.number("PPid", 10) or 0
    return parent if _limits_of(tree, f"{parent}")[1] == _limits_of(tree, "self")[1] else 0


def _limits(tree: Tree, status: _Status) -> Limits:
    soft, hard = _limits_of(tree, "self")
    queued = status.fields.get("SigQ", "").partition("/")[0]
    pids, current = read_pids(tree)
    return Limits(
        **soft,
        hard=hard,
        pids=pids,
        pids_current=current,
        pending_signals_current=int(queued) if queued.isdecimal() else None,
    )


def _limits_of(tree: Tree, process: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the soft and the hard limits of a process, each keyed by the fields of Limits."""
    soft: dict[str, int] = {}
    hard: dict[str, int] = {}
    for line in (tree.text(f"proc/{process}/limits") or "").split("\n"):
        for field, name in _LIMITS.items():
            words = line.removeprefix(name).split()
            if line.startswith(name) and words and words[0].isdecimal():
                soft[field] = int(words[0])
                if words[1:] and words[1].isdecimal():
                    hard[field] = int(words[1])
    return soft, hard


def _security(tree: Tree, status: _Status) -> SecurityModules:
    names = tree.text("sys/kernel/security/lsm")
    label = tree.text("proc/self/attr/apparmor/current") or tree.text("proc/self/attr/current")
    enforcing = tree.number("sys/fs/selinux/enforce")
    return SecurityModules(
        names=None if names is None else tuple(names.strip().split(",")),
        label=label.strip("\0\n ") or None if label else None,
        selinux_enforcing=None if enforcing is None else enforcing == 1,
        # Query Landlock only if no seccomp filter is active, because a filter may kill the caller.
        landlock=_core.landlock_version()
        if tree.is_real and status.number("Seccomp", 10) == 0
        else None,
    )


def _program(tree: Tree, name: str) -> str | None:
    paths = (f"{directory}/{name}" for directory in PROGRAMS[name])
    return next((path for path in paths if tree.exists(path)), None)


def _helper(
    tree: Tree,
    name: str,
    environ: Mapping[str, str],
    points: Mapping[str, tuple[str, ...]],
    only_files: bool,
) -> Helper:
    path, executable = tree.which(name, environ.get("PATH"))
    if path is None:
        return Helper()
    found = os.stat(tree.path(path))
    # If fgetxattr(2) must not be called (`only_files`), treat the helper as privileged, so that no
    # rule reports missing privileges.
    file_capabilities = not only_files and tree.has_attribute(path, "security.capability")
    real = tree.real(path)
    point = _mount_point(real, points)
    # Trust only files in the directories of DEFAULT_PATH: elsewhere, a file that belongs to root
    # may be on a filesystem that another user has written, such as a USB stick.
    is_systems = os.path.dirname(real) in map(tree.real, DEFAULT_PATH.split(":"))
    return Helper(
        path=path,
        mode=found.st_mode & 0o7777,
        owner=found.st_uid,
        executable=executable,
        file_capabilities=file_capabilities,
        privileged=bool(found.st_mode & 0o4000 and found.st_uid == 0)
        or file_capabilities
        or only_files,
        script=tree.is_script(path),
        nosuid=point if "nosuid" in points.get(point, ()) else None,
        system=real if is_systems and tree.is_roots(real) else None,
    )


def _mount_point(path: str, points: Mapping[str, tuple[str, ...]]) -> str:
    while path != "/" and path not in points:
        path = os.path.dirname(path)
    return path


_RANGES = ("etc/subuid", "etc/subgid")


def _subordinate(tree: Tree, status: _Status, ids: Ids) -> Subordinate:
    source = None
    for line in (tree.text("etc/nsswitch.conf") or "").split("\n"):
        name, _, value = line.partition(":")
        if name.strip() == "subid":
            source = value.split("#")[0].strip()
    uid, gid = status.number("Uid", 10, 1), status.number("Gid", 10, 1)
    lines = (tree.text("etc/subgid") or "").split("\n")
    entries = () if uid == gid else tuple(ln for ln in lines if ln.startswith(f"{gid}:"))
    free, count = _free(tree, ids) or (None, _core.GRANT_COUNT)
    return Subordinate(
        source=None if source == "files" else source,
        user=_user(tree, uid),
        free=free,
        free_count=count,
        gid_entries=entries,
        unreadable=tuple(
            f"/{path}"
            for path in ("etc/passwd", *_RANGES)
            if tree.text(path) is None and not tree.is_absent(path)
        ),
        no_files=tuple(f"/{path}" for path in _RANGES if tree.is_no_file(path)),
    )


def _user(tree: Tree, uid: int | None) -> str | None:
    """Return the name of a user in /etc/passwd; csrc/facts/user.c skips the same lines."""
    for line in (tree.text("etc/passwd") or "").split("\n"):
        words = line.lstrip(" \t").split(":")
        is_entry = not words[0].startswith(("#", "+", "-"))
        if is_entry and len(words) > 2 and words[2] == str(uid):
            return words[0]
    return None


def _free(tree: Tree, ids: Ids) -> tuple[int, int] | None:
    whole = (Extent(0, 0, 2**32 - 1),)
    return _core.free_ids(tree.path("etc"), ids.uid_map or whole, ids.gid_map or whole)


def _device(tree: Tree, path: str) -> Device:
    try:
        found = os.stat(tree.path(path))
    except OSError:
        return Device(path=path)
    accessible = os.access(tree.path(path), os.R_OK | os.W_OK)
    return Device(path=path, mode=found.st_mode & 0o7777, accessible=accessible)


def _share(deadline: float) -> float:
    """Return the timeout for the next program: at most half of the remaining time."""
    return min(_PROGRAM_SECONDS, max(0.0, deadline - time.monotonic()) / 2)


def _runsc(
    tree: Tree,
    environ: Mapping[str, str],
    points: Mapping[str, tuple[str, ...]],
    deadline: float,
) -> Runsc:
    try:
        path = find_runsc(environ, seconds=_share(deadline))
    except RunscError as error:
        refused = error.filename if isinstance(error.filename, str) else None
        point = _mount_point(os.path.realpath(refused), points) if refused else ""
        return Runsc(
            cause=error.cause,
            problem=error.reason,
            refused=refused,
            system=_systems_runsc(tree, refused),
            noexec=point if "noexec" in points.get(point, ()) else None,
            other=_other_runsc(tree, refused, deadline),
        )
    # If runsc can't be started, leave the release unknown. The probe "runsc" reports the failure.
    release = None
    with contextlib.suppress(RunscError):
        release = release_of(path, remember=False, seconds=_share(deadline))
    today = datetime.datetime.now(datetime.UTC).date()
    return Runsc(
        path=path,
        release=release.label if release else None,
        age=release.age(today) if release else None,
        system=_systems_runsc(tree, path),
        other=_other_runsc(tree, path, deadline),
    )


def _other_runsc(tree: Tree, path: str | None, deadline: float) -> str | None:
    """Return the path of a working runsc other than `path` that only root can replace, or None."""
    for directory in DEFAULT_PATH.split(":"):
        other = f"{directory}/runsc"
        real = _systems_runsc(tree, other)
        if real is None or not os.access(other, os.X_OK) or (path and tree.real(path) == real):
            continue
        with contextlib.suppress(RunscError):
            if release_of(other, remember=False, seconds=_share(deadline)) is not None:
                return other
    return None


def _systems_runsc(tree: Tree, path: str | None) -> str | None:
    """Return the real path of `path`; None unless its name is runsc and only root can replace it.

    Remedies make only such a file executable for all users, because an environment variable can
    name any file as runsc, even a secret one.
    """
    real = tree.real(os.path.abspath(path)) if path else ""
    return real if os.path.basename(real) == "runsc" and tree.is_roots(real) else None
