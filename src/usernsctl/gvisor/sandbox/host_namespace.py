"""The namespaces of a SandboxHost, and the root filesystem of its sandboxes."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import functools
import os
import socket
import stat
import weakref
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypedDict, Unpack

from usernsctl import _core, hardening
from usernsctl._core.values import find_program
from usernsctl._lean import LateModule, dataclass, replace
from usernsctl._system.descriptors import Shared, above_stdio, memory_file, receive
from usernsctl._system.paths import OpenFile, PathDescriptor, state_directory
from usernsctl._system.target import Joinable, Target
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.async_start import ClosingMixin, start_in_executor
from usernsctl.commands.popen import (
    PIPE,
    Popen,
    read_until_exit,
)
from usernsctl.errors import (
    BindError,
    CommandNotExecutableError,
    NamespaceError,
    PlanError,
    UsernsError,
)
from usernsctl.gvisor import checks, oci
from usernsctl.gvisor.agent.start import COMMANDS_ANNOTATION, set_agent_as_init
from usernsctl.gvisor.launch import view
from usernsctl.gvisor.launch.facts import (
    check_ids,
    collect_facts,
    descriptors,
    ids_of,
    limits_of,
    open_files,
    own_program,
    refuse_own,
)
from usernsctl.gvisor.launch.network import LOOPBACK, check_joined, with_network
from usernsctl.gvisor.launch.options import base_environment, default_home
from usernsctl.gvisor.launch.plan import apply_request, limit_tmpfs, plan_host, skips_membarrier
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.launch.steps import (
    AGENT_INSIDE,
    BOXES,
    VERIFIER_INSIDE,
    VERIFY_AS,
    Launch,
    Record,
    completed,
    record,
)
from usernsctl.gvisor.launch.view import PYTHON, Remedies, View
from usernsctl.gvisor.oci import Rlimit
from usernsctl.gvisor.runsc.command import Network, Platform, search_path
from usernsctl.gvisor.runsc.find import find_runsc, runsc_environment
from usernsctl.gvisor.runsc.releases import Release, release_of
from usernsctl.maps import AnyIdMap, MappedIds, plan
from usernsctl.namespaces.named import find_named, read_map
from usernsctl.namespaces.namespace import Namespace

if TYPE_CHECKING:
    from usernsctl.gvisor.launch.limits import EnforcedLimits
    from usernsctl.network import names
    from usernsctl.network.proxy_process import ProxyProcess
else:
    names = LateModule("usernsctl.network.names")

#: The accepted values of the argument `limits`.
LimitsMode = Literal["strict", "best-effort"]


class LimitOptions(TypedDict, total=False):
    """Keyword arguments that set limits: for one sandbox, or for each sandbox of a SandboxHost."""

    memory: int | str | None
    pids: int | None
    cpus: float | str | None
    disk: int | str | None
    ttl: float | str | None
    idle_timeout: float | str | None
    limits: LimitsMode


class NamedHostOptions(LimitOptions, total=False):
    """Keyword arguments of :class:`usernsctl.SandboxHost`, except `idmap`."""

    namespace: Namespace | str | None
    bundle: StrOrBytesPath | None
    trust: bool
    allow_hooks: bool
    rootfs: StrOrBytesPath | None
    expose_root: bool
    writable_root: bool
    binds: Iterable[Bind | StrOrBytesPath]
    hostname: str | None
    rlimits: Iterable[Rlimit | str]
    network: Network
    allow: Iterable[names.AllowedName | str]
    platform: Platform | None
    debug_log: StrOrBytesPath | None
    runsc: StrOrBytesPath | None
    verify: bool
    no_new_privs: bool
    drop_bounding: bool


class HostOptions(NamedHostOptions, total=False):
    """Keyword arguments of :class:`usernsctl.SandboxHost`."""

    idmap: AnyIdMap | None


def take_limits(options: HostOptions | LimitOptions) -> Mapping[str, Any] | None:
    """Move the limits out of `options`, and return them; ``None`` if `options` sets no limits.

    :raises TypeError: a limit has the wrong type.
    :raises ValueError: a limit has a wrong value.
    """
    given: dict[str, Any] = {**options}
    limits = LimitOptions.__annotations__
    taken = {name: given[name] for name in limits if given.get(name) is not None}
    for name in limits:
        options.pop(name, None)  # type: ignore[misc]
    return Request.checked(taken) if taken else None


class RunscNamespace:
    """Namespaces in which runsc commands are started, and the restrictions that apply to them.

    :param restrictions: the result of :func:`restrictions_of_runsc`.
    :param mount_proc: whether to mount, on /proc, a procfs of the new PID namespace for runsc.
    :ivar commands: the runsc commands that were started in these namespaces, and are reaped when
        the sandbox is closed.
    """

    def __init__(
        self,
        namespace: Joinable,
        restrictions: _core.Setup,
        *,
        mount_proc: bool = False,
    ) -> None:
        self._namespace = namespace
        self._restrictions = restrictions
        self._mount_proc = mount_proc
        self.commands: weakref.WeakSet[Popen[Any]] = weakref.WeakSet()

    def target(self) -> Target:
        """Return the namespaces and the restrictions for the start of one command.

        Each standard stream of the command gets an open file description of its own, because gVisor
        sets O_NONBLOCK on each description. If the caller had the same descriptions, the flag would
        affect the caller's streams. If two streams had the same description (``2>&1``), gVisor
        would find the flag already set on the second stream, and treat this stream differently.
        """
        target = self._namespace.target()
        target.setup.own_stdio = True
        target.setup.no_new_privs = self._restrictions.no_new_privs
        target.setup.no_membarrier = self._restrictions.no_membarrier
        target.setup.drop_bounding = self._restrictions.drop_bounding
        if self._mount_proc:
            target.setup.mount_proc = "/proc"
        return target


def restrictions_of_runsc(**options: Any) -> _core.Setup:
    """Return the restrictions that apply to runsc, as a setup for the C core.

    :param options: the arguments of :func:`usernsctl.hardening.for_run`.
    """
    setup = _core.Setup()
    hardening.prepare(setup, hardening.for_run(**options))
    return setup


# The name of the program that creates the networks of sandboxes.
_NETWORK_PROGRAM = "usernsctl-network"

# The programs that start sandboxes in the namespaces, each with its purpose, for error messages.
_PROGRAMS = {
    "usernsctl-init": "holds sandboxes",
    "usernsctl-detach": "starts detached sandboxes",
    _NETWORK_PROGRAM: "makes the network of a sandbox",
}

# A command for the config.json of a SandboxHost, because a config.json must have a command. Each
# sandbox replaces this command.
_NO_COMMAND = ("true",)


# The capabilities that allow a process to search directories regardless of their modes
# (capabilities(7)).
_SEARCHING = frozenset(("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"))


class HostNamespace:
    """The namespaces and the root filesystem that the sandboxes of a SandboxHost share.

    :ivar request: the options that all sandboxes share.
    :ivar runsc: the path of runsc.
    :ivar environ: the environment of runsc.
    :ivar restrictions: the privileges that runsc drops, as a setup for the C core.
    :ivar namespace: the namespaces in which runsc runs.
    :ivar prepared: the layout of the files in the mount namespace.
    :ivar directory: a descriptor of the directory that contains the sandboxes' directories.
    :ivar enforced: the limits of the sandboxes, or ``None``.
    :ivar network: the path and the options of usernsctl-network; empty if there is no private
        network.
    :ivar writable: the sources of the writable bind mounts.
    :ivar remedies: the remedies of errors about missing commands and directories.
    :ivar unremoved: the ids of the ended sandboxes whose directories could not be removed.
    """

    request: Request
    runsc: str
    environ: dict[str, str]
    restrictions: _core.Setup
    namespace: Namespace
    prepared: HostLayout
    directory: int
    enforced: EnforcedLimits | None
    network: tuple[str, ...]
    writable: frozenset[str]

    def __init__(self, request: Request) -> None:
        """Create the namespaces and the root filesystem.

        :raises UsernsError: the namespaces or the root filesystem can't be created, for example
            because runsc is missing, an id can't be mapped, or a mount is denied.
        :raises ValueError: the persistent Namespace is closed, or has a PID namespace.
        """
        self.unremoved: set[str] = set()
        self.remedies: Remedies = PYTHON
        with NamespaceError.instead("the SandboxHost could not be created", step="sandbox"):
            self._make(request)

    def _make(self, request: Request) -> None:
        _core.check_filter()
        if request.bundle is None:
            base = base_environment(os.environ, everything=False)
            request = replace(request, args=_NO_COMMAND, env=base)
        request = with_network(request)
        with contextlib.ExitStack() as undo:
            if request.kept is None:
                joined, self._ids = None, MappedIds.of_plan(plan(request.idmap))
            else:
                joined, self._ids = _join(request.kept, request.network)
                undo.callback(joined.close)
            # Do not keep the caller's Namespace alive: `joined` has duplicates of its descriptors.
            self.request = request = replace(request, kept=None)
            self.runsc = find_runsc(os.environ, request.program)
            self.environ = runsc_environment(is_named=request.program is not None)
            order = _plan_host(request, self._ids, self.runsc)
            self._restrict = functools.partial(
                restrictions_of_runsc,
                no_new_privs=request.no_new_privs,
                drop_bounding=request.drop_bounding,
                ids=self._ids.count,
                no_membarrier=skips_membarrier(request, is_script=order.is_script),
            )
            self.restrictions = self._restrict(makes_network=bool(order.network))
            self.enforced, self.writable = order.enforced, order.writable
            self.network = order.network
            with contextlib.closing(order):
                self.namespace = joined or Namespace.create(request.idmap, mount=True)
                undo.callback(self.namespace.close)
                self.prepared, self.directory = _build_host(self.namespace, order)
                undo.callback(os.close, self.directory)
                _check_place_of_agent(self.prepared, self.directory)
            undo.pop_all()
        self._shared = Shared("the host", [self.directory])

    def network_with(self, ports: Sequence[str]) -> tuple[str, Sequence[str]]:
        """Return a sandbox's network, and the path and the options of usernsctl-network for it.

        :param ports: the options for published ports; empty if no ports are published.
        """
        if not ports:
            return self.request.network, self.network
        network = LOOPBACK if self.request.network == "none" else self.request.network
        return network, (*(self.network or (_NETWORK_PROGRAM,)), *ports)

    def restrictions_with(self, ports: Sequence[str]) -> _core.Setup:
        """Return the privileges that runsc drops for a sandbox with or without published ports.

        :param ports: the options for published ports; empty if no ports are published.
        """
        return self._restrict(makes_network=True) if ports else self.restrictions

    def start_proxy(self, id: str = "", table: FileIO | None = None) -> ProxyProcess | None:
        """Start the proxy for the names in `allow`; return None if `allow` is empty.

        :param id: the id of a detached sandbox, for the proxy's command line; empty for other
            sandboxes.
        :param table: a file for the table of denied connections, by default a memfd. The returned
            object closes the file.
        :raises UsernsError: the process could not be started.
        """
        if not self.request.allow:
            return None
        # Import the module here, because few sandboxes need a proxy.
        from usernsctl.network.proxy_process import ProxyProcess

        return ProxyProcess(self.request.allow, table=table, name=id)

    def enforced_with(
        self, own: Mapping[str, Any] | None, *, groups: bool
    ) -> EnforcedLimits | None:
        """Return a sandbox's limits, each with its means of enforcement; ``None`` for no limits.

        :param own: the limits of this sandbox. They replace those of the SandboxHost.
        :param groups: whether the sandbox may get its own cgroups.
        :raises RunscError: a limit is out of range, or can't be enforced on this host.
        """
        if not own and (groups or self.enforced is None):
            return self.enforced
        return limits_of(replace(self.request, **(own or {})), self.writable, groups=groups)

    @functools.cached_property
    def _release(self) -> Release:
        """The release of runsc, cached because release_of() may execute runsc."""
        return release_of(self.runsc)

    def config_for(
        self,
        args: Sequence[str] | None,
        *,
        env: Mapping[str, str] | None,
        cwd: str | None,
        user: checks.AnyUser | None,
        groups: Sequence[int] | None = None,
        hostname: str | None = None,
        terminal: bool = False,
        outlives: bool = False,
        disk: int = 0,
    ) -> bytes:
        """Return the config.json of one sandbox.

        :param args: the command; ``None`` for a sandbox whose PID 1 is the agent.
        :param user: the command's uid and gid, or names from /etc/passwd and /etc/group inside.
        :param groups: the supplementary groups of the command; ``None`` for the groups of `user`.
        :param hostname: the hostname in the sandbox; ``None`` for that of the SandboxHost.
        :param outlives: whether an agent that is PID 1 keeps running when its connection is closed.
        :param disk: the size of each tmpfs, in bytes; 0 means no limit.
        :raises PlanError: an id of `user` is not mapped.
        :raises NamespaceError: usernsctl was reinstalled after the SandboxHost had been created.
        :raises CommandError: the command or `cwd` does not exist in the sandbox, or can't be used.
        :raises ValueError: an argument, a variable or `cwd` can't be encoded in UTF-8.
        """
        self._check_agent()
        variables = checks.variables(env)
        _check_utf8(args or (), variables, cwd or "")
        request = replace(
            self.request,
            args=tuple(args or ()),
            env=variables,
            groups=tuple(groups or ()),
            terminal=terminal,
            binds=(),
        )
        if hostname is not None:
            request = replace(request, hostname=hostname)
        if user is not None:
            request = self._with_user(request, checks.user_of(user), groups)
        nested, request = self._nested_ids(request, groups)
        wanted = copy.deepcopy(self.prepared.config)
        apply_request(wanted, request, wanted["root"]["path"], ())
        limit_tmpfs(wanted, disk)
        process = wanted["process"]
        if cwd is not None:
            process["cwd"] = cwd
        self._check(process, has_command=args is not None, cwd=cwd)
        if args is None:
            options = ["--outlives"] if outlives else []
            set_agent_as_init(wanted, self._release, AGENT_INSIDE, *options)
        else:
            # Remove the annotation if a bundle contains it: only set_agent_as_init() may set it.
            (wanted.get("annotations") or {}).pop(COMMANDS_ANNOTATION, None)
            if self.request.verify:
                process["args"] = [VERIFIER_INSIDE, *nested, *process["args"]]
        oci.validate(wanted)
        return oci.serialise(wanted)

    def _with_user(
        self,
        request: Request,
        user: tuple[int, int] | checks.NamedUser,
        groups: Sequence[int] | None,
    ) -> Request:
        """Return `request` with the user of the sandbox's command.

        :param groups: the supplementary groups that the caller requested in place of those of
            `user`, or ``None``.
        :raises CommandError: a name does not exist in the sandbox (cause ``user-unknown``).
        :raises PlanError: an id is not mapped.
        """
        home_directory = None
        if isinstance(user, checks.NamedUser):
            # Import the module here, because few sandboxes have a user that is given by name.
            from usernsctl.gvisor.launch import accounts

            with self.view() as seen:
                found = accounts.read_account(user, lambda path: accounts.read_file(seen, path))
            user, home_directory = (found.uid, found.gid), found.home
            if groups is None:
                request = replace(request, groups=found.groups)
        check_ids(self._ids, user, nests=self.request.verify)
        if request.bundle is None:
            variables = {"HOME": home_directory or default_home(user[0]), **request.env}
            request = replace(request, env=variables)
        return replace(request, user=user)

    def _nested_ids(
        self, request: Request, groups: Sequence[int] | None
    ) -> tuple[list[str], Request]:
        """Return the arguments with which usernsctl-verify maps the command's uid and gid.

        The arguments are empty if the namespace maps both ids. Otherwise, usernsctl-verify creates
        a user namespace that maps only these two ids, so the command gets no supplementary groups.

        :param groups: the supplementary groups that the caller requested.
        :returns: the arguments, and the request. If there are arguments, this request's user is
            0:0.
        :raises PlanError: the caller requested supplementary groups, and a uid or gid that is not
            mapped.
        """
        if request.user is None:
            return [], request
        user = ids_of(request)
        if self._ids.has(user):
            return [], request
        if groups:
            raise PlanError(
                "groups: a user whose ids are not mapped can have no supplementary groups",
                step="plan",
                cause="inside-id-unmapped",
                remedy="map more ids: idmap=IdMap.auto()",
            )
        return [VERIFY_AS, *map(str, user)], replace(request, user=(0, 0), groups=())

    def open_directory(self) -> OpenFile:
        """Open the directory that contains the sandboxes' directories; the caller must close it.

        :raises ValueError: the host is closed.
        """
        with self._shared.use() as (directory,):
            path = f"{self.prepared.scratch}/{BOXES}"
            return OpenFile.own(path, fcntl.fcntl, directory, fcntl.F_DUPFD_CLOEXEC, 3)

    def _check_agent(self) -> None:
        """Check that usernsctl-agent was not replaced.

        The source of the agent's bind mount is the file that existed when the SandboxHost was
        created. If the file was replaced, it has no links, and can't be bind-mounted any more.

        :raises NamespaceError: usernsctl-agent was replaced.
        """
        source = next(source for source, inside in self.prepared.binds if inside == AGENT_INSIDE)
        below = source.removeprefix(self.prepared.scratch)
        with self._shared.use() as (directory,):
            link_count = os.stat(f"..{below}", dir_fd=directory).st_nlink
        if not link_count:
            raise NamespaceError(
                "usernsctl-agent was replaced after this SandboxHost was created, as by an upgrade",
                step="sandbox",
                remedy="create a new SandboxHost",
            )

    def _check(self, process: Mapping[str, Any], *, has_command: bool, cwd: str | None) -> None:
        """Check that the command and the working directory exist in the sandbox.

        :param process: the ``process`` of the config.json.
        :param cwd: the working directory that the caller requested, or ``None``.
        :raises CommandError: the directory or the command does not exist, or can't be used.
        """
        request = self.request
        tree = request.rootfs or request.bundle
        try:
            seen = self.view()
        except PermissionError:
            # Skip the check: this process may not search a directory above a mount point, so only
            # runsc can check the command.
            return
        with seen:
            if cwd is not None:
                is_here = not tree and not request.expose_root and os.path.isdir(cwd)
                remedy = self.remedies.show(cwd) if is_here else None
                view.check_directory(seen, cwd, f"cwd={cwd!r}", remedy)
            if has_command:
                view.check(
                    process["args"][0],
                    seen,
                    search=search_path(process.get("env") or ()),
                    cwd=process["cwd"],
                    caller=os.environ,
                    tree=tree,
                    remedies=self.remedies,
                )

    @functools.cached_property
    def _owners(self) -> MappedIds | None:
        """Return ids whose directories root in the sandbox may search even if this process may not.

        The result is all mapped ids if root in the sandbox has a capability to search any
        directory, or if more than one id is mapped (user_namespaces(7)); otherwise None.
        """
        granted = self.prepared.config["process"].get("capabilities") or {}
        overrides = _SEARCHING.intersection(granted.get("effective") or ())
        return self._ids if overrides or self._ids.count > 1 else None

    def view(self) -> View:
        """Return an object that looks up paths as a sandbox of this host sees them.

        The files are opened from outside of the mount namespace.

        :raises ValueError: the host is closed.
        """
        with self._shared.use() as (directory,):

            def opened(path: str) -> PathDescriptor:
                flags = os.O_PATH | os.O_CLOEXEC
                below = path.removeprefix(self.prepared.scratch)
                return PathDescriptor.own(path, os.open, f"..{below}", flags, dir_fd=directory)

            made = self.prepared
            return View.built(made.scratch, made.binds, made.empty, opened, self._owners)

    def close(self) -> None:
        """Close the descriptors of the namespaces; sandboxes keep running."""
        self.namespace.close()
        self.directory = -1
        self._shared.close()

    def __del__(self) -> None:
        if hasattr(self, "_shared"):
            self.close()


class HostBase(ClosingMixin):
    """The base class of :class:`SandboxHost`, without the methods that start sandboxes."""

    _what = "a SandboxHost"

    def __init__(self, idmap: AnyIdMap | None = None, **options: Unpack[NamedHostOptions]) -> None:
        """Create the namespace and the root filesystem, as ``usernsctl run`` does."""
        self._request = request = Request.for_host({"idmap": idmap, **options})
        self._prepared: HostNamespace = HostNamespace(request)

    @classmethod
    async def create_async(
        cls, idmap: AnyIdMap | None = None, **options: Unpack[NamedHostOptions]
    ) -> Self:
        """Create a SandboxHost without blocking the event loop, and return it when it is ready.

        If this call is cancelled, the new host is closed.

        :param idmap: as for the constructor.
        :param options: as for the constructor.
        :raises UsernsError: as the constructor does.
        :raises ValueError: as the constructor does.
        :raises TypeError: as the constructor does.
        """
        return await start_in_executor(lambda: cls(idmap, **options), cls.close)

    @property
    def prepared(self) -> HostNamespace:
        """The namespaces and the root filesystem.

        :meta private:
        """
        return self._prepared

    @property
    def request(self) -> Request:
        """The arguments that all sandboxes of the host share.

        :meta private:
        """
        return self._request

    @property
    def directory(self) -> int:
        """A descriptor of the directory with all sandboxes' directories; -1 once closed.

        :meta private:
        """
        return self.prepared.directory

    @property
    def namespace(self) -> Namespace:
        """The namespaces in which runsc runs; :meth:`close` closes them."""
        return self.prepared.namespace

    def close(self) -> None:
        """Close the descriptors of the namespace. Sandboxes keep running.

        Any thread may call this method at any time.
        """
        self._is_closed = True
        self._prepared.close()

    def _holds(self) -> bool:
        # _prepared does not exist if the constructor has raised.
        return hasattr(self, "_prepared") and not self._is_closed

    def __repr__(self) -> str:
        shown = self._request.bundle or self._request.rootfs or "/"
        if shown == "/" and not self._request.expose_root:
            shown = "this machine's programs"
        return f"<SandboxHost: {shown}{', closed' if self._is_closed else ''}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a SandboxHost can't be copied or pickled, because of its descriptors; "
            "create one in each process"
        )


def check_host(given: Any) -> HostBase:
    """Return `given`, the argument `host`, if it is a SandboxHost.

    :raises TypeError: `given` has the wrong type.
    """
    if not isinstance(given, HostBase):
        raise TypeError(f"host must be a SandboxHost, not {given!r}")
    return given


def _check_utf8(args: Iterable[str], variables: Mapping[str, str], cwd: str) -> None:
    """Check that config.json can contain the command, the variables and the working directory.

    :raises ValueError: a string can't be encoded in UTF-8.
    """
    for number, word in enumerate(args):
        checks.check_utf8(f"args[{number}]", word)
    for name, value in variables.items():
        checks.check_utf8(f"env[{name!r}]", name + value)
    checks.check_utf8("cwd", cwd)


def _join(kept: Namespace | str, network: str) -> tuple[Namespace, MappedIds]:
    """Open a persistent namespace, with a new mount namespace for the root filesystem.

    :param network: the network of the sandboxes.
    :returns: the namespaces, as an object with its own descriptors, and the mapped ids.
    :raises ValueError: the Namespace is closed, or has a PID namespace: runsc would have no /proc
        of that PID namespace.
    :raises NamespaceError: no persistent namespace has the name `kept`, or a system call failed.
    :raises CommandError: the namespace doesn't have the network `network`.
    """
    with contextlib.ExitStack() as undo:
        if isinstance(kept, str):
            known = find_named(kept)
            check_joined(network, known)
            kept = undo.enter_context(Namespace.of_holder(known))
        if kept.has("pid"):
            raise ValueError("namespace: sandboxes can't be started in a PID namespace")
        # Let a process in the namespaces create the new mount namespace, so that the persistent
        # user namespace owns it. The process waits until it is killed.
        maker = undo.enter_context(kept.popen([_builder()], mount=True, cwd="/", stdin=PIPE))
        undo.callback(maker.kill)
        uid, gid = (read_map(f"/proc/{maker.pid}/{name}_map") for name in ("uid", "gid"))
        joined = Namespace.from_pid(maker.pid)
        return joined, MappedIds.of_setup(uid, gid, joined.target().setup)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLayout:
    """The paths of a SandboxHost's files in its mount namespace.

    :ivar scratch: the path of the tmpfs that contains the files.
    :ivar can_mount_proc: whether a procfs can be mounted in a new PID namespace.
    :ivar binds: the source and the destination of each bind mount that runsc creates.
    :ivar empty: the paths in the sandbox on which gVisor mounts an empty filesystem.
    :ivar config: the config.json from which the config.json of each sandbox is derived.
    """

    scratch: str
    can_mount_proc: bool
    binds: tuple[tuple[str, str], ...]
    empty: tuple[str, ...]
    config: dict[str, Any]

    def program(self, name: str) -> str:
        """Return the path of a program of this package in the mount namespace."""
        return f"{self.scratch}/programs/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostPlan:
    """A plan to create the files of a SandboxHost.

    :ivar config: the config.json from :func:`usernsctl.gvisor.launch.plan.plan_host`.
    :ivar files: the open files to which the launch refers.
    :ivar is_script: whether runsc is a script, which an interpreter executes.
    :ivar several: whether more than one id is mapped.
    :ivar enforced: the limits of the sandboxes, or ``None``.
    :ivar network: the path and the options of usernsctl-network; empty if there is no private
        network.
    :ivar writable: the sources of the writable bind mounts.
    """

    launch: Launch
    config: dict[str, Any]
    files: tuple[PathDescriptor, ...]
    is_script: bool
    several: bool
    enforced: EnforcedLimits | None
    network: tuple[str, ...]
    writable: frozenset[str]

    def close(self) -> None:
        """Close the plan's open files."""
        for file in self.files:
            file.close()


