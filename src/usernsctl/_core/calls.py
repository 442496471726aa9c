"""The calls of the core, an untyped object of cffi never leaves this module."""

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
from usernsctl.errors import MapError, NamespaceError, RunscError, UsernsError

#: How many subordinate ids useradd(8) grants to a user.
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


def parse_extent(text: str) -> ExtentTuple:
    """Read ``inside:outside:count``.

    :raises MapError: it is none.
    """
    extent, err = ffi.new("struct un_extent *"), ffi.new("struct un_error *")
    # Only ASCII can be an extent; and C reads up to the first NUL, as if nothing came after it.
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
                f"extent {inside}:{outside}:{count}: each must be a number from 0 to 4294967295",
                step="argument",
                cause="map-invalid",
            ) from error
        check(lib.un_map_add(ffi.addressof(native), extent[0], err), err)


def _extents(native: Any) -> tuple[ExtentTuple, ...]:
    return tuple((e.inside, e.outside, e.count) for e in native.extent[0 : native.len])


def _fill_request(native: Any, request: IdRequest, err: Any) -> None:
    if request.own is not None:
        if not 0 <= request.own < 2**32 - 1:
            reason = f"{request.own} is no id: it must be a number from 0 to 4294967294"
            raise MapError(reason, step="argument", cause="map-invalid")
        native.map_self, native.self = True, request.own
    native.fill = _FILLS[request.fill]
    _fill_map(native.more, request.more, err)


def _ranges(native: Any) -> tuple[tuple[int, int], ...]:
    return tuple((r.start, r.count) for r in native.range[0 : native.len])


def plan(uid: IdRequest, gid: IdRequest, *, setgroups: str, allow_single_id: bool) -> NativePlan:
    """Decide what is mapped, and who writes it, for the calling process.

    :param setgroups: ``"auto"``, ``"allow"`` or ``"deny"``.
    :param allow_single_id: whether to go on with the caller's own id where more can't be had.
    :raises MapError: an extent is malformed, or the map is one that the kernel refuses.
    :raises PlanError: the caller may not have this map.
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
    """Find ids that nobody has: the first one, and how many; the same as uids and as gids.

    They are 65,536 behind all that anybody has, as useradd(8) does it, or, in a container without
    ids that high, as many as there are.

    :param etc: the directory of subuid, subgid, passwd and group.
    :param uid_map: the uids that exist, and as `gid_map` the gids.
    :returns: ``None``: there are none, or what is granted can't be read.
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


def setup_to_join(directory: int) -> Setup:
    """What makes a process who it should be in the user namespace of another one.

    :param directory: a descriptor of ``/proc/PID`` of that other process.
    :raises UsernsError: its maps can't be read, or mean nothing in our namespace.
    """
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    check(lib.un_plan_to_join(directory, result, err), err)
    return NativePlan(result, None, None).setup()


class NativePlan:
    """A plan as the core has it. To tell what is in it costs more than to make use of it."""

    def __init__(self, result: Any, notices: Any, owner: Any) -> None:
        self.cdata = result
        self._notices = notices
        self._owner = owner  # `notices` is a part of it

    def setup(self) -> Setup:
        """What makes a process that is in the namespace who it should be there."""
        uid, gid = (None if inside < 0 else inside for inside in self.cdata.become)
        return Setup(uid=uid, gid=gid, groups=() if self.cdata.drop_groups else None)

    @property
    def single_id_reason(self) -> str | None:
        """Why there is one id only, where more were asked for."""
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
    """Refuse to show what holds a directory, or lies in it.

    :param files: descriptors, by the names that they were asked for by.
    :param directory: its path; it need not be there yet.
    :raises BindError: one does (cause ``bind-shows-state``), or it can't be told.
    """
    memory, names = Memory(), list(files)
    which, err = ffi.new("size_t *"), ffi.new("struct un_error *")
    fds = memory.numbers("int[]", list(files.values()))
    listed = memory.strings(map(os.fsencode, names))
    if lib.un_refuse_to_show(fds, listed, len(names), os.fsencode(directory), which, err):
        raise error_of(err, filename=names[which[0]] if which[0] < len(names) else directory)


