"""Argument and result types of the C core's functions, and exceptions for their failures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from usernsctl._lean import Any, NoReturn, dataclass, field
from usernsctl._native import ffi, lib
from usernsctl.errors import (
    BindError,
    BundleError,
    CommandError,
    MapError,
    NamespaceError,
    PlanError,
    RunscError,
    UsernsError,
    UserUnknownError,
)


class Descriptor:
    """The owner of a descriptor. The descriptor is closed when this object is freed.

    The finaliser is a C function: an exception that a signal handler raises could interrupt a
    finaliser written in Python before the descriptor is closed.
    """

    __slots__ = ("cdata",)

    def __init__(self, number: int = -1) -> None:
        """Take ownership of a descriptor; -1 stands for no descriptor."""
        self.cdata: Any = ffi.gc(ffi.new("int *", number), lib.un_close_fd)

    @property
    def number(self) -> int:
        """The number of the descriptor; -1 if this object owns no descriptor."""
        number: int = self.cdata[0]
        return number

    def open(self, make: Callable[..., int], *arguments: Any) -> None:
        """Call a C function, and take ownership of the descriptor that the function returns.

        map() calls the function and stores the descriptor in C code. Python runs no signal handler
        between the two steps, so an exception of a handler can't leak the descriptor.

        :raises OSError: the function failed.
        """
        deque(map(self.cdata.__setitem__, (0,), map(make, *zip(arguments))), 0)

    def detach(self) -> int:
        """Return the descriptor, which the caller must now close."""
        number: int = self.cdata[0]
        self.cdata[0] = -1
        return number

    def move(self) -> Descriptor:
        """Move the descriptor to a new owner, and return the new owner."""
        moved = Descriptor()
        moved.cdata[0], self.cdata[0] = self.cdata[0], -1
        return moved

    def close(self) -> None:
        """Close the descriptor. A second call does nothing, even in another thread."""
        lib.un_close_fd(self.cdata)


class Memory:
    """Owner of memory to which C structs point. cffi frees the memory with this object."""

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


ExtentTuple = tuple[int, int, int]

#: The names that options and arguments use for the kinds of namespaces, except "user".
NAMESPACES = ("mount", "net", "pid", "ipc", "uts", "cgroup", "time")

#: The names of all kinds of namespaces, in the order of enum un_ns.
ALL_NAMESPACES = ("user", *NAMESPACES)

#: The file names of all kinds of namespaces in /proc/PID/ns, in the order of ALL_NAMESPACES.
NAMESPACE_FILES = ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup", "time")


#: The default timeout for starting a command, in seconds.
START_SECONDS: float = lib.UN_START_TIMEOUT_MS / 1000

#: Maximum size of /etc/passwd and of /etc/group in a sandbox, in bytes.
ACCOUNT_FILE_MAX: int = lib.UN_ACCOUNT_FILE_MAX

#: Maximum number of supplementary groups (NGROUPS_MAX).
GROUPS_MAX: int = lib.UN_GROUPS_MAX

#: Maximum RLIMIT_NOFILE of each process of a sandbox on the host.
SANDBOX_FILES_MAX: int = lib.UN_SANDBOX_FILES_MAX


@dataclass(frozen=True, slots=True)
class Cause:
    """The catalogue's explanation and remedy for a cause of failures."""

    why: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDescription:
    """The content of the plan of an id map; see struct un_plan."""

    uid: tuple[ExtentTuple, ...]
    gid: tuple[ExtentTuple, ...]
    uid_writer: str
    gid_writer: str
    uid_reason: str
    gid_reason: str
    setgroups: str
    become: tuple[int, int]
    drop_groups: bool
    clipped_uid: tuple[tuple[int, int], ...]
    clipped_gid: tuple[tuple[int, int], ...]
    notices: tuple[str, ...]
    single_id_reason: str | None