def _plan_host(request: Request, ids: MappedIds, program: str) -> _HostPlan:
    check_ids(ids, (0, 0))
    with contextlib.ExitStack() as undo:
        used = open_files(request, program, ids)
        undo.callback(used.close)
        state = state_directory()
        refuse_own(used, [used.debug_log.path] if used.debug_log else [])
        scratch = used.scratch_places([state])
        facts = collect_facts(request, os.environ, program, used, ids, scratch=scratch)
        programs = [own_program(name, purpose) for name, purpose in _PROGRAMS.items()]
        agent = own_program("usernsctl-agent", "starts commands in sandboxes")
        launch, wanted = plan_host(request, facts, [one.path for one in programs], agent.path)
        writable = used.writable_sources()
        undo.pop_all()
    files = (*used.files(), *programs, agent)
    return _HostPlan(
        launch=launch,
        config=wanted,
        files=files,
        is_script=facts.runsc_is_script,
        several=ids.count > 1,
        enforced=facts.enforced,
        network=facts.network_command,
        writable=frozenset(writable),
    )


def _build_host(namespace: Namespace, order: _HostPlan) -> tuple[HostLayout, int]:
    """Run usernsctl-build, which creates the root filesystem, in the namespaces.

    :returns: the layout of the files, and a descriptor of the directory that will contain the
        sandboxes' directories.
    :raises UsernsError: a file could not be created.
    """
    sources = descriptors(order.launch, order.files)
    with contextlib.ExitStack() as undo:
        text = undo.enter_context(memory_file("launch", order.launch.encode()))
        ours, theirs = map(undo.enter_context, socket.socketpair())
        with contextlib.ExitStack() as given:
            numbers = [above_stdio(fd, given) for fd in (text.fileno(), theirs.fileno(), *sources)]
            command = [_builder(), *map(str, numbers)]
            pass_fds = sorted({*numbers})
            try:
                # Use / as the working directory, because root in the namespace may not be allowed
                # to search the caller's working directory.
                with namespace.popen(
                    command, cwd="/", stdout=PIPE, stderr=PIPE, pass_fds=pass_fds
                ) as builder:
                    stdout, stderr = read_until_exit(builder)
            except CommandNotExecutableError as error:
                # usernsctl-build is executable, so the error means that root in the namespace may
                # not search a directory of the program's path.
                raise NamespaceError.from_os_error(
                    error, command[0], step="sandbox", cause="path-closed-inside"
                ) from None
        theirs.close()
        fds: list[int] = []
        # Do not block: a child that another thread has forked may keep `theirs` open.
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            _, fds = receive(ours, 1, 1)
        for fd in fds:
            undo.callback(os.close, fd)
        if builder.returncode or not fds:
            raise _failure(builder.returncode, stdout, stderr)
        scratch, proc, *paths = map(os.fsdecode, stdout.split(b"\0")[:-1])
        binds = tuple(zip(paths[::2], paths[1::2], strict=True))
        prepared = HostLayout(
            scratch=scratch,
            can_mount_proc=proc == "1",
            binds=binds,
            empty=tuple(
                step.named["inside"]
                for step in order.launch.steps
                if step.verb == "mount" and step.named["shows"] == "empty"
            ),
            config=completed(order.config, _places(scratch, binds), several=order.several),
        )
        directory = fcntl.fcntl(fds[0], fcntl.F_DUPFD_CLOEXEC, 3)
    return prepared, directory