def machine_part(descriptor: int) -> str | None:
    """The part of the machine itself that would be seen where an open file is shown.

    That is the case if it is one of /proc, /sys and /dev, lies in one, by whatever path it was
    reached, or has one or a filesystem like these below it.

    :param descriptor: of the file, perhaps O_PATH.
    :returns: the path or type, such as ``"/proc"``; ``None`` if there is none.
    :raises OSError: /proc can't be read, so that it can't be told.
    """
    part = ffi.new("char const **")
    if lib.un_machine_part(descriptor, part):
        _raise_errno()
    return text_of(part[0]) if part[0] else None


def is_trusted(uid: int, path: str) -> bool:
    """Whether the owner of a file may lead us anywhere: it is the caller, root, or who owns ``/``.

    In a user namespace that does not map root, root's files show the overflow uid, and so do those
    of all others who are not mapped (user_namespaces(7)). There, what counts as root's is what
    nobody else can have made.

    :param path: of the file, without symbolic links but itself.
    """
    return bool(lib.un_owner_is_trusted(uid, os.fsencode(path)))


def others_may_write(directory: int) -> bool:
    """Return whether a user other than the caller and root may write to a directory.

    That is by its mode or its access control list (acl(5)). A group counts as the caller's alone if
    it is root's, or has the caller's number and no members.

    :param directory: a descriptor of it, perhaps O_PATH.
    """
    return bool(lib.un_others_may_write(directory))


def append_at_end(descriptor: int) -> None:
    """Have what is written through `descriptor` appended, if it is at the end of a file.

    gVisor writes to a file at an offset of its own, from 0: it would overwrite what is there, and
    standard output and error in one file each other.

    :raises OSError: it is not open.
    """
    if lib.un_append_at_end(descriptor):
        _raise_errno()


def denies_write_execute() -> bool | None:
    """Whether this process can get no memory that it could write and execute.

    :returns: ``None``: the kernel does not tell (PR_GET_MDWE(2const), since Linux 6.3).
    """
    told = lib.un_denies_write_execute()
    return None if told < 0 else bool(told)


def securebits() -> int | None:
    """Return the securebits of this thread (capabilities(7)), or ``None`` if they can't be read."""
    bits = int(lib.un_securebits())
    return None if bits < 0 else bits


def is_dumpable() -> bool | None:
    """Return whether others of this user may look into this process, or ``None`` if unknown."""
    told = lib.un_dumpable()
    return None if told < 0 else told == 1


def landlock_version() -> int:
    """The version of Landlock's interface; 0: there is none, or it is refused.

    Nothing tells whether Landlock confines this process.
    """
    return int(lib.un_landlock_version())


# The program that enters namespaces in place of a process that has something to lose.
_CHILD = os.fsencode(program_path("usernsctl-child"))
# More milliseconds than an int has room for are for ever.
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
    """Start a command in a child: its pid and a pidfd, which the caller closes.

    :raises NamespaceError: the namespaces could not be had.
    :raises CommandError: they could, but the command could not be started in them.
    :raises ValueError: an argument contains NUL, or a variable's name is malformed.
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
        # A handler of signals has raised it as soon as the call was over: nobody knows the child.
        request.pidfd = -1
        if pidfd[0] >= 0:
            try:
                end_child(pidfd[0])
            finally:
                os.close(pidfd[0])
        raise


def _milliseconds(seconds: float | None) -> int:
    """Return a time limit as the core has it; -1: none."""
    if seconds is None or seconds > _SECONDS_MAX:
        return -1
    return math.ceil(max(seconds, 0) * 1000)


def end_child(pidfd: int) -> None:
    """Kill a child of ours, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def lost_returncode(pidfd: int) -> int | None:
    """Return how a child ended that was reaped already, as :class:`subprocess.Popen` has it.

    :returns: ``None``: the kernel does not tell (before Linux 6.15).
    """
    status = lib.un_lost_status(pidfd)
    return None if status < 0 else os.waitstatus_to_exitcode(status)


def _planned(plan: object | None) -> Any:
    return plan.cdata if isinstance(plan, NativePlan) else ffi.NULL


def enter(plan: NativePlan | None, namespaces: Iterable[str]) -> None:
    """Move this single-threaded process into new namespaces.

    If there is a plan, it is not dumpable from then on: nobody inside can look into it.

    :raises NamespaceError: they could not be had.
    """
    err = ffi.new("struct un_error *")
    check(lib.un_enter(_planned(plan), _flags(namespaces), _CHILD, True, err), err)


