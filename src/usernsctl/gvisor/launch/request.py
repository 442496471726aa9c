"""What is asked for: options of ``usernsctl run``, arguments of Python, and the environment."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping

from usernsctl._lean import TYPE_CHECKING, Any, Self, dataclass, field, fields
from usernsctl._system.paths import ForeignLinkError, open_path
from usernsctl.errors import CommandError, RunscError
from usernsctl.gvisor import checks
from usernsctl.gvisor.oci.builder import Rlimit
from usernsctl.gvisor.runsc.command import DEFAULT_PATH, NETWORKS, PLATFORMS
from usernsctl.maps import IdMap, requested

if TYPE_CHECKING:
    from usernsctl.commands.arguments import StrOrBytesPath
    from usernsctl.namespaces.namespace import Namespace


def one_of(*known: str) -> Callable[[str], str]:
    """Make a function that takes one of these words, and raises ValueError for all others."""

    def parse(text: str) -> str:
        if text not in known:
            *most, last = known
            raise ValueError(f"{text!r} must be {', '.join(most)} or {last}")
        return text

    return parse


def is_one_of(*known: str | None) -> Callable[[str, Any], Any]:
    """Make a function that takes an argument which is one of these, and raises ValueError else."""

    def check(name: str, given: Any) -> Any:
        if given not in known:
            words = ", ".join(filter(None, known))
            raise ValueError(f"{name} must be one of {words}, not {given!r}")
        return given

    return check


def as_bool(name: str, given: Any) -> bool:
    """Take anything, for whether it is true."""
    return bool(given)


def as_text(name: str, given: Any) -> Any:
    """Take text, or ``None``.

    :raises TypeError: it is something else.
    """
    if given is not None:
        checks.instance(name, given, str)
    return given


def as_idmap(name: str, given: Any) -> IdMap:
    """Take what stands for a map: see :func:`usernsctl.maps.requested`.

    :raises TypeError: it is something else.
    :raises ValueError: likewise.
    """
    return requested(given, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of ``usernsctl run``.

    :ivar flags: its names, or ``--on/--off`` for a pair.
    :ivar heading: what ``--help`` lists it under.
    :ivar name: what it is known by in cli/run.py; by default the field that it is of.
    :ivar metavar: what stands for its value; ``None`` if it has none.
    :ivar multiple: whether it may be given several times.
    :ivar parse: reads the value, and raises ValueError; by default it stays text.
    :ivar shows_default: whether ``--help`` says the field's default. If not, an option that is left
        out is ``None``, or ``False`` if it takes no value and is no pair.
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

    :ivar name: what it is called there.
    :ivar check: makes of its name and value what the field holds; raises TypeError or ValueError.
    """

    name: str
    check: Callable[[str, Any], Any]


FILES, PROCESS, ISOLATION, RUNSC = "Files", "The command", "Isolation", "runsc"


def by(*options: Option, argument: Argument | None = None) -> dict[str, Any]:
    """The metadata of a field: the options and the argument that it is given by."""
    return {"options": options, "argument": argument}


_ID_MAX = 2**32 - 2  # the last one, 2**32 - 1, stands for "no change" (setresuid(2))
_UNLIMITED = 2**64 - 1  # RLIM_INFINITY, as config.json has it


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


def parse_rlimit(text: str) -> Rlimit:
    """Read ``NAME=SOFT[:HARD]``, as ``--rlimit`` takes it.

    :param text: NAME is one of setrlimit(2), as ``nofile`` or ``RLIMIT_NOFILE``; the limits are
        numbers in its unit, or ``unlimited``; HARD is SOFT unless given.
    :raises ValueError: it is something else.
    """
    import resource

    name, _, limits = text.partition("=")
    full = f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}"
    if full == "RLIMIT_OFILE" or not hasattr(resource, full):
        # RLIMIT_OFILE is BSD's name for RLIMIT_NOFILE.
        names = {n for n in dir(resource) if n.startswith("RLIMIT_")} - {"RLIMIT_OFILE"}
        known = ", ".join(sorted(n.removeprefix("RLIMIT_").lower() for n in names))
        raise ValueError(f"{name!r} is no resource limit; there are {known}")
    soft, _, hard = limits.partition(":")
    numbers = [_limit(text, soft), _limit(text, hard or soft)]
    if numbers[0] > numbers[1]:
        raise ValueError(f"{text!r}: the soft limit is above the hard limit")
    return Rlimit(full, *numbers)


