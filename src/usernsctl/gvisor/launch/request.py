"""Requests: options of ``usernsctl run``, arguments of SandboxHost, and the environment."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping

from usernsctl._lean import TYPE_CHECKING, Any, Self, dataclass, field, fields
from usernsctl._system.paths import ForeignLinkError, check_path, open_path
from usernsctl.errors import CommandError, RunscError
from usernsctl.gvisor.oci.builder import Rlimit
from usernsctl.gvisor.runsc.command import DEFAULT_PATH, NETWORKS, PLATFORMS
from usernsctl.maps import IdMap, requested

if TYPE_CHECKING:
    from usernsctl.commands.arguments import StrOrBytesPath
    from usernsctl.gvisor.checks import NamedUser
    from usernsctl.namespaces.namespace import Namespace


def one_of(*known: str) -> Callable[[str], str]:
    """Return a parser that accepts only `words`, and raises ValueError for other strings."""

    def parse(text: str) -> str:
        if text not in known:
            *most, last = known
            raise ValueError(f"{text!r} must be {', '.join(most)} or {last}")
        return text

    return parse


def is_one_of(*known: str | None) -> Callable[[str, Any], Any]:
    """Return a check that accepts only these values, and raises ValueError for others."""

    def check(name: str, given: Any) -> Any:
        if given not in known:
            words = ", ".join(filter(None, known))
            raise ValueError(f"{name} must be one of {words}, not {given!r}")
        return given

    return check


def as_bool(name: str, given: Any) -> bool:
    """Return the truth value of an argument."""
    return bool(given)


def as_text(name: str, given: Any) -> Any:
    """Return an argument that is text or None.

    :raises TypeError: `given` has another type.
    """
    if given is not None and not isinstance(given, str):
        raise TypeError(f"{name} must be str, not {given!r}")
    return given


def as_idmap(name: str, given: Any) -> IdMap:
    """Return the map for an argument, which :func:`usernsctl.maps.requested` accepts.

    :raises TypeError: `given` has another type.
    :raises ValueError: `given` is a text that names no map.
    """
    return requested(given, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of ``usernsctl run``.

    :ivar flags: the names of the option, or ``--on/--off`` for a pair.
    :ivar heading: the heading in ``--help``.
    :ivar name: the name of the value in cli/run.py, by default the name of the field.
    :ivar metavar: the placeholder for the value in ``--help``, or ``None`` for a flag.
    :ivar multiple: whether the option may be given several times.
    :ivar parse: a function that parses the value or raises ValueError; ``None`` for text.
    :ivar shows_default: whether ``--help`` has the field's default. If false, the value of an
        omitted option is ``None``, or ``False`` for a flag that is not a pair.
    """

    flags: tuple[str, ...]
    heading: str
    help: str
    name: str | None = None
    metavar: str | None = None
    multiple: bool = False
    parse: Callable[[str], Any] | None = None
    shows_default: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of :class:`usernsctl.SandboxHost`.

    :ivar name: the name of the argument.
    :ivar check: a function of the argument's name and value that returns the value for the field,
        or raises TypeError or ValueError.
    """

    name: str
    check: Callable[[str, Any], Any]


#: Directories of this machine that its programs need, without the machine's data.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")

FILES, PROCESS, ISOLATION, RUNSC = "Files", "The command", "Isolation", "runsc"
LIMITS = "Limits"


def by(*options: Option, argument: Argument | None = None) -> dict[str, Any]:
    """Return the metadata of a field: the options and the argument that set it."""
    return {"options": options, "argument": argument}


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount of a file or directory of this machine.

    :ivar source: the path of the file or directory; a relative path starts at the current
        directory.
    :ivar destination: the mount point inside, an absolute path.
    :ivar read_only: whether the mount is read-only; otherwise writes change the source.
    """

    source: str
    destination: str
    read_only: bool = True

    @classmethod
    def shown(cls, source: str, destination: str = "", *, read_only: bool = True) -> Self:
        """Return a bind mount of `source` at `destination`, by default at the same path."""
        return cls(source, destination or os.path.abspath(source), read_only)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``SRC[:DST][:ro|rw]``, the form of ``--bind``.

        :param text: SRC and DST have no colons; by default DST is SRC, and the mount ``ro``.
        :raises ValueError: `text` has another form.
        """
        source, *more = text.split(":")
        before, comma, listed = more[-1].rpartition(",") if more else ("", "", "")
        if comma and listed in ("ro", "rw"):
            meant = ":".join([source, *more[:-1], *filter(None, (before, listed))])
            raise ValueError(f"{text!r} is not SRC[:DST][:ro|rw]; did you mean {meant!r}?")
        mode = more.pop() if more and more[-1] in ("ro", "rw") else "ro"
        if not source or len(more) > 1:
            raise ValueError(f"{text!r} is not SRC[:DST][:ro|rw]")
        return cls.shown(source, *more, read_only=mode == "ro")


def parse_user(text: str) -> tuple[int, int] | NamedUser:
    """Parse the value of ``--user``: see :func:`usernsctl.gvisor.checks.parse_user`.

    :raises ValueError: `text` has another format.
    """
    # Imported here, since most runs don't have the option.
    from usernsctl.gvisor import checks

    return checks.parse_user(text)


def parse_start_timeout(text: str) -> int:
    """Parse a number of seconds, the value of ``--start-timeout``.

    :raises ValueError: `text` is not a whole number from 0 to a million.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError(f"{text!r} is not a number of seconds from 0 to 1000000")
    return int(text)