class NamespaceFds:
    """Descriptors of namespaces, which are closed with this object at the latest.

    It exists before the descriptors do: a signal handler may raise an exception as soon as a call
    of C returns, when nobody else knows of them.
    """

    def __init__(self) -> None:
        """Begin with no descriptor."""
        nothing = {"fd": [-1] * lib.UN_NS_COUNT}
        self.cdata = ffi.gc(ffi.new("struct un_namespace *", nothing), lib.un_namespace_close)

    def take(self, index: int, make: Callable[..., int], *arguments: Any) -> None:
        """Take over the descriptor that a function in C returns.

        No handler of signals comes between both: map() calls in C what is C.

        :param index: of the namespace, in the order of :data:`ALL_NAMESPACES`.
        """
        deque(map(self.cdata.fd.__setitem__, (index,), map(make, *zip(arguments))), 0)

    def numbers(self) -> list[int]:
        """Return the descriptors, in the order of :data:`ALL_NAMESPACES`; -1 stands for none."""
        return list(self.cdata.fd)

    def close(self) -> None:
        """Close the descriptors. Does nothing the second time, also in another thread."""
        ffi.release(self.cdata)


def create_namespaces(plan: NativePlan, namespaces: Iterable[str]) -> NamespaceFds:
    """Make namespaces that no process is in.

    :raises NamespaceError: the kernel refused.
    """
    made, err = NamespaceFds(), ffi.new("struct un_error *")
    check(lib.un_namespace_create(plan.cdata, _flags(namespaces), _CHILD, made.cdata, err), err)
    return made


def join(fds: Sequence[int]) -> None:
    """Move this single-threaded process into namespaces.

    It is not dumpable from then on: nobody inside can look into it.

    :raises NamespaceError: the kernel refused.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    check(lib.un_namespace_join(_joined(fds, memory), err), err)


def close_descriptors(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on but `keep`, which an exec passes on then.

    :raises CommandError: one of `keep` is not open.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    kept = sorted(set(keep))
    check(lib.un_close_fds(memory.numbers("int[]", kept), len(kept), err), err)


def check_single_thread() -> None:
    """A process enters a user namespace as a whole, so it must have one thread.

    :raises NamespaceError: it has more.
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
    """Do inside the namespaces what `setup` says.

    :raises NamespaceError: something of it failed.
    """
    native, err, memory = ffi.new("struct un_setup *"), ffi.new("struct un_error *"), Memory()
    lib.un_setup_init(native)
    _fill_setup(native, setup, memory)
    check(lib.un_setup_apply(native, err), err)


def exec_command(command: Command) -> NoReturn:
    """Replace this program by a command.

    :raises CommandError: it could not be started.
    """
    native, err, memory = ffi.new("struct un_command *"), ffi.new("struct un_error *"), Memory()
    _fill_command(native, command, memory)
    lib.un_exec(native, err)
    raise_error(err)


def stand_in(child: int) -> int:
    """Wait for the child process `child`, and pass on to it what signals come; see un_stand_in().

    :returns: how it ended, as :func:`os.waitpid` gives it.
    """
    return int(lib.un_stand_in(child))


def reraise(number: int) -> None:
    """End this process by the signal that has killed a child; see un_reraise().

    Returns if that is not possible, as in process 1.
    """
    lib.un_reraise(number)