@dataclass(kw_only=True, slots=True)
class Setup:
    """The settings to apply inside the namespaces before a command starts; see struct un_setup."""

    own_stdio: bool = False
    propagation: int = 0
    mount_proc: str | None = None
    root: str | None = None
    cwd: bytes | None = None
    drop_bounding: int = 0
    no_new_privs: bool = False
    no_membarrier: bool = False
    groups: Sequence[int] | None = None
    gid: int | None = None
    uid: int | None = None
    keep_caps: bool = False
    pdeathsig: int = 0


@dataclass(kw_only=True, slots=True)
class Command:
    """A command to execute; see struct un_command."""

    file: bytes
    argv: Sequence[bytes]
    env: Mapping[bytes, bytes]


@dataclass(kw_only=True, slots=True)
class Spawn:
    """The request to start a command in a child; see struct un_spawn.

    :ivar start_timeout: the timeout, in seconds, for the child to execute the command; ``None`` for
        no timeout.
    :ivar pidfd: the pidfd of the child once the command has started. The caller closes the pidfd.
    """

    command: Command
    plan: object | None = None
    join: Sequence[int] | None = None
    namespaces: Iterable[str] = ()
    has_init: bool = False
    cgroup: int = -1
    setup: Setup = field(default_factory=Setup)
    stdio: Sequence[int] = (-1, -1, -1)
    close_fds: bool = True
    keep: Sequence[int] = ()
    restore_signals: bool = True
    new_session: bool = False
    process_group: int = -1
    umask: int = -1
    start_timeout: float | None = START_SECONDS
    pidfd: int = -1


@dataclass(frozen=True, slots=True)
class IdRequest:
    """A request to map uids or gids; see struct un_id_request."""

    own: int | None
    more: Iterable[Iterable[int]]
    fill: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """The last existing file on a path in a sandbox; see struct un_reached.

    :ivar file: the descriptor of the file; -1 if the path can't be resolved (then `errnum` is the
        reason), or if the file exists only in gVisor.
    :ivar missing: the last components of the path, from the first that does not exist.
    """

    file: Descriptor
    errnum: int
    is_certain: bool
    is_of_gvisor: bool
    is_implicit: bool
    inside: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFault:
    """The reason why a sandbox can't start a command; see struct un_command_fault."""

    is_missing: bool
    errnum: int
    path: str
    reason: str
    remedy: str
    interpreter: str


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_DIRECTORY = os.path.join(_PACKAGE, "_bin")
_REMEDY = "pip install --force-reinstall usernsctl"


class ExitedChild:
    """A child process that has exited but has not been reaped."""

    def __init__(self) -> None:
        self._usage = ffi.new("struct un_usage *")

    def reap(self, pidfd: int) -> tuple[float, float, int] | None:
        """Reap the child, which has exited already; return its resource usage.

        One C function reaps the child and returns its usage, so an exception of a signal handler
        can't leave a zombie.

        :returns: the CPU time of the child and its reaped descendants in user mode and in kernel
            mode, in seconds, and the peak memory use of the largest of these processes, in KiB;
            ``None`` if another thread has reaped the child.
        """
        if lib.un_reap_exited(pidfd, self._usage):
            return None
        return self._usage.user_us / 1e6, self._usage.system_us / 1e6, self._usage.max_kib


def program_path(name: str) -> str:
    """Return the path of a native program of this package, even if the program is missing."""
    return os.path.join(_DIRECTORY, name)


def missing_program(name: str, purpose: str) -> CommandError:
    """Return the exception for a missing native program of this package.

    :param purpose: what the program does, as a predicate such as ``"starts commands in
        sandboxes"``.
    """
    path = program_path(name)
    return CommandError(
        f"{path}, which {purpose}, is missing: the installation of usernsctl is incomplete",
        step="exec",
        filename=path,
        remedy=_REMEDY,
    )