def parse_network(text: str) -> str:
    """Parse ``none`` or ``host``, the value of ``--network``.

    :raises RunscError: `text` is ``sandbox``, runsc's own default, which needs root.
    :raises ValueError: `text` is another word.
    """
    if text == "sandbox":
        raise RunscError(
            "--network sandbox needs root: runsc would have to take over a network device of this "
            "machine",
            step="runsc",
            cause="runsc-rootless-netstack",
            remedy="use --network host or --network none",
        )
    return one_of(*NETWORKS)(text)


def binds(name: str, given: Iterable[Bind | StrOrBytesPath]) -> tuple[Bind, ...]:
    """Return the bind mounts of an argument; text is parsed as by ``--bind``.

    :param name: the name of the argument.
    :raises TypeError: `given` is not a sequence of paths, text and Bind.
    :raises ValueError: a text is not ``SRC[:DST][:ro|rw]``, or a source is not a valid path.
    """
    mounts = tuple(_bind(name, element) for element in _iterable(name, given))
    for bind in mounts:
        check_path(f"{name}: SRC", bind.source)
    return mounts


def _bind(name: str, given: Any) -> Bind:
    if isinstance(given, str):
        bind: Bind = _parse(name, Bind.parse, given)
        return bind
    if isinstance(given, Bind):
        source, destination = os.fsdecode(given.source), os.fsdecode(given.destination)
        return Bind(source, destination, given.read_only)
    if isinstance(given, bytes | os.PathLike):
        return Bind.shown(os.fsdecode(given))
    raise TypeError(f"{name} must be a list of paths, SRC[:DST][:ro|rw], or Bind, not {given!r}")


def _parser_of_limit(function: str) -> Callable[[str], Any]:
    """Return a function of :mod:`usernsctl.gvisor.launch.limits`, imported at the first call."""

    def parse(text: str) -> Any:
        from usernsctl.gvisor.launch import limits

        return getattr(limits, function)(text)

    return parse


def _check_of_limit(function: str) -> Callable[[str, Any], Any]:
    def check(name: str, given: Any) -> Any:
        if given is None:
            return None
        from usernsctl.gvisor.launch import limits

        return getattr(limits, function)(name, given)

    return check