def _check_place_of_agent(prepared: HostLayout, directory: int) -> None:
    """Check that the agent's mount point is a regular file, or does not exist.

    If the mount point were a symbolic link, the agent would be mounted over the target of the link.
    FIFOs need no check here: they are rejected for every bind mount.

    :param directory: a descriptor of the directory that contains the sandboxes' directories.
    :raises BindError: the mount point is another type of file.
    """
    is_file = any(inside == AGENT_INSIDE for _, inside in prepared.binds)
    # If this process may not search the directory (PermissionError), omit the check: the agent's
    # bind mount will fail later if the mount point has another type.
    with contextlib.suppress(PermissionError, FileNotFoundError):
        found = os.stat(f"../root{AGENT_INSIDE}", dir_fd=directory, follow_symlinks=False)
        is_file = is_file and stat.S_ISREG(found.st_mode)
    if not is_file:
        raise BindError(
            f"{AGENT_INSIDE} in the root filesystem is not a regular file: the agent can't be "
            "mounted there",
            step="bind",
            filename=AGENT_INSIDE,
            remedy=f"remove {AGENT_INSIDE} from the root filesystem",
        )


def _builder() -> str:
    return find_program("usernsctl-build", "makes the root filesystem of sandboxes")


def _failure(status: int, stdout: bytes, stderr: bytes) -> UsernsError:
    """Return the error for a usernsctl-build that failed.

    :param status: the exit status of usernsctl-build.
    """
    fields = stdout.split(b"\0")[:-1]
    if status == 1 and len(fields) == _core.FAILURE_FIELDS:
        return _core.failure(fields)
    reason = stderr.decode(errors="replace").strip().split("\n")[-1]
    reason = reason or f"usernsctl-build ended with status {status}"
    return NamespaceError(f"the root filesystem could not be created: {reason}", step="sandbox")


def _places(scratch: str, binds: Iterable[tuple[str, str]]) -> dict[Record, Any]:
    """Return the paths that replace the placeholders in a SandboxHost's config.json."""
    found: dict[Record, Any] = {record("json-root"): f"{scratch}/root"}
    for number, (source, destination) in enumerate(binds):
        found[record("json-bind-source", number)] = source
        found[record("json-bind-destination", number)] = destination
    return found
