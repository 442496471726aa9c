"""What goes into the C core and what comes out of it, as Python's own types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from usernsctl._native import lib
from usernsctl._records import dataclass, field

ExtentTuple = tuple[int, int, int]

#: The namespaces beside the user namespace, by the names that options and arguments have.
NAMESPACES = ("mount", "net", "pid", "ipc", "uts", "cgroup", "time")

#: All namespaces, in the order of the core.
ALL_NAMESPACES = ("user", *NAMESPACES)

#: Their files in /proc/PID/ns, in the same order.
NAMESPACE_FILES = ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup", "time")


#: How long the start of a command may take by default, in seconds.
START_SECONDS: float = lib.UN_START_TIMEOUT_MS / 1000


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something fails, and what mends it."""

    why: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanDescription:
    """What a plan says; see struct un_plan."""

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
    """What is done inside the namespaces before a command starts; see struct un_setup."""

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
    """A command; see struct un_command."""

    file: bytes
    argv: Sequence[bytes]
    env: Mapping[bytes, bytes]


@dataclass(kw_only=True, slots=True)
class Spawn:
    """How a command is started in a child; see struct un_spawn.

    :ivar start_timeout: how long the child may take to execute the command, in seconds; ``None``:
        for ever.
    :ivar pidfd: of the child, once there is one for the caller to care for.
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
    """What is to be mapped of one kind of ids; see struct un_id_request."""

    own: int | None
    more: Iterable[Iterable[int]]
    fill: str
