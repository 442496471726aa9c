"""Requests: the options of ``usernsctl run``, and the arguments of SandboxHost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from usernsctl._lean import TYPE_CHECKING, Any, Self, dataclass, field, fields
from usernsctl._system.paths import check_path
from usernsctl.gvisor.launch.options import (
    FILES,
    ISOLATION,
    LIMITS,
    PROCESS,
    RUNSC,
    Argument,
    Option,
    allowed_names,
    as_bool,
    as_hostname,
    as_idmap,
    as_namespace,
    by,
    check_of_limit,
    is_one_of,
    iterable,
    not_empty,
    one_of,
    parse_allowed,
    parse_argument,
    parse_hostname,
    parse_network,
    parse_path,
    parse_publish,
    parse_start_timeout,
    parse_user,
    parser_of_limit,
    rlimits,
)
from usernsctl.gvisor.oci.builder import Rlimit
from usernsctl.gvisor.runsc.command import NETWORKS, PLATFORMS
from usernsctl.maps import IdMap

if TYPE_CHECKING:
    from usernsctl.commands.arguments import StrOrBytesPath
    from usernsctl.gvisor.checks import NamedUser
    from usernsctl.namespaces.namespace import Namespace
    from usernsctl.network.ports import PublishedPort
    from usernsctl.network.ranges import AllowedRange

#: The directories of the host's / that a sandbox with the host's programs contains.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")


@dataclass(frozen=True, slots=True)
class Bind:
    """A bind mount of a file or directory of the host.

    :ivar source: the path of the file or directory; a relative path is resolved against the
        current directory.
    :ivar destination: the mount point in the sandbox, an absolute path.
    :ivar read_only: whether the bind mount is read-only. If not, writes in the sandbox change the
        source.
    """

    source: str
    destination: str
    read_only: bool = True

    @classmethod
    def shown(cls, source: str, destination: str = "", *, read_only: bool = True) -> Self:
        """Return a Bind of `source` at `destination`, by default at the path of `source`."""
        return cls(source, destination or os.path.abspath(source), read_only)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the value of ``--bind``: ``SRC[:DST][:ro|rw]``.

        :param text: a bind mount, in which SRC and DST contain no colons. By default, DST is SRC,
            and the mount is read-only (``ro``).
        :raises ValueError: `text` has the wrong format.
        """
        source, *more = text.split(":")
        before, comma, listed = more[-1].rpartition(",") if more else ("", "", "")
        if comma and listed in ("ro", "rw"):
            meant = ":".join([source, *more[:-1], *filter(None, (before, listed))])
            raise ValueError(f"{text!r} is not SRC[:DST][:ro|rw]; did you mean {meant!r}?")
        mode = more.pop() if more and more[-1] in ("ro", "rw") else "ro"
        if not source or len(more) > 1:
            raise ValueError(f"{text!r} is not SRC[:DST][:ro|rw]")
        if more and not more[0].startswith("/"):
            raise ValueError(
                f"{text!r}: DST must be an absolute path, and SRC and DST can't contain a colon"
            )
        return cls.shown(source, *more, read_only=mode == "ro")


def binds(name: str, given: Iterable[Bind | StrOrBytesPath]) -> tuple[Bind, ...]:
    """Convert an argument to bind mounts; parse strings as ``--bind`` does.

    :param name: the name of the argument.
    :raises TypeError: `given` is not an iterable of paths, strings and Bind objects.
    :raises ValueError: a string is not ``SRC[:DST][:ro|rw]``, or a source is not a valid path.
    """
    mounts = tuple(_bind(name, element) for element in iterable(name, given))
    for bind in mounts:
        check_path(f"{name}: SRC", bind.source)
    return mounts


