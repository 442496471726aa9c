"""Everything of this machine that a launch depends on: files opened once, ids, namespaces."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import select
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping

from usernsctl import _core
from usernsctl._core.values import find_program
from usernsctl._lean import Any, dataclass, field, fields
from usernsctl._system import mounts
from usernsctl._system.handover import close_inherited
from usernsctl._system.paths import (
    ForeignLinkError,
    PathDescriptor,
    WritableByOthersError,
    make_directory,
    open_path,
    open_program,
    state_directory,
    templates_directory,
)
from usernsctl._system.target import Target, make_target
from usernsctl._text import quoted
from usernsctl.errors import (
    BindError,
    CommandError,
    NamespaceError,
    PlanError,
    RunscError,
    UsernsError,
)
from usernsctl.gvisor.launch import bundle as launch_bundle
from usernsctl.gvisor.launch.bundle import (
    OpenBundle,
    open_bundle,
)
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.launch.steps import Launch
from usernsctl.gvisor.runsc.find import find_runsc, runsc_environment
from usernsctl.maps import Extent, IdMap, MappedIds, plan


def refuse_own(
    sources: Mapping[str, PathDescriptor], writable: Collection[str], others: Iterable[str] = ()
) -> None:
    """Refuse to show what holds a directory of usernsctl's own, or lies in it.

    A directory is compared by what it is, not by its name: by a link or another mount, it is the
    same directory. The directories need not exist yet, but a program that may only read sees
    nothing of templates where there are none.

    :param sources: what is to be shown, by the names that it was asked for by.
    :param writable: the names of those that a program inside may write to.
    :param others: paths of further directories that are kept from sandboxes.
    :raises BindError: one does (cause ``bind-shows-state``).
    """
    shown = {name: source.fd for name, source in sources.items()}
    for directory in (state_directory(), *others):
        _core.refuse_to_show(shown, directory)
    templates = templates_directory()
    if templates is not None:
        if not os.path.exists(templates):
            shown = {name: fd for name, fd in shown.items() if name in writable}
        _core.refuse_to_show(shown, templates)


# Where the tmpfs may go: directories that most machines have, and that a run seldom needs.
_SCRATCH_PLACES = ("/mnt", "/media", "/srv", "/tmp", "/run", "/var/tmp", "/home", "/boot")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFiles:
    """What a run uses of the machine.

    :ivar runsc: the program; for a script its path counts, which it may look at itself.
    :ivar watcher: the program that waits for runsc, and passes signals on.
    :ivar verifier: the program that proves the kernel, or ``None`` if that is not wanted.
    :ivar tree: the root filesystem to be shown as it is, or ``None`` for this machine's programs.
    :ivar binds: those of the request.
    :ivar sources: what is to be bound, by the source that `binds` and config.json have for it.
    :ivar state: the directory for runsc's state, or ``None`` for one of the run's own.
    :ivar debug_log: the same for its logs.
    """

    runsc: PathDescriptor
    watcher: PathDescriptor
    verifier: PathDescriptor | None
    tree: PathDescriptor | None
    binds: tuple[Bind, ...] = ()
    sources: Mapping[str, PathDescriptor] = field(default_factory=dict)
    state: PathDescriptor | None = None
    debug_log: PathDescriptor | None = None

    def close(self) -> None:
        """Let go of all these files."""
        for one in self.files():
            one.close()

    def files(self) -> list[PathDescriptor]:
        """All of them."""
        values = (getattr(self, one.name) for one in fields(self))
        return [
            *(value for value in values if isinstance(value, PathDescriptor)),
            *self.sources.values(),
        ]

    def scratch_places(self, others: Iterable[str] = ()) -> tuple[str, ...]:
        """Directories to mount a tmpfs on: nothing is in them that is gone to by its path.

        :param others: further paths that must stay in sight.
        :raises NamespaceError: there is no such directory.
        """
        needed = [one.path for one in (self.runsc, self.state) if one is not None]
        # Python still imports from there.
        needed += [os.path.abspath(entry) for entry in (*sys.path, __file__)]
        needed += others
        needed += [os.path.realpath(path) for path in needed]
        free = tuple(
            place
            for place in free_places(needed)
            if os.path.isdir(place) and os.path.realpath(place) == place
        )
        if free:
            return free
        raise _no_place()


def free_places(needed: Iterable[str]) -> tuple[str, ...]:
    """Directories for a tmpfs that have none of these paths in them, whether or not they exist."""
    paths = list(needed)
    return tuple(
        place
        for place in _SCRATCH_PLACES
        if not any(path == place or path.startswith(f"{place}/") for path in paths)
    )


def _no_place() -> NamespaceError:
    return NamespaceError(
        f"the run uses paths in each of {', '.join(_SCRATCH_PLACES)}, "
        "so there is no directory left to mount its own files on",
        step="mount",
        remedy="make an empty directory /mnt",
    )


def _open_files(
    request: Request,
    runsc: str,
    tree: str | PathDescriptor | None,
    bundle_sources: Mapping[str, PathDescriptor | None] | None = None,
    *,
    makes: bool = True,
) -> HostFiles:
    """Open what `request` names.

    :param tree: the root filesystem to show, or ``None`` for this machine's programs.
    :param bundle_sources: those of the binds of a bundle, as its config.json has them. What is
        ``None`` is opened here, as if the caller had named it.
    :param makes: whether directories for runsc to write to are made, if need be; those that are
        missing are left out otherwise.
    :raises BindError: a path to be shown inside does not exist.
    :raises RunscError: our own program is missing, or runsc could not write to a directory.
    """
    sources: dict[str, PathDescriptor] = {}
    for name, source in (bundle_sources or {}).items():
        sources[name] = _follow(f"the bundle's bind of {name}", name) if source is None else source
    binds = []
    for bind in request.binds:
        source = _follow(f"--bind {bind.source}", bind.source)
        if not bind.read_only:
            _refuse_kernel(bind.source, source)
        sources[source.path] = source
        binds.append(Bind(source.path, _destination(bind), bind.read_only))
    return HostFiles(
        runsc=open_program(runsc),
        watcher=_watcher(),
        verifier=_verifier() if request.verify else None,
        tree=_open_tree(tree) if isinstance(tree, str) else tree,
        binds=tuple(binds),
        sources=sources,
        state=_make_directory(request.state, makes=makes),
        debug_log=_make_directory(request.debug_log, makes=makes),
    )


def _open_tree(path: str) -> PathDescriptor:
    try:
        found = open_path(path)
        if found.is_directory:
            return found
        found.close()
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory")
    except OSError as error:
        known = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a directory"}
        # No name for the error: it would keep what is open in these frames.
        raise _error(
            BindError,
            f"the root filesystem {path} {known.get(error.errno or 0, '')}".rstrip(),
            error,
            path,
            step="rootfs",
            cause="rootfs-missing" if error.errno in known else None,
            remedy="name a directory of this machine, such as that of an unpacked image"
            if error.errno in known
            else None,
            says=error.errno not in known,
        ) from error


def _follow(what: str, path: str) -> PathDescriptor:
    try:
        return open_path(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            remedy = f"namei -l {quoted(path)}    # says whose each directory on the way is"
            raise _error(BindError, what, error, path, step="bind", remedy=remedy) from error
        raise _error(
            BindError,
            f"{what}: there is no {path} on this machine",
            error,
            path,
            step="bind",
            cause="bind-source-missing",
            remedy="SRC is a path of this machine, and DST one in the sandbox: "
            "name what is there, or make it first",
            says=False,
        ) from error


def _error(
    kind: type[UsernsError],
    what: str,
    error: OSError,
    path: str,
    *,
    step: str,
    cause: str | None = None,
    remedy: str | None = None,
    says: bool = True,
) -> UsernsError:
    """An error about a file that could not be opened.

    :param says: whether what the kernel says is not in `what` already.
    """
    # Its frames have files open.
    error.__traceback__ = None
    known = error if isinstance(error, ForeignLinkError | WritableByOthersError) else None
    return kind.kind_for(error.errno or 0)(
        f"{what}: {error.strerror}" if says else what,
        step=step,
        errno=error.errno or 0,
        filename=path,
        cause=known.cause if known else cause,
        remedy=known.remedy if known else remedy,
    )


def home_directories(environ: Mapping[str, str]) -> set[str]:
    """The home directories of the caller: by HOME, and by the user database.

    :returns: absolute paths; where links lead elsewhere, that one too.
    """
    homes = {environ.get("HOME", "")}
    with contextlib.suppress(KeyError):
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    # normpath(3) leaves two slashes at the beginning alone.
    named = {"/" + os.path.normpath(home).lstrip("/") for home in homes if home.startswith("/")}
    return (named | {os.path.realpath(home) for home in named}) - {"/"}


def _refuse_kernel(name: str, source: PathDescriptor) -> None:
    """Refuse to have a program inside write to what acts on the kernel. Devices are no such files.

    :raises BindError: it is one, or holds one (cause ``bind-writes-machine``).
    """
    part = _core.machine_part(source.fd)
    if part not in (None, "/dev"):
        raise BindError(
            f"--bind {name}: {part} can't be written to from a sandbox: it acts on this machine's "
            "kernel",
            step="bind",
            filename=name,
            cause="bind-writes-machine",
            remedy="show it without :rw, or only what is needed of it",
        )


def own_program(name: str, purpose: str) -> PathDescriptor:
    """A program that this package brings with it.

    :param purpose: what it does, for the message should it be missing.
    :raises CommandError: it is missing, or can't be opened.
    """
    path = find_program(name, purpose)
    try:
        return open_program(path)
    except OSError as error:
        raise CommandError(
            f"{path}: {error.strerror}", step="sandbox", errno=error.errno or 0, filename=path
        ) from error


def _verifier() -> PathDescriptor:
    return own_program("usernsctl-verify", "proves that a sandbox is one")


def _watcher() -> PathDescriptor:
    return own_program("usernsctl-watch", "waits for runsc")


def _destination(bind: Bind) -> str:
    destination = os.path.normpath(bind.destination)
    if not bind.destination.startswith("/") or destination.strip("/") == "":
        raise BindError(
            f"--bind {bind.source}:{bind.destination}: "
            "the destination must be an absolute path other than /",
            step="bind",
            filename=bind.destination,
        )
    return "/" + destination.lstrip("/")


def _make_directory(path: str | None, *, makes: bool) -> PathDescriptor | None:
    """Open a directory for runsc to write to; it is made unless there is one.

    :raises RunscError: it can't be made, or not be written to, or others could change it: runsc
        follows links there.
    """
    if path is None or not (makes or os.path.lexists(path)):
        return None
    what = f"{path}, which runsc was to write to"
    try:
        made = make_directory(path)
        if not os.access(f"/proc/self/fd/{made.fd}", os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        # No name for the error, as above.
        raise _error(
            RunscError,
            what,
            error,
            path,
            step="runsc",
            cause="runsc-root-unwritable",
            remedy="name a directory that you may write to",
        ) from error
    return made


def check_ids(ids: MappedIds, user: tuple[int, int]) -> None:
    """Check that runsc will find itself to be root, and the command the ids it is to have.

    :raises PlanError: one of these ids is not mapped.
    """
    if ids.become != (0, 0):
        raise PlanError(
            "the caller must be uid 0 and gid 0 inside: otherwise runsc has no capabilities there, "
            "and makes a namespace of its own",
            step="plan",
            remedy="map ids 1 and up, and leave 0 to the caller",
        )
    for name, option, wanted, extents in (
        ("uid", "--map-users", user[0], ids.uid),
        ("gid", "--map-groups", user[1], ids.gid),
    ):
        if not any(e.has(wanted) for e in extents):
            mapped = ", ".join(map(_range, extents))
            raise PlanError(
                f"{name} {wanted} is not mapped: the map has {mapped}",
                step="plan",
                remedy=f"choose one of these, or map more with {option}",
            )


def _range(extent: Extent) -> str:
    last = extent.inside + extent.count - 1
    return str(extent.inside) if extent.count == 1 else f"{extent.inside} to {last}"


# A mount namespace of the run's own, whatever else there is.
_NAMESPACES = ("mount",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetNamespace:
    """Where runsc is to run.

    :ivar ids: those that there are.
    :ivar target: how to get there.
    :ivar pid: whether it has a PID namespace, which a process does not move into.
    :ivar single_id_reason: why there is one id only though more were asked for, or ``None``.
    """

    ids: MappedIds
    target: Target
    pid: bool = False
    single_id_reason: str | None = None

    @classmethod
    def new(cls, idmap: IdMap) -> TargetNamespace:
        """A user namespace that is made for the run.

        :raises MapError: the map is malformed.
        :raises PlanError: the caller may not have it.
        """
        planned = plan(idmap)
        target = make_target(_NAMESPACES, planned=planned)
        return cls(
            ids=MappedIds(uid=planned.uid, gid=planned.gid, become=planned.become),
            target=target,
            single_id_reason=planned.single_id_reason,
        )

    @classmethod
    def kept(cls, name: str) -> TargetNamespace:
        """A user namespace that is kept under a name.

        :raises NamespaceError: there is none of that name.
        """
        # Only who names a namespace pays for these.
        from usernsctl.namespaces.named import find_named
        from usernsctl.namespaces.namespace import Namespace

        found = find_named(name)
        namespace = Namespace.of_holder(found)
        target = make_target(_NAMESPACES, namespace=namespace)
        setup = target.setup
        become = (-1 if setup.uid is None else setup.uid, -1 if setup.gid is None else setup.gid)
        return cls(
            ids=MappedIds(uid=found.uid, gid=found.gid, become=become),
            target=target,
            pid=namespace.has("pid"),
        )

    def enter(self, *, reraise_signal: bool) -> None:
        """Move this process there, into a new mount namespace.

        Of its caller's descriptors it keeps standard input, output and error only. Where there is a
        PID namespace, this returns in a child, which is in it. This process waits for the child,
        and ends as it does.

        :param reraise_signal: whether a signal that kills the child kills this process as well.
            Otherwise the exit status is 128+N.
        :raises NamespaceError: the kernel refused.
        """
        close_inherited()
        self.target.enter()
        if self.pid:
            _go_on_in_child(reraise_signal=reraise_signal)
            mounts.mount_own_proc()


def _go_on_in_child(*, reraise_signal: bool) -> None:
    parent = os.pidfd_open(os.getpid())
    # None gets lost: what comes before un_stand_in() waits for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(_core.stand_in(child))
        if status < 0 and reraise_signal:
            _core.reraise(-status)
        os._exit(status if status >= 0 else 128 - status)
    # Before it is looked whether the parent is there: the signal comes from one that dies later.
    _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL))
    if select.select([parent], [], [], 0)[0]:
        os._exit(128 + signal.SIGKILL)
    os.close(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a launch is decided by, besides the request. All paths are absolute.

    :ivar version: of this package.
    :ivar ids: those that the namespace has.
    :ivar is_root: whether the caller is root, who may read more than programs inside should.
    :ivar homes: the home directories of the caller, which stay hidden; ``None``: those of whoever
        starts it later.
    :ivar runsc: runsc, by the path that it is called by.
    :ivar runsc_file: the same without symbolic links.
    :ivar runsc_is_script: whether it has to be executed by its path.
    :ivar watcher: the program that waits for runsc.
    :ivar verifier: the program that proves the kernel, or ``None`` if that is not wanted.
    :ivar runsc_env: the environment of runsc.
    :ivar tree: the root filesystem to be shown as it is, or ``None`` for this machine's programs.
    :ivar binds: those of the request, their sources without symbolic links.
    :ivar sources: what is to be bound, by the source that `binds` and `bundle` have for it.
    :ivar state: the directory for runsc's state, or ``None`` for one of the run's own.
    :ivar debug_log: the same for its logs.
    :ivar bundle: the config.json of a bundle as :func:`config.read_bundle` gave it, or ``None``.
    :ivar scratch: where the run's tmpfs may go.
    """

    version: str
    ids: MappedIds
    is_root: bool = False
    homes: frozenset[str] | None = frozenset()
    runsc: str
    runsc_file: str
    runsc_is_script: bool = False
    watcher: str
    verifier: str | None
    runsc_env: Mapping[str, str]
    tree: str | None = None
    binds: tuple[Bind, ...] = ()
    sources: Mapping[str, str]
    state: str | None = None
    debug_log: str | None = None
    bundle: Mapping[str, Any] | None = None
    scratch: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found.

    :ivar used: the files, held open, so that they stay those that were found.
    :ivar place: where runsc is to run.
    """

    facts: Facts
    used: HostFiles
    place: TargetNamespace


def inspect(
    request: Request,
    caller: Mapping[str, str],
    *,
    notify: Callable[[str], object] = lambda text: None,
    makes: bool = True,
) -> Inspection:
    """Look for all that a run takes, and open its files.

    :param caller: the environment of the caller.
    :param notify: is told what the user should know.
    :param makes: whether directories for runsc to write to are made, if need be.
    :raises UsernsError: something can't be had, or may not be.
    """
    if request.terminal and not os.isatty(0):
        # gVisor would wait for a terminal that isn't there.
        raise CommandError("a terminal was asked for, but standard input is none", step="terminal")
    program = find_runsc(caller, request.program)
    assert request.kept is None or isinstance(request.kept, str)
    place = (
        TargetNamespace.kept(request.kept)
        if request.kept is not None
        else TargetNamespace.new(request.idmap)
    )
    if place.single_id_reason is not None:
        notify(f"going on with one id, as --allow-single-id allows: {place.single_id_reason}")
    check_ids(place.ids, request.user or (0, 0))
    bundle = open_bundle(request, request.bundle, place.ids) if request.bundle else None
    used = open_files(request, program, bundle, makes=makes)
    own = [one.path for one in (used.state, used.debug_log) if one is not None]
    refuse_own(used.sources, launch_bundle.writable_sources(used.binds, bundle), own)
    scratch = used.scratch_places()
    facts = collect_facts(request, caller, program, used, place.ids, bundle, scratch=scratch)
    return Inspection(facts=facts, used=used, place=place)


def open_files(
    request: Request, program: str, bundle: OpenBundle | None, *, makes: bool = True
) -> HostFiles:
    """Open what a request names besides its bundle.

    :param makes: see :func:`look`.
    :raises UsernsError: something of it can't be had.
    """
    if bundle is not None:
        return _open_files(request, program, bundle.tree, bundle.sources, makes=makes)
    tree = "/" if request.expose_root else request.rootfs
    return _open_files(request, program, tree, makes=makes)


def collect_facts(
    request: Request,
    caller: Mapping[str, str],
    program: str,
    used: HostFiles,
    ids: MappedIds,
    bundle: OpenBundle | None,
    *,
    scratch: tuple[str, ...],
) -> Facts:
    """The facts about files that are open.

    :param program: runsc, by the path that it is called by.
    :param scratch: where the run's tmpfs may go.
    """
    return Facts(
        version=_core.version(),
        ids=ids,
        is_root=os.geteuid() == 0,
        homes=frozenset(home_directories(caller)),
        runsc=program,
        runsc_file=used.runsc.path,
        runsc_is_script=is_script(used.runsc),
        watcher=used.watcher.path,
        verifier=used.verifier.path if used.verifier is not None else None,
        runsc_env=runsc_environment(is_named=request.program is not None),
        tree=used.tree.path if used.tree is not None else None,
        binds=used.binds,
        sources={name: source.path for name, source in used.sources.items()},
        state=_directory(used.state, request.state),
        debug_log=_directory(used.debug_log, request.debug_log),
        bundle=bundle.config if bundle is not None else None,
        scratch=scratch,
    )


def descriptors(launch: Launch, files: Iterable[PathDescriptor]) -> list[int]:
    """Those of the files that a launch calls its sources, in the order of these."""
    known = {file.path: file.fd for file in files}
    return [known[source.path] for source in launch.sources]


def _directory(found: PathDescriptor | None, wanted: str | None) -> str | None:
    """The path of a directory, which may be missing yet."""
    if found is not None or wanted is None:
        return found.path if found is not None else None
    return os.path.abspath(wanted)


def is_script(program: PathDescriptor) -> bool:
    """Whether it is executed by an interpreter, which needs a path to read it by."""
    try:
        with open(program.open(), "rb") as file:
            return file.read(2) == b"#!"
    except PermissionError:
        return False
