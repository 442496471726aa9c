"""The C core, as Python functions.

The one module that touches cffi's untyped objects: what comes out is Python's own types, and every
failure is an exception. The GIL is released while C runs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from usernsctl._native import ffi, lib
from usernsctl._records import (
    ALL_NAMESPACES,
    NAMESPACE_FILES,
    NAMESPACES,
    Cause,
    Command,
    ExtentTuple,
    IdRequest,
    PlanDescription,
    Setup,
    Spawn,
)
from usernsctl.errors import (
    CommandError,
    CommandNotExecutableError,
    CommandNotFoundError,
    MapError,
    NamespaceError,
    PlanError,
    UsernsError,
)

__all__ = [
    "ALL_NAMESPACES",
    "NAMESPACES",
    "NAMESPACE_FILES",
    "Cause",
    "Command",
    "IdRequest",
    "NativePlan",
    "PlanDescription",
    "Setup",
    "Spawn",
    "apply_setup",
    "cause",
    "create_namespaces",
    "enter",
    "exec_command",
    "join",
    "mount",
    "mount_read_only",
    "parse_extent",
    "plan",
    "setup_to_join",
    "spawn",
]

_NS_FLAG = {name: lib.un_ns_flag(index) for index, name in enumerate(NAMESPACES, lib.UN_NS_MOUNT)}
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

# All other steps are about namespaces.
_FAMILY: dict[int, type[UsernsError]] = {
    lib.UN_STEP_FACTS: PlanError,
    lib.UN_STEP_SUBID: PlanError,
    lib.UN_STEP_PLAN: PlanError,
    lib.UN_STEP_CWD: CommandError,
    lib.UN_STEP_SESSION: CommandError,
    lib.UN_STEP_PDEATHSIG: CommandError,
    lib.UN_STEP_STDIO: CommandError,
    lib.UN_STEP_FDS: CommandError,
    lib.UN_STEP_LOOKUP: CommandError,
    lib.UN_STEP_EXEC: CommandError,
}
_PATH_STEPS = (lib.UN_STEP_CWD, lib.UN_STEP_ROOT, lib.UN_STEP_LOOKUP, lib.UN_STEP_EXEC)


def _text(pointer: Any) -> str:
    return os.fsdecode(ffi.string(pointer))


def cause(cause_id: str | None) -> Cause | None:
    """Look a cause up by its id; ``None`` if the core does not know it."""
    found = lib.un_cause_find(cause_id.encode()) if cause_id else ffi.NULL
    return Cause(_text(found.why), _text(found.remedy)) if found else None


def _family(err: Any) -> type[UsernsError]:
    if err.step == lib.UN_STEP_ARGUMENT:
        return MapError if err.cause else NamespaceError
    family = _FAMILY.get(err.step, NamespaceError)
    if family is CommandError and err.errnum == errno.ENOENT:
        return CommandNotFoundError
    if family is CommandError and err.errnum in (errno.EACCES, errno.EPERM):
        return CommandNotExecutableError
    return family


def _raise(err: Any) -> NoReturn:
    lib.un_diagnose(err, b"/proc")
    cause_id = _text(err.cause) if err.cause else None
    known = cause(cause_id)
    raise _family(err)(
        _reason(err),
        step=_text(lib.un_step_name(err.step)),
        errno=err.errnum,
        filename=_text(err.detail) if err.step in _PATH_STEPS else None,
        cause=cause_id,
        remedy=known.remedy if known else None,
    )


def _check(result: int, err: Any) -> None:
    if result:
        _raise(err)


def _flags(namespaces: Iterable[str]) -> int:
    flags = 0
    for name in namespaces:
        flags |= _NS_FLAG[name]
    return flags


def parse_extent(text: str) -> ExtentTuple:
    """Read ``inside:outside:count``.

    :raises MapError: it is none.
    """
    extent, err = ffi.new("struct un_extent *"), ffi.new("struct un_error *")
    # Only ASCII can be an extent; and C reads up to the first NUL, as if nothing came after it.
    native = text.encode("ascii", "backslashreplace").replace(b"\0", b"\\x00")
    _check(lib.un_extent_parse(native, extent, err), err)
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
        _check(lib.un_map_add(ffi.addressof(native), extent[0], err), err)


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


def _reason(err: Any) -> str:
    reason = ffi.new("char[]", lib.UN_DETAIL_MAX + 128)
    return _text(lib.un_error_reason(err, reason, len(reason)))


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
    sources, memory = ffi.new("struct un_sources *"), _Memory()
    request.setgroups = _SETGROUPS[setgroups]
    request.allow_single_id = allow_single_id
    _fill_request(request.id[lib.UN_UID], uid, err)
    _fill_request(request.id[lib.UN_GID], gid, err)
    sources.path = memory.string(os.environb.get(b"PATH"))
    _check(lib.un_plan_for_caller(request, sources, facts, result, err), err)
    return NativePlan(result, facts.notices, facts)


def setup_to_join(directory: int) -> Setup:
    """What makes a process who it should be in the user namespace of another one.

    :param directory: a descriptor of ``/proc/PID`` of that other process.
    :raises UsernsError: its maps can't be read, or mean nothing in our namespace.
    """
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    _check(lib.un_plan_to_join(directory, result, err), err)
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

    def describe(self) -> PlanDescription:
        plan, notices = self.cdata, self._notices
        return PlanDescription(
            uid=_extents(plan.map.of[lib.UN_UID]),
            gid=_extents(plan.map.of[lib.UN_GID]),
            uid_writer=_text(lib.un_writer_name(plan.writer[lib.UN_UID])),
            gid_writer=_text(lib.un_writer_name(plan.writer[lib.UN_GID])),
            uid_reason=_text(plan.reason[lib.UN_UID]),
            gid_reason=_text(plan.reason[lib.UN_GID]),
            setgroups=_SETGROUPS_NAME[plan.setgroups],
            become=(plan.become[lib.UN_UID], plan.become[lib.UN_GID]),
            drop_groups=plan.drop_groups,
            clipped_uid=_ranges(plan.clipped[lib.UN_UID]),
            clipped_gid=_ranges(plan.clipped[lib.UN_GID]),
            notices=tuple(_text(notices.text[i]) for i in range(notices.len)),
            single_id_reason=_reason(ffi.addressof(plan.wanted)) if plan.single_id else None,
        )


class _Memory:
    """Keeps what C structs point to alive for as long as they are used."""

    def __init__(self) -> None:
        self._alive: list[Any] = []

    def string(self, value: bytes | str | None) -> Any:
        if value is None:
            return ffi.NULL
        value = os.fsencode(value)
        if b"\0" in value:
            raise ValueError("embedded null byte")
        return self.keep(ffi.new("char[]", value))

    def strings(self, values: Iterable[bytes]) -> Any:
        return self.keep(ffi.new("char *[]", [*map(self.string, values), ffi.NULL]))

    def numbers(self, ctype: str, values: Sequence[int]) -> Any:
        return self.keep(ffi.new(ctype, values))

    def keep(self, value: Any) -> Any:
        self._alive.append(value)
        return value


def _fill_setup(native: Any, setup: Setup, memory: _Memory) -> None:
    native.propagation = setup.propagation
    native.mount_proc = memory.string(setup.mount_proc)
    native.root = memory.string(setup.root)
    native.cwd = memory.string(setup.cwd)
    if setup.groups is not None:
        native.groups = memory.numbers("gid_t[]", setup.groups)
        native.group_count = len(setup.groups)
    native.gid = -1 if setup.gid is None else setup.gid
    native.uid = -1 if setup.uid is None else setup.uid
    native.keep_caps = setup.keep_caps
    native.pdeathsig = setup.pdeathsig


def _environment(env: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for name, value in env.items():
        if not name or b"=" in name:
            raise ValueError("illegal environment variable name")
        yield name + b"=" + value


def _fill_command(native: Any, command: Command, memory: _Memory) -> None:
    native.file = memory.string(command.file)
    native.path = memory.string(command.env.get(b"PATH"))
    native.argv = memory.strings(command.argv)
    native.envp = memory.strings(_environment(command.env))


def _joined(fds: Sequence[int] | None, memory: _Memory) -> Any:
    if fds is None:
        return ffi.NULL
    return memory.keep(ffi.new("struct un_namespace *", {"fd": fds}))


def spawn(request: Spawn) -> tuple[int, int]:
    """Start a command in a child: its pid and a pidfd, which the caller closes.

    :raises NamespaceError: the namespaces could not be had.
    :raises CommandError: they could, but the command could not be started in them.
    :raises ValueError: an argument contains NUL, or a variable's name is malformed.
    """
    native, err, memory = ffi.new("struct un_spawn *"), ffi.new("struct un_error *"), _Memory()
    pid, pidfd = ffi.new("pid_t *"), ffi.new("int *")
    lib.un_spawn_init(native)
    _fill_setup(native.setup, request.setup, memory)
    _fill_command(native.command, request.command, memory)
    native.plan = _planned(request.plan)
    native.join = _joined(request.join, memory)
    native.flags = _flags(request.namespaces)
    native.stdio = request.stdio
    native.close_fds = request.close_fds
    keep = sorted(set(request.keep))
    native.keep, native.keep_count = memory.numbers("int[]", keep), len(keep)
    native.restore_signals = request.restore_signals
    native.new_session = request.new_session
    native.process_group = request.process_group
    native.umask = request.umask
    _check(lib.un_spawn(native, pid, pidfd, err), err)
    return pid[0], pidfd[0]


def _planned(plan: object | None) -> Any:
    return plan.cdata if isinstance(plan, NativePlan) else ffi.NULL


def enter(plan: NativePlan | None, namespaces: Iterable[str]) -> None:
    """Move this single-threaded process into new namespaces.

    :raises NamespaceError: they could not be had.
    """
    err = ffi.new("struct un_error *")
    _check(lib.un_enter(_planned(plan), _flags(namespaces), err), err)


def create_namespaces(plan: NativePlan, namespaces: Iterable[str]) -> list[int]:
    """Make namespaces that no process is in.

    :returns: their descriptors, in the order of :data:`ALL_NAMESPACES`; -1 for those not made.
    :raises NamespaceError: they could not be had.
    """
    made, err = ffi.new("struct un_namespace *"), ffi.new("struct un_error *")
    _check(lib.un_namespace_create(plan.cdata, _flags(namespaces), made, err), err)
    return list(made.fd)


def join(fds: Sequence[int]) -> None:
    """Move this single-threaded process into namespaces.

    :raises NamespaceError: the kernel refused.
    """
    err, memory = ffi.new("struct un_error *"), _Memory()
    _check(lib.un_namespace_join(_joined(fds, memory), err), err)


def apply_setup(setup: Setup) -> None:
    """Do inside the namespaces what `setup` says.

    :raises NamespaceError: something of it failed.
    """
    native, err, memory = ffi.new("struct un_setup *"), ffi.new("struct un_error *"), _Memory()
    lib.un_setup_init(native)
    _fill_setup(native, setup, memory)
    _check(lib.un_setup_apply(native, err), err)


def exec_command(command: Command) -> NoReturn:
    """Replace this program by a command.

    :raises CommandError: it could not be started.
    """
    native, err, memory = ffi.new("struct un_command *"), ffi.new("struct un_error *"), _Memory()
    _fill_command(native, command, memory)
    lib.un_exec(native, err)
    _raise(err)


def mount_read_only(top: str) -> None:
    """Make every mount on and below the directory `top` read-only.

    :raises NamespaceError: the kernel refused it, or is older than 5.12.
    """
    err, memory = ffi.new("struct un_error *"), _Memory()
    _check(lib.un_mount_read_only(memory.string(top), err), err)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None
) -> None:
    """mount(2).

    :raises NamespaceError: the kernel refused it.
    """
    err, memory = ffi.new("struct un_error *"), _Memory()
    strings = (memory.string(source), memory.string(target), memory.string(fstype))
    _check(lib.un_mount(*strings, flags, memory.string(data), err), err)
