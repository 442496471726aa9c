"""Functions that call the C core. They take and return Python types, no cffi objects."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from usernsctl._core.values import (
    NAMESPACES,
    Command,
    CommandFault,
    Descriptor,
    ExtentTuple,
    IdRequest,
    Memory,
    PlanDescription,
    Reached,
    Setup,
    Spawn,
    cause,
    check,
    error_of,
    program_path,
    raise_error,
    reason_of,
    text_of,
)
from usernsctl._lean import Any, NoReturn, Self
from usernsctl._native import ffi, lib
from usernsctl.errors import MapError, NamespaceError, UsernsError

#: The number of subordinate ids that useradd(8) grants to a user.
GRANT_COUNT: int = lib.UN_GRANT_COUNT

_SETGROUPS = {
    "auto": lib.UN_SETGROUPS_AUTO,
    "allow": lib.UN_SETGROUPS_ALLOW,
    "deny": lib.UN_SETGROUPS_DENY,
}
_FILLS = {
    "none": lib.UN_FILL_NONE,
    "auto": lib.UN_FILL_PACKED,
    "subids": lib.UN_FILL_IDENTITY,
    "all": lib.UN_FILL_ALL,
}
_SETGROUPS_NAME = {number: name for name, number in _SETGROUPS.items()}


def oom_kills(*, of_machine: bool = False) -> int:
    """Return how many processes the kernel has killed because memory ran out (OOM kills).

    :param of_machine: whether to count the OOM kills on the whole host, instead of those in this
        process's control group.
    """
    return int(lib.un_machine_oom_kills() if of_machine else lib.un_oom_kills())


def check_filter(*, of_doctor: bool = False) -> None:
    """Raise an error if a seccomp filter denies a system call that starting a sandbox requires.

    :param of_doctor: whether to check the system calls of `usernsctl doctor` instead of those that
        start a sandbox. For doctor's calls, only a filter that kills the caller is an error, not a
        filter that returns an errno.
    :raises NamespaceError: a filter denies one of the system calls, or kills processes that make
        it; or there is a filter, but no child can be created to try the calls.
    """
    err = ffi.new("struct un_error *")
    check_calls = lib.un_filter_check_doctor if of_doctor else lib.un_filter_check_launch
    check(check_calls(err), err)


def seen_limits() -> tuple[int, int]:
    """Return the memory size in bytes, and the number of CPUs, that a sandboxed program sees."""
    limits = ffi.new("struct un_group_limits *")
    lib.un_seen_limits(limits)
    return limits.memory, limits.processors


def read_usage(parent: int) -> tuple[int, int, float]:
    """Return a sandbox's memory use in bytes, number of tasks, and CPU time in seconds.

    :param parent: the pid of the process whose children are the sandbox's main processes.
    :raises OSError: the sandbox has ended (ESRCH), or its processes can't be read.
    """
    usage = ffi.new("struct un_sandbox_usage *")
    if lib.un_sandbox_usage(parent, usage) != 0:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return usage.memory, usage.tasks, usage.time / 1e6


def group_versions() -> tuple[int, int, int]:
    """Return the cgroup versions in which this process may create groups that limit resources.

    :returns: the version (1 or 2) for memory, for processes and for CPU time; 0 for a resource that
        this process can't limit.
    """
    versions = ffi.new("int[]", lib.UN_GROUP_PARTS)
    lib.un_group_versions(versions)
    memory, pids, cpu = versions
    return memory, pids, cpu


def prepare_groups(parts: int) -> None:
    """Prepare the control group of this process for child groups of sandboxes.

    :param parts: a bit mask of the resources to limit: ``1 << UN_GROUP_...`` (enum un_group_part).
    """
    lib.un_groups_prepare(parts)


def sweep_groups(parts: int) -> None:
    """Remove the control groups that killed watchers of sandboxes have left behind.

    :param parts: as for :func:`prepare_groups`.
    """
    lib.un_groups_sweep(parts)


def parse_extent(text: str) -> ExtentTuple:
    """Parse an extent of an id map, ``inside:outside:count``.

    :raises MapError: `text` is malformed.
    """
    extent, err = ffi.new("struct un_extent *"), ffi.new("struct un_error *")
    # Escape NUL and non-ASCII characters: a C string would end at the first NUL, but the error must
    # quote the whole text.
    native = text.encode("ascii", "backslashreplace").replace(b"\0", b"\\x00")
    check(lib.un_extent_parse(native, extent, err), err)
    return extent.inside, extent.outside, extent.count


def _fill_map(native: Any, extents: Iterable[Iterable[int]], err: Any) -> None:
    native.len = 0
    for inside, outside, count in extents:
        try:
            extent = ffi.new("struct un_extent *", (inside, outside, count))
        except (OverflowError, TypeError) as error:
            raise MapError(
                f"extent {inside}:{outside}:{count}: each number must be from 0 to 4294967295",
                step="argument",
                cause="map-invalid",
            ) from error
        check(lib.un_map_add(ffi.addressof(native), extent[0], err), err)


def _extents(native: Any) -> tuple[ExtentTuple, ...]:
    return tuple((e.inside, e.outside, e.count) for e in native.extent[0 : native.len])


def _fill_request(native: Any, request: IdRequest, err: Any) -> None:
    if request.own is not None:
        if not isinstance(request.own, int):
            raise TypeError(f"map_user and map_group must be numbers, not {request.own!r}")
        if not 0 <= request.own < 2**32 - 1:
            reason = f"{request.own} is not an id: an id is a number from 0 to 4294967294"
            raise MapError(reason, step="argument", cause="map-invalid")
        native.map_self, native.self = True, request.own
    native.fill = _FILLS[request.fill]
    _fill_map(native.more, request.more, err)


def _ranges(native: Any) -> tuple[tuple[int, int], ...]:
    return tuple((r.start, r.count) for r in native.range[0 : native.len])


def plan(uid: IdRequest, gid: IdRequest, *, setgroups: str, allow_single_id: bool) -> NativePlan:
    """Return a plan: the id maps of a new user namespace, and the process that writes each map.

    :param setgroups: ``"auto"``, ``"allow"`` or ``"deny"``.
    :param allow_single_id: whether to map only the caller's own id if the other ids can't be
        mapped.
    :raises MapError: an extent is malformed, or the kernel would reject the map.
    :raises PlanError: the caller is not permitted to use the map.
    """
    request, facts = ffi.new("struct un_request *"), ffi.new("struct un_facts *")
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    sources, memory = ffi.new("struct un_sources *"), Memory()
    request.setgroups = _SETGROUPS[setgroups]
    request.allow_single_id = allow_single_id
    _fill_request(request.id[lib.UN_UID], uid, err)
    _fill_request(request.id[lib.UN_GID], gid, err)
    sources.path = memory.string(os.environb.get(b"PATH"))
    check(lib.un_plan_for_caller(request, sources, facts, result, err), err)
    return NativePlan(result, facts.notices, facts)


def free_ids(
    etc: str, uid_map: Iterable[Iterable[int]], gid_map: Iterable[Iterable[int]]
) -> tuple[int, int] | None:
    """Find a range of ids that are granted to no user, and that this user namespace maps.

    As useradd(8) does, the function chooses 65,536 ids above all granted ids, from 100000 on. If
    this user namespace does not map these ids, the function chooses lower ids, above those of the
    ordinary users and groups. The range may then be smaller.

    :param etc: the directory that contains subuid, subgid, passwd and group.
    :param uid_map: the uid map of this user namespace.
    :param gid_map: the gid map of this user namespace.
    :returns: the first id and the count, for uids and gids alike; ``None`` if no ids are free, or
        subuid or subgid can't be read.
    """
    memory, err = Memory(), ffi.new("struct un_error *")
    files, found = ffi.new("struct un_grant_files *"), ffi.new("struct un_range *")
    files.subid = [memory.string(f"{etc}/{name}") for name in ("subuid", "subgid")]
    files.users = [memory.string(f"{etc}/{name}") for name in ("passwd", "group")]
    maps = [memory.keep(ffi.new("struct un_map *")) for _ in range(2)]
    for native, extents in zip(maps, (uid_map, gid_map), strict=True):
        _fill_map(native[0], extents, err)
    parents = ffi.new("const struct un_map *[2]", maps)
    return (found.start, found.count) if lib.un_free_ids(files, parents, found) else None


def find_account(
    user: int | str, group: int | str | None, passwd: bytes | None, groups: bytes | None
) -> tuple[int, int, tuple[int, ...], str | None]:
    """Find a user and a group in the content of /etc/passwd and /etc/group of a sandbox.

    :param user: the uid, or the name.
    :param group: the gid, or the name; ``None`` for the group of the user.
    :param passwd: the content of /etc/passwd; ``None`` if the file does not exist.
    :param groups: the content of /etc/group; ``None`` if the file does not exist.
    :returns: the uid, the gid, the supplementary groups, and the home directory (``None`` if the
        user has no valid home directory).
    :raises UserUnknownError: a name does not exist, or the user has too many groups.
    """
    memory, err = Memory(), ffi.new("struct un_error *")
    account = ffi.new("struct un_account *")
    files = []
    for content in (passwd, groups):
        file = memory.keep(ffi.new("struct un_account_file *"))
        if content is not None:
            file.bytes, file.length = memory.keep(ffi.from_buffer(content)), len(content)
        files.append(file)
    name, group_name = (
        ffi.NULL if one is None else memory.string(str(one)) for one in (user, group)
    )
    check(lib.un_account_find(name, group_name, *files, account, err), err)
    found = tuple(account.groups[0 : account.group_count])
    return account.id[0], account.id[1], found, text_of(account.home) or None


def setup_to_join(directory: int) -> Setup:
    """Return the Setup for a command that joins an existing user namespace: its ids and groups.

    :param directory: a descriptor of ``/proc/PID`` of a process in the user namespace.
    :raises UsernsError: /proc/PID/uid_map, gid_map or setgroups can't be read or parsed.
    """
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    check(lib.un_plan_to_join(directory, result, err), err)
    return NativePlan(result, None, None).setup()


class NativePlan:
    """Owner of a struct un_plan; :meth:`describe` converts the struct to Python objects."""

    def __init__(self, result: Any, notices: Any, owner: Any) -> None:
        self.cdata = result
        self._notices = notices
        self._owner = owner  # This reference keeps the memory of `notices` allocated.

    def setup(self) -> Setup:
        """Return the Setup that switches a process to its ids in the new user namespace."""
        uid, gid = (None if inside < 0 else inside for inside in self.cdata.become)
        return Setup(uid=uid, gid=gid, groups=() if self.cdata.drop_groups else None)

    @property
    def single_id_reason(self) -> str | None:
        """The reason why only one id is mapped although more ids were requested, or ``None``."""
        return reason_of(ffi.addressof(self.cdata.wanted)) if self.cdata.single_id else None

    def describe(self) -> PlanDescription:
        plan, notices = self.cdata, self._notices
        return PlanDescription(
            uid=_extents(plan.map.of[lib.UN_UID]),
            gid=_extents(plan.map.of[lib.UN_GID]),
            uid_writer=text_of(lib.un_writer_name(plan.writer[lib.UN_UID])),
            gid_writer=text_of(lib.un_writer_name(plan.writer[lib.UN_GID])),
            uid_reason=text_of(plan.reason[lib.UN_UID]),
            gid_reason=text_of(plan.reason[lib.UN_GID]),
            setgroups=_SETGROUPS_NAME[plan.setgroups],
            become=(plan.become[lib.UN_UID], plan.become[lib.UN_GID]),
            drop_groups=plan.drop_groups,
            clipped_uid=_ranges(plan.clipped[lib.UN_UID]),
            clipped_gid=_ranges(plan.clipped[lib.UN_GID]),
            notices=tuple(text_of(notices.text[i]) for i in range(notices.len)),
            single_id_reason=self.single_id_reason,
        )


def _raise_errno() -> Any:
    number = ffi.errno
    raise OSError(number, os.strerror(number))


def refuse_to_show(files: Mapping[str, int], directory: str) -> None:
    """Reject bind mounts of a private directory, of files in it, and of directories above it.

    :param files: the descriptor of each file, keyed by the path that the caller gave.
    :param directory: the path of the private directory; the directory may be missing.
    :raises BindError: a bind mount is rejected (cause ``bind-shows-state``), or a file can't be
        checked.
    """
    memory, names = Memory(), list(files)
    which, err = ffi.new("size_t *"), ffi.new("struct un_error *")
    fds = memory.numbers("int[]", list(files.values()))
    listed = memory.strings(map(os.fsencode, names))
    if lib.un_refuse_to_show(fds, listed, len(names), os.fsencode(directory), which, err):
        raise error_of(err, filename=names[which[0]] if which[0] < len(names) else directory)


def machine_part(descriptor: int) -> str | None:
    """Find the kernel filesystem that a bind mount of an open file would expose.

    A bind mount exposes a kernel filesystem if the file is /proc, /sys or /dev, is inside one of
    these directories, or contains a mount point of a kernel filesystem, such as cgroup2.

    :param descriptor: a descriptor of the file; O_PATH suffices.
    :returns: the path or the type of the filesystem, such as ``"/proc"``; ``None`` if no kernel
        filesystem would be exposed.
    :raises OSError: the mounts in /proc can't be read.
    """
    part = ffi.new("char const **")
    if lib.un_machine_part(descriptor, part):
        _raise_errno()
    return text_of(part[0]) if part[0] else None


def is_trusted(uid: int, path: str) -> bool:
    """Return whether the owner of a file is trusted: the caller, root, or the owner of ``/``.

    In a user namespace that does not map root, files of root and of all other unmapped users seem
    to belong to the overflow uid (user_namespaces(7)). Such a file is trusted if only root can have
    created it.

    :param uid: the uid of the owner.
    :param path: the path of the file. Only the last component may be a symbolic link.
    """
    return bool(lib.un_owner_is_trusted(uid, os.fsencode(path)))


def others_may_write(directory: int) -> bool:
    """Return whether a user other than the caller and root may write to a directory.

    The function checks the mode and the access control list (acl(5)). It ignores the write
    permission of two groups: root's group, and the caller's user private group (a group that has no
    members, and whose gid is the caller's uid).

    :param directory: a descriptor of the directory; O_PATH suffices.
    """
    return bool(lib.un_others_may_write(directory))


def content_sum(descriptor: int) -> str:
    """Return the checksum by which a launch file identifies a program, to detect its replacement.

    :param descriptor: a descriptor of the file; O_PATH suffices.
    :raises OSError: the file can't be read.
    """
    text = ffi.new("char[]", lib.UN_CONTENT_SUM_ROOM)
    if lib.un_content_sum(descriptor, text):
        _raise_errno()
    return text_of(text)


def append_at_end(descriptor: int) -> None:
    """Set O_APPEND on a descriptor whose offset is at the end of a regular file.

    gVisor ignores the descriptor's offset, and begins to write at offset 0. Without O_APPEND, the
    file would therefore be overwritten. If standard output and standard error are the same file,
    each would overwrite the output of the other.

    :raises OSError: the descriptor is not open.
    """
    if lib.un_append_at_end(descriptor):
        _raise_errno()


def denies_write_execute() -> bool | None:
    """Return whether the kernel denies this process memory that is writable and executable.

    :returns: whether the kernel denies such memory; ``None`` if the kernel is older than Linux 6.3,
        and so lacks PR_GET_MDWE(2const).
    """
    answer = lib.un_denies_write_execute()
    return None if answer < 0 else bool(answer)


def securebits() -> int | None:
    """Return the securebits of this thread (capabilities(7)), or ``None`` if they can't be read."""
    bits = int(lib.un_securebits())
    return None if bits < 0 else bits


def capability_count() -> int | None:
    """Return the number of capabilities that this kernel has (capabilities(7)).

    :returns: the number, or ``None`` if a seccomp filter denies the query.
    """
    count = int(lib.un_capability_count())
    return None if count < 0 else count


def is_dumpable() -> bool | None:
    """Return whether this process is dumpable (PR_GET_DUMPABLE(2const)); ``None`` if unknown.

    Other processes of the user may trace a dumpable process.
    """
    answer = lib.un_dumpable()
    return None if answer < 0 else answer == 1


def landlock_version() -> int:
    """Return the ABI version of Landlock (landlock_create_ruleset(2)); 0 if it is unavailable.

    No system call reveals whether Landlock confines a process.
    """
    return int(lib.un_landlock_version())


# The program that a child executes before it enters namespaces. Without this execve(2), processes
# in the namespaces could read a copy of this process's memory in the child.
_CHILD = os.fsencode(program_path("usernsctl-child"))
# The longest timeout, in seconds, that fits a C int in milliseconds. A longer timeout counts as no
# timeout.
_SECONDS_MAX = (2**31 - 1) // 1000
_NS_FLAG = {name: lib.un_ns_flag(index) for index, name in enumerate(NAMESPACES, lib.UN_NS_MOUNT)}


def _flags(namespaces: Iterable[str]) -> int:
    flags = 0
    for name in namespaces:
        flags |= _NS_FLAG[name]
    return flags


def _fill_setup(native: Any, setup: Setup, memory: Memory) -> None:
    native.own_stdio = setup.own_stdio
    native.propagation = setup.propagation
    native.mount_proc = memory.string(setup.mount_proc)
    native.root = memory.string(setup.root)
    native.cwd = memory.string(setup.cwd)
    native.drop_bounding = setup.drop_bounding
    native.no_new_privs = setup.no_new_privs
    native.no_membarrier = setup.no_membarrier
    if setup.groups is not None:
        native.groups = memory.numbers("gid_t[]", setup.groups)
        native.group_count = len(setup.groups)
    native.gid = -1 if setup.gid is None else setup.gid
    native.uid = -1 if setup.uid is None else setup.uid
    native.keep_caps = setup.keep_caps
    native.pdeathsig = setup.pdeathsig


def _environment(env: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for name, value in env.items():
        if b"=" in name:
            raise ValueError("illegal environment variable name")
        yield name + b"=" + value


def _fill_command(native: Any, command: Command, memory: Memory) -> None:
    native.file = memory.string(command.file)
    native.path = memory.string(command.env.get(b"PATH"))
    native.argv = memory.strings(command.argv)
    native.envp = memory.strings(_environment(command.env))


def _joined(fds: Sequence[int] | None, memory: Memory) -> Any:
    if fds is None:
        return ffi.NULL
    return memory.keep(ffi.new("struct un_namespace *", {"fd": fds}))


def spawn(request: Spawn) -> tuple[int, int]:
    """Start a command in a child.

    :returns: the pid and a pidfd of the child; the caller closes the pidfd.
    :raises NamespaceError: the namespaces could not be created or joined.
    :raises CommandError: the command could not be started in the namespaces.
    :raises ValueError: an argument contains a NUL character, or a variable's name is malformed.
    """
    native, err, memory = ffi.new("struct un_spawn *"), ffi.new("struct un_error *"), Memory()
    pid, pidfd = ffi.new("pid_t *"), ffi.new("int *", -1)
    lib.un_spawn_init(native)
    _fill_setup(native.setup, request.setup, memory)
    _fill_command(native.command, request.command, memory)
    native.child = memory.string(_CHILD)
    native.plan = _planned(request.plan)
    native.join = _joined(request.join, memory)
    native.flags = _flags(request.namespaces)
    native.has_init = request.has_init
    native.cgroup = request.cgroup
    native.stdio = request.stdio
    native.close_fds = bool(request.close_fds)
    keep = sorted(set(request.keep))
    native.keep, native.keep_count = memory.numbers("int[]", keep), len(keep)
    native.restore_signals = bool(request.restore_signals)
    native.new_session = bool(request.new_session)
    native.process_group = request.process_group
    native.umask = request.umask
    native.start_timeout_ms = _milliseconds(request.start_timeout)
    try:
        check(lib.un_spawn(native, pid, pidfd, err), err)
        request.pidfd = pidfd[0]
        return pid[0], pidfd[0]
    except BaseException:
        # A signal handler may have raised the exception after un_spawn() succeeded. Kill the child
        # in this case, because the caller will not receive the child's pid.
        request.pidfd = -1
        if pidfd[0] >= 0:
            try:
                end_child(pidfd[0])
            finally:
                os.close(pidfd[0])
        raise


def _milliseconds(seconds: float | None) -> int:
    """Convert a timeout from seconds to milliseconds; -1 stands for no timeout."""
    if seconds is None or seconds > _SECONDS_MAX:
        return -1
    return math.ceil(max(seconds, 0) * 1000)


def end_child(pidfd: int) -> None:
    """Kill a child of this process, and reap it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def lost_returncode(pidfd: int) -> int | None:
    """Return the returncode of a child that was already reaped (PIDFD_GET_INFO, Linux 6.15).

    :returns: the returncode as :class:`subprocess.Popen` defines it; ``None`` on an older kernel.
    """
    status = lib.un_lost_status(pidfd)
    return None if status < 0 else os.waitstatus_to_exitcode(status)


def _planned(plan: object | None) -> Any:
    return plan.cdata if isinstance(plan, NativePlan) else ffi.NULL


def enter(plan: NativePlan | None, namespaces: Iterable[str]) -> None:
    """Move this single-threaded process into new namespaces.

    :param plan: the plan of a new user namespace, or ``None``. With a plan, this process becomes
        undumpable, so that processes in the user namespace can't trace this process.
    :raises NamespaceError: the namespaces could not be created.
    """
    err = ffi.new("struct un_error *")
    check(lib.un_enter(_planned(plan), _flags(namespaces), _CHILD, True, err), err)


class NamespaceFds:
    """Owner of namespace descriptors, which are closed when this object is freed.

    Create the object before a C function opens the descriptors. Otherwise, an exception that a
    signal handler raises right after the C function returns would leak the descriptors.
    """

    def __init__(self) -> None:
        """Create an owner without descriptors."""
        unopened = {"fd": [-1] * lib.UN_NS_COUNT}
        self.cdata = ffi.gc(ffi.new("struct un_namespace *", unopened), lib.un_namespace_close)

    def take(self, index: int, make: Callable[..., int], *arguments: Any) -> None:
        """Call a C function, and take ownership of the descriptor that the function returns.

        map() calls `make` and stores the descriptor in C code, so that Python runs no signal
        handler between the two steps.

        :param index: the index of the kind of the namespace in :data:`ALL_NAMESPACES`.
        :param make: the C function.
        """
        deque(map(self.cdata.fd.__setitem__, (index,), map(make, *zip(arguments))), 0)

    def numbers(self) -> list[int]:
        """Return the descriptors, in the order of :data:`ALL_NAMESPACES`; -1 for an absent one."""
        return list(self.cdata.fd)

    def close(self) -> None:
        """Close the descriptors. A second call does nothing, even in another thread."""
        ffi.release(self.cdata)


def create_namespaces(plan: NativePlan, namespaces: Iterable[str]) -> NamespaceFds:
    """Create namespaces without a process inside; return the owner of their descriptors.

    :raises NamespaceError: the namespaces could not be created.
    """
    fds, err = NamespaceFds(), ffi.new("struct un_error *")
    check(lib.un_namespace_create(plan.cdata, _flags(namespaces), _CHILD, fds.cdata, err), err)
    return fds


def join(fds: Sequence[int]) -> None:
    """Move this single-threaded process into existing namespaces.

    This process becomes undumpable, so that processes in the namespaces can't trace this process.

    :raises NamespaceError: the namespaces could not be joined.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    check(lib.un_namespace_join(_joined(fds, memory), err), err)


def close_descriptors(keep: Iterable[int]) -> None:
    """Close all descriptors from 3 on except those in `keep`, which become inheritable.

    :raises CommandError: one of `keep` is not open.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    fds = sorted(set(keep))
    check(lib.un_close_fds(memory.numbers("int[]", fds), len(fds), err), err)


def check_single_thread() -> None:
    """Check that this process has only one thread, as setns(2) requires for a user namespace.

    :raises NamespaceError: the process has several threads (cause ``"multithreaded"``).
    """
    threads = lib.un_thread_count()
    if threads > 1:
        known = cause("multithreaded")
        raise NamespaceError(
            f"this process has {threads} threads",
            step="setns",
            errno=errno.EINVAL,
            cause="multithreaded",
            remedy=known.remedy if known else None,
        )


def apply_setup(setup: Setup) -> None:
    """Apply a command's settings to this process, after it has entered the namespaces.

    :raises NamespaceError: a system call failed.
    """
    native, err, memory = ffi.new("struct un_setup *"), ffi.new("struct un_error *"), Memory()
    lib.un_setup_init(native)
    _fill_setup(native, setup, memory)
    check(lib.un_setup_apply(native, err), err)


def exec_command(command: Command) -> NoReturn:
    """Execute a command in place of this program.

    :raises CommandError: the command could not be started.
    """
    native, err, memory = ffi.new("struct un_command *"), ffi.new("struct un_error *"), Memory()
    _fill_command(native, command, memory)
    lib.un_exec(native, err)
    raise_error(err)


def supervise_child(child: int) -> int:
    """Wait for a child, and forward this process's signals to the child; see un_supervise_child().

    :param child: the pid of the child.
    :returns: the wait status of the child, as :func:`os.waitpid` returns it.
    """
    return int(lib.un_supervise_child(child))


def stdio_is_terminal() -> bool:
    """Return whether standard input, output and error are the same terminal."""
    return bool(lib.un_stdio_is_terminal())


def open_missing_stdio() -> None:
    """Open /dev/null as each of the descriptors 0 to 2 that is closed; see un_open_missing_stdio().

    :raises UsernsError: /dev/null is missing, or is not the null device.
    """
    err = ffi.new("struct un_error *")
    check(lib.un_open_missing_stdio(err), err)


def reraise(number: int) -> None:
    """Kill this process with the signal that killed a child; see un_reraise().

    Return only if the signal does not kill this process, as in PID 1 (pid_namespaces(7)).

    :param number: the number of the signal.
    """
    lib.un_reraise(number)


def be_init(child: int, report: int) -> NoReturn:
    """Act as PID 1 of a PID namespace until the command exits; see un_be_init().

    The caller must block all signals before it starts the command.

    :param child: the pid of the command.
    :param report: the write end of a pipe, to which this function writes a wait status whenever the
        command stops, continues or exits.
    """
    lib.un_be_init(child, report)
    os.abort()


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None
) -> None:
    """Mount a filesystem, or change a mount (mount(2)).

    :raises NamespaceError: mount(2) failed.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    strings = (memory.string(source), memory.string(target), memory.string(fstype))
    check(lib.un_mount(*strings, flags, memory.string(data), err), err)


def version() -> str:
    """Return the version of this package."""
    return text_of(lib.un_version())


#: The number of fields in an error that a native program of this package prints.
FAILURE_FIELDS = 6


def failure(fields: Sequence[bytes]) -> UsernsError:
    """Return the exception for a failure of usernsctl-build, usernsctl-init or usernsctl-detach.

    :param fields: the fields that the program printed (csrc/programs/build/main.c).
    """
    step, errnum, cause, detail, filename, remedy = fields
    err = ffi.new("struct un_error *")
    err.step, err.errnum = int(step), int(errnum)
    known = ffi.new("struct un_cause *")
    err.cause = known.id if lib.un_cause_find(cause, known) else ffi.NULL
    err.detail = detail[: lib.UN_DETAIL_MAX - 1]
    return error_of(
        err,
        filename=os.fsdecode(filename) or None,
        remedy=os.fsdecode(remedy) or None,
        is_diagnosed=True,
    )


class NativeView:
    """A preview, before a sandbox starts, of the files in its mount namespace (struct un_view)."""

    def __init__(self, view: Any, owner: object) -> None:
        """Wrap a view whose memory `owner` frees; `owner` is a NativeLaunch or a cffi pointer."""
        self._view = view
        self._owner = owner

    @classmethod
    def of_root(
        cls, top: Descriptor, owners: Sequence[Iterable[ExtentTuple]] | None = None
    ) -> Self:
        """Create a view of a root filesystem.

        :param top: the descriptor of the root directory, of which the view takes ownership.
        :param owners: the uid map and the gid map of the sandbox, or ``None`` if they are unknown.
            With maps, a directory that this process may not search counts as searchable in the
            sandbox if its owner is mapped.
        :raises MemoryError: malloc(3) failed.
        """
        native_view = ffi.gc(ffi.new("struct un_view **"), lib.un_view_free)
        # No signal handler can leak the descriptor, because Python runs none between detach() and
        # the call of the C function.
        if lib.un_view_new(top.detach(), native_view):
            raise MemoryError
        view = cls(native_view[0], native_view)
        if owners is not None:
            ids, err = ffi.new("struct un_idmap *"), ffi.new("struct un_error *")
            for native, extents in zip(ids.of, owners, strict=True):
                _fill_map(native, extents, err)
            if lib.un_view_set_owners(view._view, ids):
                raise MemoryError
        return view

    def close(self) -> None:
        """Close the descriptors of the view, unless a launch owns the view."""
        if not isinstance(self._owner, NativeLaunch):
            lib.un_view_free(self._owner)

    def add(self, inside: str, file: Descriptor) -> None:
        """Add a bind mount that runsc will create; do nothing if `inside` is a mount point already.

        :param inside: the mount point, a path in the sandbox without symbolic links.
        :param file: the descriptor of the mounted file, of which the view takes ownership.
        :raises MemoryError: malloc(3) failed.
        """
        # No signal handler can leak the descriptor, because Python runs none between detach() and
        # the call of the C function.
        if lib.un_view_add(self._view, os.fsencode(inside), b"", file.detach()):
            raise MemoryError

    def follow(self, path: str, start: str) -> Reached:
        """Resolve a path in the sandbox, following symbolic links as gVisor's kernel will.

        :param start: the directory in the sandbox at which a relative path starts.
        :returns: the last existing component of the path, and the components that do not exist.
        :raises ValueError: a path contains a NUL character.
        """
        memory, reached = Memory(), ffi.new("struct un_reached *")
        file = Descriptor()
        paths = map(memory.string, (start, path))
        file.open(lib.un_view_follow, self._view, *paths, reached)
        missing = text_of(reached.missing)
        return Reached(
            file=file,
            errnum=reached.errnum,
            is_certain=reached.is_certain,
            is_of_gvisor=reached.is_of_gvisor,
            is_implicit=reached.is_implicit,
            inside=text_of(reached.inside),
            missing=tuple(missing.split("/")) if missing else (),
        )

    def has_directory(self, path: str) -> bool:
        """Return whether an absolute path in the sandbox resolves to a directory.

        :raises ValueError: the path contains a NUL character.
        """
        memory = Memory()
        return bool(lib.un_view_has_directory(self._view, memory.string(path)))

    def lacks(self, path: str, start: str) -> bool:
        """Return whether a path certainly does not exist in the sandbox.

        :param start: the directory in the sandbox at which a relative path starts.
        :raises ValueError: a path contains a NUL character.
        """
        reached = self.follow(path, start)
        reached.file.close()
        return bool(reached.missing) and not reached.errnum and not reached.is_of_gvisor

    def check_command(self, command: str, search: str, cwd: str) -> CommandFault | None:
        """Check that a command can be found and executed in the sandbox.

        :param search: the value of PATH for the command.
        :param cwd: the working directory of the command, a path in the sandbox.
        :returns: the reason why the sandbox can't start the command; ``None`` if no reason is
            known.
        :raises ValueError: a path contains a NUL character.
        """
        memory, fault = Memory(), ffi.new("struct un_command_fault *")
        words = map(memory.string, (command, search, cwd))
        if not lib.un_view_check_command(self._view, *words, fault):
            return None
        return CommandFault(
            is_missing=fault.step == lib.UN_STEP_LOOKUP,
            errnum=fault.errnum,
            path=text_of(fault.path),
            reason=text_of(fault.reason),
            remedy=text_of(fault.remedy),
            interpreter=text_of(fault.interpreter),
        )


class NativeLaunch:
    """A launch in progress (struct un_launch).

    The caller calls :meth:`open`; then, inside the namespaces, :meth:`build` and :meth:`exec`. The
    descriptors of the launch are closed when this object is freed.
    """

    def __init__(self, text: bytes) -> None:
        """Parse an encoded launch.

        :raises NamespaceError: `text` is malformed.
        """
        self._text = ffi.from_buffer(text)
        self._launch = ffi.NULL
        parsed, err = ffi.new("struct un_launch **"), ffi.new("struct un_error *")
        if lib.un_launch_parse(self._text, len(text), parsed, err):
            raise error_of(err)
        self._launch = parsed[0]

    def open(self, fds: Sequence[int]) -> None:
        """Check that the launch is still valid on this host, and open the host files it names.

        :param fds: for each ``source`` record, a descriptor (which the caller closes), or -1 to
            open the file by its path.
        :raises UsernsError: a program or file that the launch depends on has changed, or a file
            can't be opened.
        """
        err, memory = ffi.new("struct un_error *"), Memory()
        self._check(lib.un_launch_open(self._launch, memory.numbers("int[]", fds), err), err)

    def build(self) -> None:
        """Create the sandbox's root filesystem and files in the mount namespace of this process.

        :raises UsernsError: a file or mount can't be created.
        """
        err = ffi.new("struct un_error *")
        self._check(lib.un_launch_build(self._launch, ffi.NULL, err), err)

    def exec(
        self,
        *,
        args: Iterable[str],
        env: Iterable[str],
        cwd: str,
        hostname: str | None = None,
        user: tuple[int, int] = (0, 0),
        groups: Sequence[int] = (),
        terminal: bool = False,
        watch_options: Iterable[str] = (),
        watch_fds: Sequence[int] = (),
    ) -> NoReturn:
        """Write config.json, drop privileges, and execute the watcher, which runs runsc.

        :param args: the command and its arguments.
        :param env: the environment of the command, each entry ``NAME=VALUE``.
        :param cwd: the working directory of the command, a path in the sandbox.
        :param hostname: the hostname in the sandbox, if the launch does not set one.
        :param user: the uid and gid of the command, unless config.json sets them.
        :param groups: the supplementary groups of the command, unless config.json sets them;
            ignored if only one id is mapped.
        :param terminal: whether the command uses the terminal of this process.
        :param watch_options: additional options for the watcher (csrc/programs/watch/main.c).
        :param watch_fds: additional descriptors that the watcher inherits.
        :raises UsernsError: a step failed. The privileges may have been dropped already.
        """
        err, memory = ffi.new("struct un_error *"), Memory()
        params = ffi.new("struct un_launch_params *")
        params.args = memory.strings(map(os.fsencode, args))
        params.env = memory.strings(map(os.fsencode, env))
        params.cwd = memory.string(cwd)
        params.hostname = memory.string(hostname)
        params.id = user
        params.groups = memory.numbers("uint32_t[]", groups)
        params.group_count = len(groups)
        params.terminal = terminal
        params.watch_options = memory.strings(map(os.fsencode, watch_options))
        params.watch_fds = memory.numbers("int[]", watch_fds)
        params.watch_fd_count = len(watch_fds)
        lib.un_launch_exec(self._launch, params, err)
        raise self._error(err)

    def view(self) -> NativeView:
        """Return an object that looks up paths as the sandbox will see them.

        The object is valid until this launch is closed.
        """
        return NativeView(lib.un_launch_view(self._launch), self)

    def close(self) -> None:
        """Close the descriptors of the launch. The mounts remain."""
        launch, self._launch = self._launch, ffi.NULL
        lib.un_launch_close(launch)

    def __del__(self) -> None:
        if hasattr(self, "_launch"):
            self.close()

    def _check(self, result: int, err: Any) -> None:
        if result:
            raise self._error(err)

    def _error(self, err: Any) -> UsernsError:
        filename, remedy = (
            text_of(found) if found else None
            for found in (
                lib.un_launch_filename(self._launch),
                lib.un_launch_remedy(self._launch),
            )
        )
        return error_of(err, filename=filename, remedy=remedy)