def be_init(child: int, report: int) -> NoReturn:
    """Be process 1 of a PID namespace for the command `child`; see un_be_init().

    All signals must be blocked since before the command was started.

    :param report: the descriptor of a pipe that gets each status of the command.
    """
    lib.un_be_init(child, report)
    os.abort()


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None
) -> None:
    """Mount something (mount(2)).

    :raises NamespaceError: the kernel refused it.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    strings = (memory.string(source), memory.string(target), memory.string(fstype))
    check(lib.un_mount(*strings, flags, memory.string(data), err), err)


def version() -> str:
    """The version of this package."""
    return text_of(lib.un_version())


def failure(words: Sequence[bytes]) -> UsernsError:
    """The exception for what failed in usernsctl-build.

    :param words: what it has written (csrc/programs/build/main.c).
    """
    step, errnum, cause, detail, filename, remedy = words
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
    """The directory tree that a sandbox will see."""

    def __init__(self, view: Any, keep: object = None) -> None:
        self._view = view
        self._keep = keep

    @classmethod
    def of_root(cls, top: int, owners: Sequence[Iterable[ExtentTuple]] | None = None) -> Self:
        """Make a view of a root filesystem.

        :param top: a descriptor of it, which becomes the view's.
        :param owners: the maps of uids and gids whose directories the sandbox may search where this
            process may not; ``None``: there are none.
        :raises MemoryError: there is no memory.
        """
        made = ffi.new("struct un_view **")
        if lib.un_view_new(top, made):
            raise MemoryError
        view = cls(ffi.gc(made[0], lib.un_view_free))
        if owners is not None:
            ids, err = ffi.new("struct un_idmap *"), ffi.new("struct un_error *")
            for native, extents in zip(ids.of, owners, strict=True):
                _fill_map(native, extents, err)
            if lib.un_view_set_owners(view._view, ids):
                raise MemoryError
        return view

    def close(self) -> None:
        """Close all that it has open, unless that is a launch's."""
        if self._keep is None:
            ffi.release(self._view)

    def add(self, inside: str, file: int) -> None:
        """Note that runsc will mount a file at a path inside that has no symbolic links.

        The first of two at the same place counts.

        :param file: a descriptor of it, which becomes the view's.
        :raises MemoryError: there is no memory.
        """
        if lib.un_view_add(self._view, os.fsencode(inside), b"", file):
            raise MemoryError

    def follow(self, path: str, start: str) -> Reached:
        """Follow a path inside, and the symbolic links on it, as the kernel will do there.

        :param start: the directory inside that a relative path starts at.
        :raises ValueError: a path has a NUL.
        """
        memory, reached = Memory(), ffi.new("struct un_reached *")
        lib.un_view_follow(self._view, memory.string(start), memory.string(path), reached)
        missing = text_of(reached.missing)
        return Reached(
            fd=reached.fd,
            errnum=reached.errnum,
            is_certain=reached.is_certain,
            is_of_gvisor=reached.is_of_gvisor,
            is_made_up=reached.is_made_up,
            inside=text_of(reached.inside),
            missing=tuple(missing.split("/")) if missing else (),
        )

    def check_command(self, command: str, search: str, cwd: str) -> CommandFault | None:
        """Check that a command can be found and executed inside.

        :param search: PATH of the command.
        :param cwd: the directory inside that it starts in.
        :returns: what keeps the sandbox from starting it; ``None``: nothing, or that can't be told
            from here.
        :raises ValueError: a path has a NUL.
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
    """A launch that is performed: opened, then built inside the namespaces, then executed.

    All that it has open is closed with this object.
    """

    def __init__(self, text: bytes) -> None:
        """Read the words of a launch.

        :raises NamespaceError: they are none.
        """
        self._text = ffi.from_buffer(text)
        self._launch = ffi.NULL
        made, err = ffi.new("struct un_launch **"), ffi.new("struct un_error *")
        if lib.un_launch_parse(self._text, len(text), made, err):
            raise error_of(err)
        self._launch = made[0]

    def open(self, fds: Sequence[int]) -> None:
        """Check what it assumes, and open its sources.

        :param fds: for each source a descriptor, which stays the caller's, or -1 for one that is
            to be opened here.
        :raises UsernsError: a source can't be had.
        """
        err, memory = ffi.new("struct un_error *"), Memory()
        self._check(lib.un_launch_open(self._launch, memory.numbers("int[]", fds), err), err)

    def build(self) -> None:
        """Make the root filesystem and the files, in the mount namespace that we are in by now.

        :raises UsernsError: something of it can't be made.
        """
        err = ffi.new("struct un_error *")
        self._check(lib.un_launch_build(self._launch, ffi.NULL, err), err)

    def exec(
        self, *, args: Iterable[str], env: Iterable[str], cwd: str, hostname: str | None = None
    ) -> NoReturn:
        """Write config.json, give up privileges, and execute the program that waits for runsc.

        :param args: the command.
        :param env: its environment, each ``NAME=VALUE``.
        :param cwd: the directory inside that it starts in.
        :param hostname: the name of the host inside, if that is left open.
        :raises UsernsError: it failed; privileges may be gone by then.
        """
        err, memory = ffi.new("struct un_error *"), Memory()
        moment = ffi.new("struct un_moment *")
        moment.args = memory.strings(map(os.fsencode, args))
        moment.env = memory.strings(map(os.fsencode, env))
        moment.cwd = memory.string(cwd)
        moment.hostname = memory.string(hostname)
        lib.un_launch_exec(self._launch, moment, err)
        raise self._error(err)

    def view(self) -> NativeView:
        """What the sandbox will see, to be used as long as the launch is not closed."""
        return NativeView(lib.un_launch_view(self._launch), keep=self)

    def close(self) -> None:
        """Close all that it has open. What was mounted stays."""
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


class MessageSearch:
    """A search for the messages of the catalogue in a text that comes in pieces."""

    def __init__(self) -> None:
        self._search = ffi.new("struct un_search *")

    def add(self, piece: bytes) -> list[tuple[int, tuple[str, ...]]]:
        """Find what of the catalogue this piece has and the pieces before it had not.

        :returns: where each message begins, and the ids of the causes that it can have, likeliest
            first.
        """
        before = self._search.count
        lib.un_search_add(self._search, ffi.from_buffer(piece), len(piece))
        found = self._search.occurrence[before : self._search.count]
        return [(one.at, _words(one.causes, one.count)) for one in found if not one.is_hint]

    def causes(self) -> list[str]:
        """Return the ids of all causes that the text can have, likeliest first."""
        ids = ffi.new("const char *[]", lib.UN_CAUSES_MAX)
        return [text_of(ids[place]) for place in range(lib.un_search_causes(self._search, ids))]


def _words(at: Any, count: int) -> tuple[str, ...]:
    """Read words of ASCII that follow each other, each ended by NUL."""
    words = []
    for _ in range(count):
        words.append(text_of(at))
        at += len(words[-1]) + 1
    return tuple(words)


def first_message(written: bytes) -> str | None:
    """Return the first ``msg`` of JSON objects that follow each other, or None if none has one."""
    messages = ffi.new("struct un_messages *")
    if lib.un_messages_read(ffi.from_buffer(written), len(written), messages):
        raise MemoryError
    try:
        return _message(messages.bytes) if messages.count else None
    finally:
        lib.un_messages_free(messages)


def read_runsc_failure(errors: str, crash: str, debug: str) -> str | None:
    """Return the message with which runsc failed, or None if its files have no message.

    :param errors: the file for ``--log``.
    :param crash: the file for ``--panic-log``.
    :param debug: the pattern for ``--debug-log``.
    :raises MemoryError: the messages need more memory than there is.
    """
    memory, words = Memory(), ffi.new("struct un_runsc_words *")
    paths = [memory.string(path) for path in (errors, crash, debug)]
    if lib.un_runsc_words_read(*paths, words):
        raise MemoryError
    try:
        return _message(words.told) if words.told else None
    finally:
        lib.un_runsc_words_free(words)


def _message(told: Any) -> str:
    return bytes(ffi.string(told)).decode("utf-8", "replace")


def explain_runsc(
    told: str, limit: str = "", config: str | None = "", proc: str = "/proc"
) -> RunscError:
    """The error that a message of runsc's is: with a cause, if the message can have but one.

    :param limit: the id of the cause that it has, if the message can have several; or empty.
    :param config: the config.json, whose words are not runsc's even where runsc repeats them;
        ``None``: it is not known which those are.
    """
    memory = Memory()
    err, failure = ffi.new("struct un_error *"), ffi.new("struct un_runsc_failure *")
    encoded = None if config is None else config.encode("utf-8", "replace")
    result = lib.un_runsc_explain(
        memory.string(_text(told)),
        memory.string(limit),
        ffi.NULL if encoded is None else memory.keep(ffi.from_buffer(encoded)),
        len(encoded or b""),
        memory.string(proc),
        failure,
        err,
    )
    check(result, err)
    return _error(failure)


def explain_silent_runsc(status: int, limit: str = "") -> RunscError:
    """The error that runsc ended with `status`, failed or crashed, and said nothing."""
    memory = Memory()
    failure = ffi.new("struct un_runsc_failure *")
    lib.un_runsc_explain_silence(status, memory.string(limit), failure)
    return _error(failure)


def _text(message: str) -> bytes:
    """As C reads it from a log: what no text can have is replaced."""
    return message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")


def _error(failure: Any) -> RunscError:
    cause = text_of(failure.cause.id) if failure.has_cause else None
    return RunscError(
        text_of(failure.what),
        step="runsc",
        cause=cause,
        remedy=text_of(failure.remedy),
    )