def find_program(name: str, purpose: str) -> str:
    """Return the path of a native program of this package.

    :param purpose: see :func:`missing_program`.
    :raises CommandError: the program is missing, or can't be executed.
    """
    path = program_path(name)
    if not os.access(path, os.X_OK):
        raise missing_program(name, purpose)
    return path


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
    lib.UN_STEP_HOME: CommandError,
    lib.UN_STEP_BIND: BindError,
    lib.UN_STEP_ROOTFS: BindError,
    lib.UN_STEP_CONFIG: BundleError,
    lib.UN_STEP_RUNSC: RunscError,
    lib.UN_STEP_NETWORK: RunscError,
    lib.UN_STEP_USER: UserUnknownError,
}
_PATH_STEPS = (
    lib.UN_STEP_CGROUP,
    lib.UN_STEP_CWD,
    lib.UN_STEP_ROOT,
    lib.UN_STEP_LOOKUP,
    lib.UN_STEP_EXEC,
)


def text_of(pointer: Any) -> str:
    return os.fsdecode(ffi.string(pointer))


_COMMAND_STEPS = {
    text_of(lib.un_step_name(step)): step
    for step in (lib.UN_STEP_CWD, lib.UN_STEP_LOOKUP, lib.UN_STEP_EXEC)
}


def cause(cause_id: str | None) -> Cause | None:
    """Return the cause with this id, or ``None`` if the catalogue has no such id."""
    found = ffi.new("struct un_cause *")
    if not cause_id or not lib.un_cause_find(os.fsencode(cause_id), found):
        return None
    return Cause(text_of(found.why), text_of(found.remedy))


def _family(err: Any) -> type[UsernsError]:
    if err.step == lib.UN_STEP_ARGUMENT:
        return MapError if err.cause else NamespaceError
    return _FAMILY.get(err.step, NamespaceError).kind_for(err.errnum)


def error_of(
    err: Any,
    *,
    filename: str | None = None,
    reason: str | None = None,
    remedy: str | None = None,
    is_diagnosed: bool = False,
) -> UsernsError:
    """Return the exception for a struct un_error.

    :param filename: the path that the failure is about, if it is known.
    :param reason: the message; by default composed of the error's detail and errno.
    :param remedy: the remedy; by default the catalogue's remedy for the cause.
    :param is_diagnosed: whether the process that failed has already determined the cause.
    """
    if not is_diagnosed:
        lib.un_diagnose(err, b"/proc")
    cause_id = text_of(err.cause) if err.cause else None
    known = cause(cause_id)
    if filename is None and err.step in _PATH_STEPS:
        filename = text_of(err.detail)
    return _family(err)(
        reason or reason_of(err),
        step=text_of(lib.un_step_name(err.step)),
        errno=err.errnum,
        filename=filename,
        cause=cause_id,
        remedy=remedy or text_of(err.remedy) or (known.remedy if known else None),
    )


def command_error(
    step: str, number: int, path: str, *, reason: str | None = None, remedy: str | None = None
) -> UsernsError:
    """Return the exception for a command that another program, such as an agent, failed to start.

    :param step: ``"chdir"``, ``"lookup"`` or ``"exec"``.
    :param number: the errno of the failed step.
    :param path: the path of the command or of its working directory.
    :param reason: the message; by default composed of the path and the errno's text.
    :param remedy: the remedy; by default the catalogue's remedy for the cause.
    """
    err = ffi.new("struct un_error *", {"step": _COMMAND_STEPS[step], "errnum": number})
    err.detail = os.fsencode(path)[: lib.UN_DETAIL_MAX - 1]
    return error_of(err, filename=path, reason=reason, remedy=remedy)


def raise_error(err: Any) -> NoReturn:
    raise error_of(err)


def check(result: int, err: Any) -> None:
    if result:
        raise_error(err)


def reason_of(err: Any) -> str:
    reason = ffi.new("char[]", lib.UN_DETAIL_MAX + 128)
    return text_of(lib.un_error_reason(err, reason, len(reason)))