def _limit(text: str, number: str) -> int:
    if number in ("unlimited", "-1"):
        return _UNLIMITED
    import re

    if not re.fullmatch(r"[0-9]{1,20}", number) or int(number) > _UNLIMITED:
        raise ValueError(f"{text!r} is not NAME=SOFT[:HARD], numbers or 'unlimited'")
    return int(number)


def parse_user(text: str) -> tuple[int, int]:
    """Read ``UID[:GID]``, as ``--user`` takes it; the gid is the uid's number unless given.

    :raises ValueError: it is something else.
    """
    import re

    uid, _, gid = text.partition(":")
    ids = [uid, gid or uid]
    if not all(re.fullmatch(r"[0-9]{1,10}", number) and int(number) <= _ID_MAX for number in ids):
        raise ValueError(f"{text!r} is not UID[:GID], numbers from 0 to {_ID_MAX}")
    return int(ids[0]), int(ids[1])


def parse_network(text: str) -> str:
    """Read ``none`` or ``host``, as ``--network`` takes it.

    :raises RunscError: it is ``sandbox``, runsc's own default.
    :raises ValueError: it is something else.
    """
    if text == "sandbox":
        raise RunscError(
            "--network sandbox can't be had without root: runsc would have to take over a network "
            "device of this machine, and refuses",
            step="runsc",
            cause="runsc-rootless-netstack",
            remedy="--network host, or none",
        )
    return one_of(*NETWORKS)(text)


def binds(name: str, given: Iterable[Bind | StrOrBytesPath]) -> tuple[Bind, ...]:
    """Binds, their paths as text; what is text itself is read as ``--bind`` does.

    :param name: what the argument is called.
    :raises TypeError: they are something else.
    :raises ValueError: a text is not ``SRC[:DST][:ro|rw]``, or a source can't be a path.
    """
    found = tuple(_bind(name, one) for one in _several(name, given))
    for bind in found:
        checks.path(f"{name}: SRC", bind.source)
    return found


def _bind(name: str, given: Any) -> Bind:
    if isinstance(given, str):
        made: Bind = _read(name, Bind.parse, given)
        return made
    if isinstance(given, Bind):
        source, destination = os.fsdecode(given.source), os.fsdecode(given.destination)
        return Bind(source, destination, given.read_only)
    if isinstance(given, bytes | os.PathLike):
        return Bind.shown(os.fsdecode(given))
    raise TypeError(f"{name} must be a list of paths, SRC[:DST][:ro|rw], or Bind, not {given!r}")


def rlimits(name: str, given: Iterable[Rlimit | str]) -> tuple[Rlimit, ...]:
    """Resource limits; what is text is read as ``--rlimit`` does.

    :param name: what the argument is called.
    :raises TypeError: they are something else.
    :raises ValueError: a text is not ``NAME=SOFT[:HARD]``.
    """
    found = []
    for one in _several(name, given):
        if not isinstance(one, str | Rlimit):
            raise TypeError(f"{name} must be a list of NAME=SOFT[:HARD], or Rlimit, not {one!r}")
        found.append(_read(name, parse_rlimit, one) if isinstance(one, str) else one)
    return tuple(found)


def _several(name: str, given: Any) -> Iterable[Any]:
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, not {given!r}")
    return given