def _bind(name: str, given: Any) -> Bind:
    if isinstance(given, str):
        bind: Bind = parse_argument(name, Bind.parse, given)
        return bind
    if isinstance(given, Bind):
        source, destination = os.fsdecode(given.source), os.fsdecode(given.destination)
        return Bind(source, destination, given.read_only)
    if isinstance(given, bytes | os.PathLike):
        return Bind.shown(os.fsdecode(given))
    raise TypeError(f"{name} must be a list of paths, SRC[:DST][:ro|rw], or Bind, not {given!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to run a command in a sandbox, or the options of all sandboxes of a SandboxHost.

    The root filesystem is one of four: the host's programs without the host's data (the default),
    all files of the host (`expose_root`), a directory (`rootfs`), or the root filesystem of an OCI
    bundle (`bundle`). The bundle's config.json sets each option that this request does not set.

    :ivar args: the command and its arguments; empty for the command of a bundle.
    :ivar trust_bundle: whether the bundle may mount any file of the host, and set annotations.
    :ivar allow_hooks: whether runsc executes the bundle's hooks, which run OUTSIDE gVisor, on the
        host's kernel, with the caller's privileges.
    :ivar env: the whole environment of the command; with a bundle, variables in addition to the
        bundle's.
    :ivar cwd: the working directory of the command, or ``None`` for the current directory if it
        exists in the sandbox, else ``/``.
    :ivar user: the uid and gid in the sandbox, or names that :func:`inspect` replaces by numbers,
        or ``None`` for 0 and 0.
    :ivar groups: the supplementary groups of the command.
    :ivar virtual_env: the path of the caller's active virtual environment, which is mounted if it
        contains the command.
    :ivar terminal: whether the command has a pseudo-terminal.
    :ivar reraise_signal: whether the watcher kills itself with signal N if signal N killed the
        command. If not, or if the watcher is PID 1 of a container, the watcher exits with status
        128+N.
    :ivar log: ``"json"`` if the watcher prints its messages in JSON.
    :ivar idmap: the id map of a new user namespace.
    :ivar kept: the persistent namespace in which the sandbox runs: its name, or a Namespace object
        for sandboxes of a SandboxHost; ``None`` for a new namespace.
    :ivar network: the network, one of :data:`usernsctl.gvisor.runsc.command.NETWORKS`, or a network
        that :func:`usernsctl.gvisor.launch.network.with_network` has chosen.
    :ivar allow: the names that the sandbox may reach through a proxy, or the addresses that it may
        reach.
    :ivar ranges: the addresses that the sandbox may reach, which ``with_network`` moves here from
        `allow`.
    :ivar publish: the ports of the host from which connections are forwarded to the sandbox.
    :ivar verify: whether to check that the sandbox's kernel is gVisor before the command starts.
    :ivar no_new_privs: whether to set no_new_privs for runsc and its children.
    :ivar drop_bounding: whether to drop the capabilities that runsc does not need.
    :ivar memory: the memory limit of the sandbox, in bytes.
    :ivar pids: the limit for processes and threads.
    :ivar cpus: the number of processors that the sandbox may use.
    :ivar disk: the limit for data written to each filesystem in memory, in bytes.
    :ivar timeout: the time limit of the run, in seconds.
    :ivar limits: ``"strict"`` to raise an error for a limit that can't be enforced,
        ``"best-effort"`` to ignore it.
    :ivar program: the path of runsc, or ``None`` to search for it.
    :ivar start_timeout: the timeout for starting the sandbox, in seconds; 0 for no timeout,
        ``None`` for the watcher's default.
    :ivar state: a directory for runsc's state, which other runsc commands can use, or ``None`` for
        a private directory that is removed after the run.
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
                parse=parse_path,
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
                parse=parse_path,
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
                help="Run the hooks of the bundle, programs that run OUTSIDE gVisor, on this "
                "machine's kernel, as you.",
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
                parse=parse_path,
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
                parse=parse_hostname,
                metavar="NAME",
                help="Set the hostname inside.",
            ),
            argument=Argument("hostname", as_hostname),
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
                parse=parser_of_limit("parse_size"),
                metavar="SIZE",
                help="End the sandbox if it uses more memory than SIZE, such as 512M. gVisor's own "
                "memory, and files in memory, are included. CMD sees SIZE as the machine's memory.",
            ),
            argument=Argument("memory", check_of_limit("check_size")),
        ),
        default=None,
    )
    pids: int | None = field(
        metadata=by(
            Option(
                flags=("--pids",),
                heading=LIMITS,
                parse=parser_of_limit("parse_count"),
                metavar="N",
                help="End the sandbox if it has N processes and threads of this machine. gVisor "
                "alone has about 20, and each process inside one or two.",
            ),
            argument=Argument("pids", check_of_limit("check_count")),
        ),
        default=None,
    )
    cpus: float | None = field(
        metadata=by(
            Option(
                flags=("--cpus",),
                heading=LIMITS,
                parse=parser_of_limit("parse_cpus"),
                metavar="N",
                help="Use at most N processors.",
            ),
            argument=Argument("cpus", check_of_limit("check_cpus")),
        ),
        default=None,
    )
    disk: int | None = field(
        metadata=by(
            Option(
                flags=("--disk",),
                heading=LIMITS,
                parse=parser_of_limit("parse_size"),
                metavar="SIZE",
                help="Let CMD write at most SIZE to the root filesystem, and SIZE to /tmp. Further "
                "writes fail with ENOSPC.",
            ),
            argument=Argument("disk", check_of_limit("check_size")),
        ),
        default=None,
    )
    timeout: float | None = field(
        metadata=by(
            Option(
                flags=("--timeout",),
                heading=LIMITS,
                parse=parser_of_limit("parse_duration"),
                metavar="TIME",
                help="End the sandbox after TIME, such as 30s or 2m, with exit status 124.",
            ),
            argument=Argument("ttl", check_of_limit("check_duration")),
        ),
        default=None,
    )
    # ``usernsctl run`` has no option for `idle_timeout`: its sandbox is never idle, because it ends
    # when its command exits.
    idle_timeout: float | None = field(
        metadata=by(argument=Argument("idle_timeout", check_of_limit("check_duration"))),
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
                metavar="none|host|private",
                help="Use only a loopback device (none), this machine's network (host), or a "
                "network of its own that reaches other machines but not this one (private). "
                "With --in NAME, private joins the private network of NAME, if there is one.",
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
                help="Map these uids, too; your own uid is 0 inside.",
            ),
            Option(
                flags=("--map-groups",),
                name="map_groups",
                heading=ISOLATION,
                multiple=True,
                metavar="INNER:OUTER:COUNT",
                help="Map these gids, too; your own gid is 0 inside.",
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
                parse=not_empty("the name of a namespace"),
                help="Run in the namespace NAME (usernsctl ns create NAME), with its ids.",
            ),
            argument=Argument("namespace", as_namespace),
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
                help="Drop the capabilities in the namespace that runsc does not need.",
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
                parse=parse_path,
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
                parse=parse_path,
                help="Store runsc's state in DIR, so that you can call other runsc commands "
                "during the run.",
            ),
        ),
        default=None,
    )
    allow: tuple[Any, ...] = field(
        metadata=by(
            Option(
                flags=("--allow",),
                heading=ISOLATION,
                multiple=True,
                parse=parse_allowed,
                metavar="NAME|CIDR[:PORT]",
                help="Let CMD reach the host NAME by HTTP and HTTPS, through a proxy; '*.NAME' "
                "stands for all names below NAME. Without PORT: ports 80 and 443. With CIDR, such "
                "as 10.0.0.0/8:5432: let CMD reach only these addresses, by a private network.",
            ),
            argument=Argument("allow", allowed_names),
        ),
        default=(),
    )
    ranges: tuple[AllowedRange, ...] = ()
    publish: tuple[PublishedPort, ...] = field(
        metadata=by(
            Option(
                flags=("--publish",),
                heading=ISOLATION,
                multiple=True,
                parse=parse_publish,
                metavar="[ADDR:]HOST:INSIDE[/udp]",
                help="Forward connections to the TCP port HOST of this machine, on 127.0.0.1 or "
                "ADDR, to the port INSIDE of the sandbox; with /udp, datagrams to the UDP port. "
                "Not with --network host.",
            ),
        ),
        default=(),
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
                help="Kill runsc if it has not started the sandbox after SECONDS, 120 by default; "
                "0: no limit.",
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
                parse=parse_path,
                help="Write runsc's debug logs to DIR.",
            ),
            argument=Argument("debug_log", check_path),
        ),
        default=None,
    )

    @property
    def has_network(self) -> bool:
        """Return whether the sandbox needs a network that usernsctl creates, or a proxy."""
        return self.network not in ("none", "host") or bool(self.allow or self.publish)

    @property
    def has_limits(self) -> bool:
        """Return whether the request has a limit for the whole sandbox."""
        limits = (
            *(self.memory, self.pids, self.cpus, self.disk),
            *(self.timeout, self.idle_timeout),
        )
        return any(limit is not None for limit in limits)

    @classmethod
    def _arguments(cls) -> dict[str, tuple[str, Callable[[str, Any], Any]]]:
        """Return a dict that maps arguments of SandboxHost to field names and converters."""
        return {
            argument.name: (field.name, argument.check)
            for field in fields(cls)
            if (argument := field.metadata.get("argument")) is not None
        }

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Check arguments of SandboxHost; return a dict that maps names of fields to values.

        :raises TypeError: an argument has the wrong type.
        :raises ValueError: an argument has an invalid value.
        """
        known = cls._arguments()
        return {known[name][0]: known[name][1](name, value) for name, value in options.items()}

    @classmethod
    def for_host(cls, options: Mapping[str, Any]) -> Self:
        """Return the request that all sandboxes of a SandboxHost share.

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
        names = any(not hasattr(rule, "condition") for rule in values.get("allow") or ())
        if names and values.get("network", "none") != "none":
            raise ValueError(
                "allow needs network='none': any other network lets the command bypass the proxy"
            )
        if values.get("allow") and values.get("network") == "host":
            raise ValueError("allow and network='host' exclude each other")
        return cls(**values)
