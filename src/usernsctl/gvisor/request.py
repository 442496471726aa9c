"""What a run in gVisor is asked to be, and how: by options of ``usernsctl run``, and from Python.

The fields of :class:`Request` are the one place that says which options there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from usernsctl._records import dataclass, field, fields
from usernsctl._typing import TYPE_CHECKING, Any, Self
from usernsctl.errors import RunscError
from usernsctl.gvisor import checks, runsc
from usernsctl.gvisor.oci.building import Rlimit
from usernsctl.gvisor.options import (
    FILES,
    ISOLATION,
    PROCESS,
    RUNSC,
    Argument,
    Option,
    as_bool,
    as_idmap,
    as_text,
    by,
    is_one_of,
    one_of,
)
from usernsctl.maps import IdMap

if TYPE_CHECKING:
    from usernsctl.commands.arguments import StrOrBytesPath
    from usernsctl.namespaces.namespace import Namespace

_ID_MAX = 2**32 - 2  # the last one, 2**32 - 1, stands for "no change" (setresuid(2))
_UNLIMITED = 2**64 - 1  # RLIM_INFINITY, as config.json has it


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of this machine to be seen inside.

    :ivar source: its path; a relative one starts at the current directory.
    :ivar destination: where it is seen, an absolute path.
    :ivar read_only: whether it is protected; what is written to it otherwise reaches the machine.
    """

    source: str
    destination: str
    read_only: bool = True

    @classmethod
    def shown(cls, source: str, destination: str = "", *, read_only: bool = True) -> Self:
        """Show `source` at `destination`, or under its own name if that is empty."""
        return cls(source, destination or os.path.abspath(source), read_only)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``SRC[:DST][:ro|rw]``, as ``--bind`` takes it.

        :param text: SRC and DST have no colons; DST is SRC, and ``ro``, unless given.
        :raises ValueError: it is something else.
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
    return one_of(*runsc.NETWORKS)(text)


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
    """What :func:`usernsctl.gvisor.launch.run` runs, and in what.

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
            argument=Argument("network", is_one_of(*runsc.NETWORKS)),
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
                parse=one_of(*runsc.PLATFORMS),
                metavar="systrap|ptrace|kvm",
                help="How gVisor intercepts system calls; systrap by default.",
            ),
            argument=Argument("platform", is_one_of(None, *runsc.PLATFORMS)),
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