def _read(name: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _kept(name: str, given: Any) -> Any:
    from usernsctl.namespaces.namespace import Namespace

    if given is not None and not isinstance(given, str | Namespace):
        raise TypeError(f"{name} must be a Namespace, or the name of one, not {given!r}")
    return given


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What :func:`usernsctl.gvisor.launch.perform.run_in_place` runs, and in what.

    The root filesystem is one of four: this machine's programs without its data (the default),
    all of this machine (`expose_root`), a directory (`rootfs`), or that of an OCI bundle
    (`bundle`), whose config.json then decides all that this request leaves open.

    :ivar args: the command and its arguments; may be empty for a bundle, which has its own.
    :ivar trust_bundle: whether the bundle may show files of this machine, and have annotations, as
        it likes; otherwise it is a stranger's data.
    :ivar allow_hooks: whether the bundle may have runsc run programs OUTSIDE gVisor: on this
        machine's kernel, as the caller.
    :ivar env: the whole environment; with a bundle, what is set besides the bundle's own.
    :ivar cwd: where the command starts, or ``None`` for the current directory where that is seen
        inside, else ``/``.
    :ivar user: uid and gid inside, or ``None`` for 0 and 0.
    :ivar terminal: whether the command gets a terminal of its own.
    :ivar reraise_signal: whether a signal that kills the command kills the waiting process as well,
        in place of its exit status 128+N; process 1 of a container ends with the status.
    :ivar idmap: the ids of a new user namespace.
    :ivar kept: the name of a kept namespace to run in, in place of a new one; of a host's sandboxes
        also that namespace itself.
    :ivar verify: whether it is proven that the kernel is gVisor's before the command starts.
    :ivar no_new_privs: whether runsc and all it starts are kept from set-user-id programs.
    :ivar drop_bounding: whether runsc is left no more capabilities than it needs.
    :ivar program: the path of runsc, or ``None`` for the one that is found.
    :ivar state: a directory for runsc's state, to be used by other runsc commands meanwhile, or
        ``None`` for one that nobody else sees and that vanishes with the run.
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
                help="Show a file or directory of this machine inside, as DST (by default as "
                "SRC). CMD can only read it. With rw, CMD can also write there, and that "
                "reaches this machine.",
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
                help="Use DIR as the root filesystem, such as an unpacked image. Nothing is "
                "written to it.",
            ),
            argument=Argument("rootfs", checks.path),
        ),
        default=None,
    )
    bundle: str | None = field(
        metadata=by(
            Option(
                flags=("--bundle",),
                heading=FILES,
                metavar="DIR",
                help="Run an OCI bundle. usernsctl adds what its config.json lacks, in memory. "
                "Options and CMD replace what the file says.",
            ),
            argument=Argument("bundle", checks.path),
        ),
        default=None,
    )
    trust_bundle: bool = field(
        metadata=by(
            Option(
                flags=("--trust-bundle",),
                heading=FILES,
                help="Take the bundle's bind mounts, annotations and capabilities as they are "
                "written. Without this, the bundle counts as a stranger's data, and may "
                "show nothing but its own files.",
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
                help="Let the bundle's hooks run: programs of its choice that run OUTSIDE gVisor, "
                "on this machine's kernel, as you.",
            ),
            argument=Argument("allow_hooks", as_bool),
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
    user: tuple[int, int] | None = field(
        metadata=by(
            Option(
                flags=("--user",),
                heading=PROCESS,
                parse=parse_user,
                metavar="UID[:GID]",
                help="Run as these ids inside; 0:0 by default.",
            ),
        ),
        default=None,
    )
    hostname: str | None = field(
        metadata=by(
            Option(
                flags=("--hostname",),
                heading=PROCESS,
                metavar="NAME",
                help="The name of the host inside.",
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
                help="If a signal kills CMD, end by that signal too, in place of the exit status "
                "128+N: for callers that tell both apart. Process 1, as of a container, can't.",
            ),
        ),
        default=False,
    )
    rlimits: tuple[Rlimit, ...] = field(
        metadata=by(
            Option(
                flags=("--rlimit",),
                heading=PROCESS,
                multiple=True,
                parse=parse_rlimit,
                metavar="NAME=SOFT[:HARD]",
                help="Set a resource limit, such as nofile=1024; setrlimit(2) has the names and "
                "units.",
            ),
            argument=Argument("rlimits", rlimits),
        ),
        default=(),
    )
    network: str = field(
        metadata=by(
            Option(
                flags=("--network",),
                heading=ISOLATION,
                shows_default=True,
                parse=parse_network,
                metavar="none|host",
                help="Either none, a loopback device alone, or host, this machine's network.",
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
                help="The same for gids.",
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
                help="If these ids can't be mapped, go on with your own id alone.",
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
                help="Run in a kept namespace (usernsctl ns create NAME), with the ids that it "
                "has.",
            ),
            argument=Argument("namespace", _kept),
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
                help="Keep runsc, and CMD inside, from gaining privileges by set-user-id programs.",
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
                help="Leave runsc only those capabilities in its namespace that it needs.",
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
                help="The runsc to run, by its absolute path. By default: what "
                "$USERNSCTL_RUNSC or $RUNSC_PATH names, else the first along PATH.",
            ),
            argument=Argument("runsc", checks.path),
        ),
        default=None,
    )
    state: str | None = field(
        metadata=by(
            Option(
                flags=("--root",),
                heading=RUNSC,
                metavar="DIR",
                help="Keep runsc's state in DIR, so that you can call other runsc commands "
                "meanwhile.",
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
                help="How gVisor intercepts system calls; systrap by default.",
            ),
            argument=Argument("platform", is_one_of(None, *PLATFORMS)),
        ),
        default=None,
    )
    debug_log: str | None = field(
        metadata=by(
            Option(
                flags=("--debug-log",),
                heading=RUNSC,
                metavar="DIR",
                help="Have runsc write debug logs to DIR.",
            ),
            argument=Argument("debug_log", checks.path),
        ),
        default=None,
    )

    @classmethod
    def for_host(cls, options: Mapping[str, Any]) -> Self:
        """What sandboxes of a host have in common.

        :param options: arguments of :class:`usernsctl.SandboxHost`.
        :raises TypeError: one is unknown, or of the wrong type.
        :raises ValueError: one has a value that it can't have, or they exclude each other.
        """
        known = {
            argument.name: (one.name, argument.check)
            for one in fields(cls)
            if (argument := one.metadata.get("argument")) is not None
        }
        from usernsctl.commands.keywords import check_keywords

        check_keywords("SandboxHost", options, known)
        made = {known[name][0]: known[name][1](name, value) for name, value in options.items()}
        roots = [name for name in ("bundle", "rootfs", "expose_root") if made.get(name)]
        if len(roots) > 1:
            raise ValueError(f"{' and '.join(roots)} exclude each other")
        if made.get("bundle") is None and (made.get("trust_bundle") or made.get("allow_hooks")):
            raise ValueError("trust and allow_hooks are about a bundle, and none is given")
        if made.get("kept") is not None and options.get("idmap") is not None:
            raise ValueError("namespace has a map of its own: leave idmap out")
        return cls(**made)


PASSED_ON = ("PATH", "LANG", "TERM")

# What a file of settings may have: more than any command is started with, and a device may have no
# end.
_FILE_BYTES_MAX = 8 << 20

# A name that plainly is one, and no piece of a value.
_PLAIN = "[A-Z_][A-Z0-9_]{0,39}"


def base_environment(caller: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """What the command has without being asked for.

    :param caller: the environment of the caller.
    :param everything: whether all of it is passed on, secrets included.
    """
    if everything:
        return dict(caller)
    kept = {name: caller[name] for name in PASSED_ON if name in caller}
    kept.setdefault("PATH", DEFAULT_PATH)
    return kept


def home(uid: int) -> str:
    """The HOME of a uid inside, where nobody sets one."""
    return "/root" if uid == 0 else "/"


def search_path(settings: Iterable[str]) -> str:
    """Return the PATH that a command has by its variables, each NAME=VALUE."""
    found = DEFAULT_PATH
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "PATH":
            found = value
    return found


def read_settings(settings: Iterable[str], caller: Mapping[str, str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` settings, or ``NAME`` for the caller's own value.

    :raises CommandError: a setting is malformed, or the caller has no such variable.
    """
    return dict(_value(*one, caller) for one in _options(settings))


def read_file(path: str, caller: Mapping[str, str]) -> dict[str, str]:
    """Read a file of such settings, one a line; empty lines and those with ``#`` first are skipped.

    Values are taken as they are, quotes included.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return dict(_value(*one, caller) for one in _lines(path))


def names_in(settings: Iterable[str]) -> list[tuple[str, str | None]]:
    """What such settings name, each with its value, or ``None`` for what a caller is to have.

    :raises CommandError: a setting is malformed.
    """
    return [_unset(*one) for one in _options(settings)]


def names_in_file(path: str) -> list[tuple[str, str | None]]:
    """The same of a file.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return [_unset(*one) for one in _lines(path)]


def _options(settings: Iterable[str]) -> list[tuple[str, str]]:
    """Settings, each with the place that it is in."""
    return [(text, f"--env, number {number}") for number, text in enumerate(settings, 1)]


def _lines(path: str) -> list[tuple[str, str]]:
    """The same of a file."""
    content = _content(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # The error itself has the whole text with it.
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(f"--env-file {path}, line {line}: a byte that isn't UTF-8", path) from None
    found = []
    for number, setting in enumerate(text.split("\n"), 1):
        where = f"--env-file {path}, line {number}"
        if "\0" in setting:
            raise _error(f"{where}: a NUL character, which no variable can have", path)
        if setting.strip() and not setting.startswith("#"):
            found.append((setting.removesuffix("\r"), where))
    return found


def _content(path: str) -> bytes:
    """All bytes of a file of settings."""
    try:
        content = _read_settings_file(path)
    except OSError as error:
        failed = _error(f"--env-file {path}: {error.strerror}", path)
        if isinstance(error, ForeignLinkError):
            failed.explain(cause=error.cause, remedy=error.remedy)
        raise failed from error
    if len(content) > _FILE_BYTES_MAX:
        reason = f"it has more than {_FILE_BYTES_MAX} bytes; settings may have no more"
        raise _error(f"--env-file {path}: {reason}", path)
    return content


def _read_settings_file(path: str) -> bytes:
    """The bytes of a file, or one more than there may be."""
    with open_path(path) as found:
        # To open a FIFO that nobody writes to would wait for ever. A pipe of the shell's own,
        # <(COMMAND), has no path.
        if stat.S_ISFIFO(found.status.st_mode) and found.path.startswith("/"):
            raise OSError(errno.EINVAL, "it is a FIFO; name a file, or say <(COMMAND) in a shell")
        with open(found.open(), "rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)


def _setting(text: str, where: str) -> tuple[str, str | None]:
    """The name in a setting, and the value if it has one."""
    name, equals, value = text.partition("=")
    # What is no setting may be a piece of a value, such as the second line of a key: none is told.
    if not name:
        raise _error(f"{where}: there is no name before the =; it should be NAME=VALUE or NAME")
    if name != name.strip():
        raise _error(f"{where}: a space beside the name; it should be NAME=VALUE or NAME")
    return name, value if equals else None


def _unset(text: str, where: str) -> tuple[str, str | None]:
    name, value = _setting(text, where)
    if value is None:
        _refuse_colon(name, where)
    return name, value


def _value(text: str, where: str, caller: Mapping[str, str]) -> tuple[str, str]:
    name, value = _setting(text, where)
    if value is None and name not in caller:
        import re

        _refuse_colon(name, where)
        told = name if re.fullmatch(_PLAIN, name) else "a variable of this name"
        raise _error(f"{where}: {told} is not set; give it a value: NAME=VALUE")
    return name, caller[name] if value is None else value


def _refuse_colon(name: str, where: str) -> None:
    import re

    head, colon, _ = name.partition(":")
    if colon and re.fullmatch(_PLAIN, head):
        raise _error(f"{where}: there is a colon after {head}, not a =; it should be {head}=VALUE")


def _error(reason: str, path: str | None = None) -> CommandError:
    return CommandError(reason, step="environment", filename=path)
