"""The C core, as Python functions.

The one module that touches cffi's untyped objects: what comes out is Python's own types, and every
failure is an exception. The GIL is released while C runs.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from usernsctl._native import ffi, lib
from usernsctl.errors import (
    CommandError,
    CommandNotExecutableError,
    CommandNotFoundError,
    MapError,
    NamespaceError,
    PlanError,
    UsernsError,
)

#: The namespaces beside the user namespace, by the names that options and arguments have.
NAMESPACES = ("mount", "net", "pid", "ipc", "uts", "cgroup", "time")

ExtentTuple = tuple[int, int, int]

_NS_FLAG = {name: lib.un_ns_flag(index) for index, name in enumerate(NAMESPACES, lib.UN_NS_MOUNT)}
_SETGROUPS = {
    "auto": lib.UN_SETGROUPS_AUTO,
    "allow": lib.UN_SETGROUPS_ALLOW,
    "deny": lib.UN_SETGROUPS_DENY,
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


class Cause(NamedTuple):
    """Why something fails, and what mends it."""

    why: str
    remedy: str


class PlanResult(NamedTuple):
    """What :func:`plan` decided; `native` is the same for the core, opaque to everyone else."""

    uid: tuple[ExtentTuple, ...]
    gid: tuple[ExtentTuple, ...]
    uid_writer: str
    gid_writer: str
    uid_reason: str
    gid_reason: str
    setgroups: str
    become: tuple[int, int]
    drop_groups: bool
    native: object


@dataclass(kw_only=True, slots=True)
class Setup:
    """What is done inside the namespaces before a command starts; see struct un_setup."""

    propagation: int = 0
    mount_proc: str | None = None
    root: str | None = None
    cwd: bytes | None = None
    groups: Sequence[int] | None = None
    gid: int | None = None
    uid: int | None = None
    keep_caps: bool = False
    pdeathsig: int = 0


@dataclass(kw_only=True, slots=True)
class Command:
    """A command; see struct un_command."""

    file: bytes
    argv: Sequence[bytes]
    env: Mapping[bytes, bytes]


@dataclass(kw_only=True, slots=True)
class Spawn:
    """How a command is started in a child; see struct un_spawn."""

    command: Command
    plan: object | None = None
    namespaces: Iterable[str] = ()
    setup: Setup = field(default_factory=Setup)
    stdio: tuple[int, int, int] = (-1, -1, -1)
    close_fds: bool = True
    keep: Sequence[int] = ()
    restore_signals: bool = True
    new_session: bool = False
    process_group: int = -1
    umask: int = -1


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
    reason = ffi.new("char[]", lib.UN_DETAIL_MAX + 128)
    cause_id = _text(err.cause) if err.cause else None
    known = cause(cause_id)
    raise _family(err)(
        _text(lib.un_error_reason(err, reason, len(reason))),
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
    _check(lib.un_extent_parse(os.fsencode(text), extent, err), err)
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


def plan(
    own: tuple[int | None, int | None],
    more: tuple[Iterable[Iterable[int]], Iterable[Iterable[int]]],
    setgroups: str,
) -> PlanResult:
    """Decide what is mapped, and who writes it, for the calling process.

    :param own: the uid and the gid that the caller's own become inside; ``None``: not mapped.
    :param more: further extents of uids and of gids.
    :param setgroups: ``"auto"``, ``"allow"`` or ``"deny"``.
    :raises MapError: an extent is malformed, or the map is one that the kernel refuses.
    :raises PlanError: the caller may not have this map.
    """
    request, facts = ffi.new("struct un_request *"), ffi.new("struct un_facts *")
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    request.setgroups = _SETGROUPS[setgroups]
    for kind in (lib.UN_UID, lib.UN_GID):
        own_id, wanted = own[kind], request.id[kind]
        if own_id is not None:
            if not 0 <= own_id < 2**32 - 1:
                reason = f"{own_id} is no id: it must be a number from 0 to 4294967294"
                raise MapError(reason, step="argument", cause="map-invalid")
            wanted.map_self, wanted.self = True, own_id
        _fill_map(wanted.more, more[kind], err)
    _check(lib.un_facts_read(facts, err), err)
    _check(lib.un_plan_make(request, facts, result, err), err)
    return PlanResult(
        uid=_extents(result.map.of[lib.UN_UID]),
        gid=_extents(result.map.of[lib.UN_GID]),
        uid_writer=_text(lib.un_writer_name(result.writer[lib.UN_UID])),
        gid_writer=_text(lib.un_writer_name(result.writer[lib.UN_GID])),
        uid_reason=_text(result.reason[lib.UN_UID]),
        gid_reason=_text(result.reason[lib.UN_GID]),
        setgroups=_SETGROUPS_NAME[result.setgroups],
        become=(result.become[lib.UN_UID], result.become[lib.UN_GID]),
        drop_groups=result.drop_groups,
        native=result,
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
    native.plan = request.plan or ffi.NULL
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


def enter(plan: object | None, namespaces: Iterable[str]) -> None:
    """Move this single-threaded process into new namespaces.

    :raises NamespaceError: they could not be had.
    """
    err = ffi.new("struct un_error *")
    _check(lib.un_enter(plan or ffi.NULL, _flags(namespaces), err), err)


def apply_setup(setup: Setup) -> None:
    """Do inside the namespaces what `setup` says.

    :raises NamespaceError: something of it failed.
    """
    native, err, memory = ffi.new("struct un_setup *"), ffi.new("struct un_error *"), _Memory()
    lib.un_setup_init(native)
    _fill_setup(native, setup, memory)
    _check(lib.un_setup_apply(native, err), err)


def exec_command(command: Command, keep: Sequence[int] | None) -> NoReturn:
    """Replace this program by a command.

    :param keep: the descriptors from 3 on that it gets; ``None``: all that are inheritable.
    :raises CommandError: it could not be started.
    """
    native, err, memory = ffi.new("struct un_command *"), ffi.new("struct un_error *"), _Memory()
    _fill_command(native, command, memory)
    if keep is not None:
        kept = sorted(set(keep))
        _check(lib.un_close_fds(memory.numbers("int[]", kept), len(kept), err), err)
    lib.un_exec(native, err)
    _raise(err)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None
) -> None:
    """mount(2).

    :raises NamespaceError: the kernel refused it.
    """
    err, memory = ffi.new("struct un_error *"), _Memory()
    strings = (memory.string(source), memory.string(target), memory.string(fstype))
    _check(lib.un_mount(*strings, flags, memory.string(data), err), err)


def thread_count() -> int:
    """The number of threads of this process, or -1 where /proc does not tell."""
    return int(lib.un_thread_count())