def rlimits(name: str, given: Iterable[Rlimit | str]) -> tuple[Rlimit, ...]:
    """Return the resource limits of an argument; text is parsed as by ``--rlimit``.

    :param name: the name of the argument.
    :raises TypeError: `given` is not a sequence of text and Rlimit.
    :raises ValueError: a text is not ``NAME=SOFT[:HARD]``.
    """
    limits = []
    for limit in _iterable(name, given):
        if not isinstance(limit, str | Rlimit):
            raise TypeError(f"{name} must be a list of NAME=SOFT[:HARD], or Rlimit, not {limit!r}")
        limits.append(_parse(name, Rlimit.parse, limit) if isinstance(limit, str) else limit)
    return tuple(limits)


def _iterable(name: str, given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, not {given!r}")
    return given


def _parse(name: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _namespace(name: str, given: Any) -> Any:
    from usernsctl.namespaces.namespace import Namespace

    if given is not None and not isinstance(given, str | Namespace):
        raise TypeError(f"{name} must be a Namespace, or the name of one, not {given!r}")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A command and its sandbox, for :func:`usernsctl.gvisor.launch.perform.run_in_place`.

    The root filesystem is one of four: this machine's programs without its data (the default),
    all files of this machine (`expose_root`), a directory (`rootfs`), or that of an OCI bundle
    (`bundle`), whose config.json supplies the values that this request leaves out.

    :ivar args: the command and its arguments; empty for the command of a bundle.
    :ivar trust_bundle: whether the bundle may mount any file of this machine, and set annotations.
    :ivar allow_hooks: whether runsc may run the bundle's hooks, OUTSIDE gVisor: on this machine's
        kernel, as the caller.
    :ivar env: the complete environment; with a bundle, variables in addition to the bundle's.
    :ivar cwd: the working directory of the command, or ``None`` for the current directory if it
        exists inside, else ``/``.
    :ivar user: the uid and gid inside, or names that :func:`inspect` replaces by numbers, or
        ``None`` for 0 and 0.
    :ivar groups: the supplementary groups of the command.
    :ivar virtual_env: the active virtual environment of the caller, to be shown to a command in it.
    :ivar terminal: whether the command gets a pseudo-terminal.
    :ivar reraise_signal: whether the watcher kills itself by the signal that killed the command, in
        place of the exit status 128+N; process 1 of a container always exits with the status.
    :ivar log: ``"json"`` if the watcher prints its messages in JSON.
    :ivar idmap: the id map of a new user namespace.
    :ivar kept: the name of a namespace to run in, or for sandboxes of a host the Namespace itself;
        ``None`` for a new namespace.
    :ivar verify: whether to check that the kernel is gVisor's before the command starts.
    :ivar no_new_privs: whether to set no_new_privs for runsc and its children.
    :ivar drop_bounding: whether to drop the capabilities that runsc does not need.
    :ivar memory: the memory limit of the sandbox, in bytes.
    :ivar pids: the limit of processes and threads.
    :ivar cpus: the limit of processors.
    :ivar disk: the limit of the writes to each filesystem in memory, in bytes.
    :ivar timeout: the time limit of the run, in seconds.
    :ivar limits: ``"strict"`` if a limit that can't be enforced is an error, else
        ``"best-effort"``.
    :ivar program: the path of runsc, or ``None`` to search for it.
    :ivar start_timeout: the time limit of the sandbox's start, in seconds; 0 for none, ``None`` for
        the watcher's default.
    :ivar state: a directory for runsc's state, which other runsc commands can use, or ``None`` for
        a private directory that is gone after the run.
    """

    args: tuple[str, ...] = ()
    binds: tuple[Bind, ...] = field(
        metadata=by(
            Option(
                flags=("--bind",),
                heading=FILES,
                multiple=True,
                parse=Bind.parse,
                metavar="SRC[:DST][:ro|rw]",
                help="Mount a file or directory of this machine inside, at DST (by default at "
                "SRC), read-only. With rw, CMD can also write, which changes the files of this "
                "machine.",
            ),
            argument=Argument("binds", binds),
        ),
        default=(),
    )
    rootfs: str | None = field(
        metadata=by(
            Option(
                flags=("--rootfs",),
                heading=FILES,
                metavar="DIR",
                help="Use DIR as the root filesystem, such as an unpacked image. Writes stay in "
                "memory.",
            ),
            argument=Argument("rootfs", check_path),
        ),
        default=None,
    )
    bundle: str | None = field(
        metadata=by(
            Option(
                flags=("--bundle",),
                heading=FILES,
                metavar="DIR",
                help="Run an OCI bundle. usernsctl adds missing settings to its config.json, in "
                "memory. Options and CMD replace settings of the file.",
            ),
            argument=Argument("bundle", check_path),
        ),
        default=None,
    )
    trust_bundle: bool = field(
        metadata=by(
            Option(
                flags=("--trust-bundle",),
                heading=FILES,
                help="Allow all bind mounts, annotations and capabilities of the bundle. Without "
                "this option, the bundle is untrusted, and may use only its own files.",
            ),
            argument=Argument("trust", as_bool),
        ),
        default=False,
    )
    allow_hooks: bool = field(
        metadata=by(
            Option(
                flags=("--allow-hooks",),
                heading=FILES,
                help="Run the bundle's hooks: programs of its choice that run OUTSIDE gVisor, on "
                "this machine's kernel, as you.",
            ),
            argument=Argument("allow_hooks", as_bool),
        ),
        default=False,
    )
    writable_root: bool = field(
        metadata=by(
            Option(
                flags=("--writable-root",),
                heading=FILES,
                help="Let root inside write to all files of the root filesystem, such as /etc and "
                "/usr, whoever owns them. Writes stay in memory.",
            ),
            argument=Argument("writable_root", as_bool),
        ),
        default=False,
    )
    expose_root: bool = field(
        metadata=by(
            Option(
                flags=("--expose-root",),
                heading=FILES,
                help="SHOW ALL FILES that you can read, your home and your secrets included: "
                "all of / except for /proc, /sys, /dev and /tmp.",
            ),
            argument=Argument("expose_root", as_bool),
        ),
        default=False,
    )
    env: Mapping[str, str] = field(
        metadata=by(
            Option(
                flags=("--env",),
                name="settings",
                heading=PROCESS,
                multiple=True,
                metavar="NAME[=VALUE]",
                help="Set a variable. Without VALUE, CMD gets the value that the variable has "
                "here.",
            ),
            Option(
                flags=("--env-file",),
                name="env_files",
                heading=PROCESS,
                multiple=True,
                metavar="FILE",
                help="Read variables from FILE: one NAME or NAME=VALUE on each line.",
            ),
            Option(
                flags=("--env-all",),
                name="env_all",
                heading=PROCESS,
                help="Pass on all variables, secrets included.",
            ),
        ),
        default_factory=dict,
    )
    cwd: str | None = field(
        metadata=by(
            Option(
                flags=("--wd", "--cwd"),
                heading=PROCESS,
                metavar="DIR",
                help="Start in DIR. By default: in the current directory if it exists inside, "
                "else in /.",
            ),
        ),
        default=None,
    )
    user: tuple[int, int] | NamedUser | None = field(
        metadata=by(
            Option(
                flags=("--user",),
                heading=PROCESS,
                parse=parse_user,
                metavar="USER[:GROUP]",
                help="Run as this user inside: numbers, or names in /etc/passwd and /etc/group of "
                "the root filesystem. 0:0 by default.",
            ),
        ),
        default=None,
    )
    groups: tuple[int, ...] = ()
    virtual_env: str | None = None
    hostname: str | None = field(
        metadata=by(
            Option(
                flags=("--hostname",),
                heading=PROCESS,
                metavar="NAME",
                help="Set the hostname inside.",
            ),
            argument=Argument("hostname", as_text),
        ),
        default=None,
    )
    terminal: bool = field(
        metadata=by(
            Option(
                flags=("--terminal/--no-terminal",),
                heading=PROCESS,
                help="Give CMD a terminal of its own. By default it gets one if standard "
                "input, output and error are a terminal.",
            ),
        ),
        default=False,
    )
    reraise_signal: bool = field(
        metadata=by(
            Option(
                flags=("--reraise-signal",),
                heading=PROCESS,
                help="If a signal kills CMD, end by the same signal in place of exiting with "
                "128+N. Process 1 of a container always exits with 128+N.",
            ),
        ),
        default=False,
    )
    log: str | None = field(
        metadata=by(
            Option(
                flags=("--log",),
                heading=PROCESS,
                metavar="text|json",
                parse=one_of("text", "json"),
                help="The format of messages of usernsctl on standard error: text, or one JSON "
                "object in a line for each. [default: text]",
            ),
        ),
        default=None,
    )
    rlimits: tuple[Rlimit, ...] = field(
        metadata=by(
            Option(
                flags=("--rlimit",),
                heading=PROCESS,
                multiple=True,
                parse=Rlimit.parse,
                metavar="NAME=SOFT[:HARD]",
                help="Set a resource limit, such as nofile=1024; setrlimit(2) has the names and "
                "units.",
            ),
            argument=Argument("rlimits", rlimits),
        ),
        default=(),
    )
    memory: int | None = field(
        metadata=by(
            Option(
                flags=("--memory",),
                heading=LIMITS,
                parse=_parser_of_limit("parse_size"),
                metavar="SIZE",
                help="End the sandbox if it uses more memory than SIZE, such as 512M. gVisor's own "
                "memory, and files in memory, count. CMD sees SIZE as the machine's memory.",
            ),
            argument=Argument("memory", _check_of_limit("check_size")),
        ),
        default=None,
    )
    pids: int | None = field(
        metadata=by(
            Option(
                flags=("--pids",),
                heading=LIMITS,
                parse=_parser_of_limit("parse_count"),
                metavar="N",
                help="End the sandbox if it has N processes and threads of this machine. gVisor "
                "alone has about 20, and each process inside one or two.",
            ),
            argument=Argument("pids", _check_of_limit("check_count")),
        ),
        default=None,
    )
    cpus: float | None = field(
        metadata=by(
            Option(
                flags=("--cpus",),
                heading=LIMITS,
                parse=_parser_of_limit("parse_cpus"),
                metavar="N",
                help="Use at most N processors.",
            ),
            argument=Argument("cpus", _check_of_limit("check_cpus")),
        ),
        default=None,
    )
    disk: int | None = field(
        metadata=by(
            Option(
                flags=("--disk",),
                heading=LIMITS,
                parse=_parser_of_limit("parse_size"),
                metavar="SIZE",
                help="Let CMD write at most SIZE to the root filesystem, and SIZE to /tmp. More "
                "fails with ENOSPC.",
            ),
            argument=Argument("disk", _check_of_limit("check_size")),
        ),
        default=None,
    )
    timeout: float | None = field(
        metadata=by(
            Option(
                flags=("--timeout",),
                heading=LIMITS,
                parse=_parser_of_limit("parse_duration"),
                metavar="TIME",
                help="End the sandbox after TIME, such as 30s or 2m, with exit status 124.",
            ),
            argument=Argument("ttl", _check_of_limit("check_duration")),
        ),
        default=None,
    )
    limits: str = field(
        metadata=by(
            Option(
                flags=("--limits",),
                heading=LIMITS,
                shows_default=True,
                parse=one_of("strict", "best-effort"),
                metavar="strict|best-effort",
                help="If a limit can't be enforced here: fail (strict), or start CMD without it.",
            ),
            argument=Argument("limits", is_one_of("strict", "best-effort")),
        ),
        default="strict",
    )
    network: str = field(
        metadata=by(
            Option(
                flags=("--network",),
                heading=ISOLATION,
                shows_default=True,
                parse=parse_network,
                metavar="none|host",
                help="Use only a loopback device (none), or this machine's network (host).",
            ),
            argument=Argument("network", is_one_of(*NETWORKS)),
        ),
        default="none",
    )
    idmap: IdMap = field(
        metadata=by(
            Option(
                flags=("--map-users",),
                name="map_users",
                heading=ISOLATION,
                multiple=True,
                metavar="INNER:OUTER:COUNT",
                help="Map more uids than your own, which is 0 inside.",
            ),
            Option(
                flags=("--map-groups",),
                name="map_groups",
                heading=ISOLATION,
                multiple=True,
                metavar="INNER:OUTER:COUNT",
                help="Map more gids than your own, which is 0 inside.",
            ),
            Option(
                flags=("--map-auto",),
                name="map_auto",
                heading=ISOLATION,
                help="Map all your subordinate ids, from 1 on.",
            ),
            Option(
                flags=("--allow-single-id",),
                name="allow_single_id",
                heading=ISOLATION,
                help="If these ids can't be mapped, map only your own ids.",
            ),
            argument=Argument("idmap", as_idmap),
        ),
        default_factory=IdMap.root,
    )
    kept: str | Namespace | None = field(
        metadata=by(
            Option(
                flags=("--in",),
                heading=ISOLATION,
                metavar="NAME",
                help="Run in the namespace NAME (usernsctl ns create NAME), with its ids.",
            ),
            argument=Argument("namespace", _namespace),
        ),
        default=None,
    )
    verify: bool = field(
        metadata=by(
            Option(
                flags=("--verify/--no-verify",),
                heading=ISOLATION,
                shows_default=True,
                help="Check that the kernel is gVisor's before CMD starts.",
            ),
            argument=Argument("verify", as_bool),
        ),
        default=True,
    )
    no_new_privs: bool = field(
        metadata=by(
            Option(
                flags=("--no-new-privs/--new-privs",),
                heading=ISOLATION,
                shows_default=True,
                help="Set no_new_privs for runsc, and for CMD inside: set-user-id programs gain no "
                "privileges.",
            ),
            argument=Argument("no_new_privs", as_bool),
        ),
        default=True,
    )
    drop_bounding: bool = field(
        metadata=by(
            Option(
                flags=("--drop-bounding/--keep-bounding",),
                heading=ISOLATION,
                shows_default=True,
                help="Drop the capabilities of runsc in its namespace that it does not need.",
            ),
            argument=Argument("drop_bounding", as_bool),
        ),
        default=True,
    )
    program: str | None = field(
        metadata=by(
            Option(
                flags=("--runsc",),
                heading=RUNSC,
                metavar="FILE",
                help="Run FILE, an absolute path, as runsc. By default: the program in "
                "$USERNSCTL_RUNSC or $RUNSC_PATH, else the first runsc in PATH.",
            ),
            argument=Argument("runsc", check_path),
        ),
        default=None,
    )
    state: str | None = field(
        metadata=by(
            Option(
                flags=("--root",),
                heading=RUNSC,
                metavar="DIR",
                help="Keep runsc's state in DIR, for other runsc commands during the run.",
            ),
        ),
        default=None,
    )
    platform: str | None = field(
        metadata=by(
            Option(
                flags=("--platform",),
                heading=RUNSC,
                parse=one_of(*PLATFORMS),
                metavar="systrap|ptrace|kvm",
                help="The method by which gVisor intercepts system calls; systrap by default.",
            ),
            argument=Argument("platform", is_one_of(None, *PLATFORMS)),
        ),
        default=None,
    )
    start_timeout: int | None = field(
        metadata=by(
            Option(
                flags=("--start-timeout",),
                heading=RUNSC,
                parse=parse_start_timeout,
                metavar="SECONDS",
                help="Give up if the sandbox has not started after SECONDS, 120 by default; 0: "
                "never.",
            ),
        ),
        default=None,
    )
    debug_log: str | None = field(
        metadata=by(
            Option(
                flags=("--debug-log",),
                heading=RUNSC,
                metavar="DIR",
                help="Write runsc's debug logs to DIR.",
            ),
            argument=Argument("debug_log", check_path),
        ),
        default=None,
    )

    @property
    def has_limits(self) -> bool:
        """Return whether the request has a limit of the whole sandbox."""
        limits = (self.memory, self.pids, self.cpus, self.disk, self.timeout)
        return any(limit is not None for limit in limits)

    @classmethod
    def _arguments(cls) -> dict[str, tuple[str, Callable[[str, Any], Any]]]:
        """Return the field and the check for each argument of SandboxHost."""
        return {
            argument.name: (field.name, argument.check)
            for field in fields(cls)
            if (argument := field.metadata.get("argument")) is not None
        }

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of fields for arguments of SandboxHost.

        :raises TypeError: an argument has the wrong type.
        :raises ValueError: an argument has an invalid value.
        """
        known = cls._arguments()
        return {known[name][0]: known[name][1](name, value) for name, value in options.items()}

    @classmethod
    def for_host(cls, options: Mapping[str, Any]) -> Self:
        """Return the request that all sandboxes of a host share.

        :param options: arguments of :class:`usernsctl.SandboxHost`.
        :raises TypeError: an argument is unknown, or has the wrong type.
        :raises ValueError: an argument has an invalid value, or two arguments exclude each other.
        """
        from usernsctl.commands.arguments import check_keywords

        check_keywords("SandboxHost", options, cls._arguments())
        values = cls.checked(options)
        roots = [name for name in ("bundle", "rootfs", "expose_root") if values.get(name)]
        if len(roots) > 1:
            raise ValueError(f"{' and '.join(roots)} exclude each other")
        if values.get("bundle") is None and (
            values.get("trust_bundle") or values.get("allow_hooks")
        ):
            raise ValueError("trust and allow_hooks need a bundle")
        if values.get("kept") is not None and options.get("idmap") is not None:
            raise ValueError("namespace and idmap exclude each other: a namespace has its own map")
        return cls(**values)


PASSED_ON = ("PATH", "LANG", "TERM")

# Maximum size of an --env-file, well above the environment of any command: devices may be endless.
_FILE_BYTES_MAX = 8 << 20

# Names that errors may quote: other text before a = may be a part of a secret value.
_PLAIN_NAME = "[A-Z_][A-Z0-9_]{0,39}"


def base_environment(caller: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """Return the command's variables that no option sets.

    :param caller: the environment of the caller.
    :param everything: whether the command gets all variables of the caller, secrets included.
    """
    if everything:
        return dict(caller)
    inherited = {name: caller[name] for name in PASSED_ON if name in caller}
    inherited.setdefault("PATH", DEFAULT_PATH)
    return inherited


def home(uid: int) -> str:
    """Return the default HOME of a uid inside."""
    return "/root" if uid == 0 else "/"


def read_settings(settings: Iterable[str], caller: Mapping[str, str]) -> dict[str, str]:
    """Parse the values of ``--env``: ``NAME=VALUE``, or ``NAME`` for the caller's value.

    :raises CommandError: a setting is malformed, or a variable of the caller is not set.
    """
    return dict(_value(text, where, caller) for text, where in _options(settings))


def read_file(path: str, caller: Mapping[str, str]) -> dict[str, str]:
    """Parse an ``--env-file``, which has a setting on each line.

    Empty lines and lines that begin with # are skipped. Quotes are part of a value.

    :raises CommandError: the file can't be read, a line is malformed, or a variable of the caller
        is not set.
    """
    return dict(_value(text, where, caller) for text, where in _lines(path))


def names_in(settings: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the variables in the values of ``--env``; a value of None stands for the caller's.

    :raises CommandError: a setting is malformed.
    """
    return [_name_and_value(text, where) for text, where in _options(settings)]


def names_in_file(path: str) -> list[tuple[str, str | None]]:
    """Return the variables in an ``--env-file``; a value of None stands for the caller's.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return [_name_and_value(text, where) for text, where in _lines(path)]


def _options(settings: Iterable[str]) -> list[tuple[str, str]]:
    """Return each value of ``--env`` with its location for errors."""
    return [(text, f"--env, number {number}") for number, text in enumerate(settings, 1)]


def _lines(path: str) -> list[tuple[str, str]]:
    """Return each setting in an ``--env-file`` with its location for errors."""
    content = _content(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # Don't chain the UnicodeDecodeError, which has the whole text, secrets included.
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(f"--env-file {path}, line {line}: a byte that is not UTF-8", path) from None
    settings = []
    for number, setting in enumerate(text.split("\n"), 1):
        where = f"--env-file {path}, line {number}"
        if "\0" in setting:
            raise _error(f"{where}: a NUL character, which no variable can have", path)
        if setting.strip() and not setting.startswith("#"):
            settings.append((setting.removesuffix("\r"), where))
    return settings


def _content(path: str) -> bytes:
    """Read an ``--env-file``.

    :raises CommandError: the file can't be read, or is too long.
    """
    try:
        content = _read_settings_file(path)
    except OSError as error:
        failed = _error(f"--env-file {path}: {error.strerror}", path)
        if isinstance(error, ForeignLinkError):
            failed.explain(cause=error.cause, remedy=error.remedy)
        raise failed from error
    if len(content) > _FILE_BYTES_MAX:
        raise _error(f"--env-file {path} is longer than {_FILE_BYTES_MAX} bytes", path)
    return content


def _read_settings_file(path: str) -> bytes:
    """Read at most _FILE_BYTES_MAX + 1 bytes of a file.

    :raises OSError: the file can't be read, or is a FIFO.
    """
    with open_path(path) as found:
        # Opening a FIFO without a writer blocks. The shell's <(COMMAND) is a pipe without a path,
        # and open already.
        if stat.S_ISFIFO(found.status.st_mode) and found.path.startswith("/"):
            raise OSError(errno.EINVAL, "a FIFO; give a regular file, or in a shell <(COMMAND)")
        with open(found.open(), "rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)


def _setting(text: str, where: str) -> tuple[str, str | None]:
    """Split a setting into its name, and its value or None."""
    name, equals, value = text.partition("=")
    # Don't quote malformed text: it may be a part of a value, such as the second line of a key.
    if not name:
        raise _error(f"{where}: the name before the = is missing; write NAME=VALUE or NAME")
    if name != name.strip():
        raise _error(f"{where}: the name has a space beside it; write NAME=VALUE or NAME")
    return name, value if equals else None


def _name_and_value(text: str, where: str) -> tuple[str, str | None]:
    name, value = _setting(text, where)
    if value is None:
        _refuse_colon(name, where)
    return name, value


def _value(text: str, where: str, caller: Mapping[str, str]) -> tuple[str, str]:
    name, value = _setting(text, where)
    if value is None and name not in caller:
        import re

        _refuse_colon(name, where)
        subject = name if re.fullmatch(_PLAIN_NAME, name) else "the variable"
        raise _error(f"{where}: {subject} is not set; give it a value: NAME=VALUE")
    return name, caller[name] if value is None else value


def _refuse_colon(name: str, where: str) -> None:
    import re

    head, colon, _ = name.partition(":")
    if colon and re.fullmatch(_PLAIN_NAME, head):
        raise _error(f"{where}: {head} is followed by a colon in place of =; write {head}=VALUE")


def _error(reason: str, path: str | None = None) -> CommandError:
    return CommandError(reason, step="environment", filename=path)
