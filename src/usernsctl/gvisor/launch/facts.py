"""Facts about the host that a launch depends on: opened files, mapped ids, and namespaces."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import select
import signal
import sys
from collections.abc import Callable, Iterable, Mapping

from usernsctl import _core
from usernsctl._core.values import find_program
from usernsctl._lean import TYPE_CHECKING, Any, LateModule, dataclass, field, fields, replace
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
    cause_of_file_error,
)
from usernsctl.gvisor import oci
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.launch.steps import Launch
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.gvisor.runsc.find import find_runsc, runsc_environment
from usernsctl.maps import Extent, IdMap, MappedIds, plan

if TYPE_CHECKING:
    from usernsctl.gvisor.launch import limits, network
else:
    # Import limits and network on first use, because most runs have neither limits nor a network.
    limits = LateModule("usernsctl.gvisor.launch.limits")
    network = LateModule("usernsctl.gvisor.launch.network")


def refuse_own(used: HostFiles, others: Iterable[str] = ()) -> None:
    """Reject bind mounts that contain usernsctl's state or template directory, or are inside one.

    Directories are compared by device and inode, so neither a symbolic link nor another mount can
    hide them. The state and template directories need not exist yet. While the template directory
    does not exist, a read-only bind mount may contain its path, since there is no template to read.

    :param others: paths of other directories that no sandbox may see.
    :raises BindError: a source is rejected (cause ``bind-shows-state``).
    """
    shown = {name: source.fd for name, source in used.sources.items()}
    for directory in (state_directory(), *others):
        _core.refuse_to_show(shown, directory)
    templates = templates_directory()
    if templates is not None:
        if not os.path.exists(templates):
            writable = used.writable_sources()
            shown = {name: fd for name, fd in shown.items() if name in writable}
        _core.refuse_to_show(shown, templates)


# The mount flags of /proc: MS_NOSUID, MS_NODEV and MS_NOEXEC (mount(2), linux/mount.h).
_PROC_FLAGS = 0x2 | 0x4 | 0x8

# Candidate mount points for the tmpfs with the run's own files: directories that exist on most
# hosts, but that most runs do not use.
_SCRATCH_DIRECTORIES = ("/mnt", "/media", "/srv", "/tmp", "/run", "/var/tmp", "/home", "/boot")  # noqa: S108

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFiles:
    """Open files of the host that a run uses.

    :ivar runsc: the program runsc. A script is executed by its path, because the script may depend
        on the path.
    :ivar watcher: the program that waits for runsc and forwards signals.
    :ivar verifier: the program that checks that the kernel is gVisor's, or ``None``.
    :ivar tree: the root filesystem, or ``None`` for the host's programs.
    :ivar network: the program that creates the network of the sandbox, or ``None``.
    :ivar binds: the bind mounts of the request.
    :ivar sources: a mapping from the source paths in `binds` and config.json to the open sources.
    :ivar state: the directory for runsc's state, or ``None`` for a private directory.
    :ivar debug_log: the directory for runsc's debug logs, or ``None`` if the logs are discarded.
    :ivar bundle: the config.json of the bundle (``OpenBundle.config``), or ``None``.
    """

    runsc: PathDescriptor
    watcher: PathDescriptor
    verifier: PathDescriptor | None
    tree: PathDescriptor | None
    network: PathDescriptor | None = None
    binds: tuple[Bind, ...] = ()
    sources: Mapping[str, PathDescriptor] = field(default_factory=dict)
    state: PathDescriptor | None = None
    debug_log: PathDescriptor | None = None
    bundle: dict[str, Any] | None = None

    def close(self) -> None:
        """Close all open files of the run."""
        for file in self.files():
            file.close()

    def files(self) -> list[PathDescriptor]:
        """Return the open files of all fields of this object."""
        values = (getattr(self, field.name) for field in fields(self))
        return [
            *(value for value in values if isinstance(value, PathDescriptor)),
            *self.sources.values(),
        ]

    def writable_sources(self) -> set[str]:
        """Return the source paths of the writable bind mounts."""
        mounts = oci.bind_mounts(self.bundle) if self.bundle is not None else []
        return {bind.source for bind in self.binds if not bind.read_only} | {
            mount["source"] for mount in mounts if not oci.is_read_only(mount)
        }

    def scratch_places(self, others: Iterable[str] = ()) -> tuple[str, ...]:
        """Return candidate mount points for the run's tmpfs that hide no path the run still uses.

        :param others: additional paths that must stay visible.
        :raises NamespaceError: every candidate contains a path that the run uses.
        """
        needed = [file.path for file in (self.runsc, self.state) if file is not None]
        # Keep the directories of Python modules visible, because some modules are imported after
        # the tmpfs is mounted.
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
        raise _no_scratch()


def free_places(needed: Iterable[str]) -> tuple[str, ...]:
    """Return those candidate mount points for the run's tmpfs that contain no path in `needed`."""
    paths = list(needed)
    return tuple(
        place
        for place in _SCRATCH_DIRECTORIES
        if not any(path == place or path.startswith(f"{place}/") for path in paths)
    )


def _no_scratch() -> NamespaceError:
    return NamespaceError(
        f"no directory is free for the run's tmpfs: the run has paths in all of "
        f"{', '.join(_SCRATCH_DIRECTORIES)}",
        step="mount",
        cause="no-mount-point",
        remedy="mkdir /mnt",
    )


def open_files(request: Request, program: str, ids: MappedIds, *, makes: bool = True) -> HostFiles:
    """Open the files that a request names, and the request's bundle.

    :param program: the path of runsc.
    :param ids: the mapped ids, which must include the ids in the bundle.
    :param makes: whether to create missing directories for runsc's state and logs; if not, the
        fields of missing directories are ``None``.
    :raises BindError: a source of a bind mount does not exist.
    :raises BundleError: as :func:`usernsctl.gvisor.launch.bundle.open_bundle` does.
    :raises RunscError: a program of this package is missing, or the directory for state or logs is
        not writable.
    """
    sources: dict[str, PathDescriptor] = {}
    config: dict[str, Any] | None = None
    tree: PathDescriptor | None = None
    if request.bundle:
        # Import the module here, because it imports msgspec, which is needed only for bundles.
        from usernsctl.gvisor.launch.bundle import open_bundle

        bundle = open_bundle(request, request.bundle, ids)
        config, tree = bundle.config, bundle.tree
        sources.update(bundle.sources)
    elif request.expose_root or request.rootfs is not None:
        tree = _open_tree("/" if request.expose_root else str(request.rootfs))
    binds = []
    for bind in request.binds:
        source = _follow(f"--bind {bind.source}", bind.source)
        if not bind.read_only:
            _refuse_kernel(bind.source, source)
        sources[source.path] = source
        binds.append(Bind(source.path, _destination(bind), bind.read_only))
    if request.has_network and request.network in ("private", network.JOINED):
        binds += _resolver(binds, config, sources)
    return HostFiles(
        runsc=open_program(program),
        watcher=_watcher(),
        verifier=_verifier() if request.verify else None,
        tree=tree,
        network=_network() if request.has_network and request.network in network.MADE else None,
        binds=tuple(binds),
        sources=sources,
        state=_make_directory(request.state, makes=makes),
        debug_log=_make_directory(request.debug_log, makes=makes),
        bundle=config,
    )


# File name suffixes of archives.
_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2")


def _open_tree(path: str) -> PathDescriptor:
    try:
        found = open_path(path)
        if found.is_directory:
            return found
        found.close()
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory")
    except OSError as error:
        known = {errno.ENOENT: "does not exist", errno.ENOTDIR: "is not a directory"}
        remedy = "name a directory of this machine, such as that of an unpacked image"
        if error.errno == errno.ENOTDIR and path.endswith(_ARCHIVES):
            remedy = (
                f"unpack it: mkdir image; tar -C image --no-same-owner -xf {quoted(path)}\n"
                "an archive of `docker save` needs skopeo and umoci: docs/run.md, Images"
            )
        # Raise the new error without assigning it to a variable: the variable would form a
        # reference cycle with the frame in the error's traceback, and keep descriptors open.
        raise _error(
            BindError,
            f"the root filesystem {path} {known.get(error.errno or 0, '')}".rstrip(),
            error,
            path,
            step="rootfs",
            cause="rootfs-missing" if error.errno in known else None,
            remedy=remedy if error.errno in known else None,
            says=error.errno not in known,
        ) from error


def _follow(what: str, path: str) -> PathDescriptor:
    try:
        return open_path(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            remedy = f"namei -l {quoted(path)}    # shows owner and mode of each directory"
            raise _error(BindError, what, error, path, step="bind", remedy=remedy) from error
        names_file = path.endswith("/") and os.path.isfile(path.rstrip("/"))
        raise _error(
            BindError,
            f"{what}: {path} "
            + ("is not a directory" if names_file else "does not exist on this machine"),
            error,
            path,
            step="bind",
            cause="bind-source-missing",
            remedy="give an existing path of this machine as SRC, or create it first; DST is a "
            "path in the sandbox",
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
    """Convert `error`, raised when the file `path` was opened, to a UsernsError.

    :param says: whether to append the text of strerror(3) to `what`.
    """
    # Remove the traceback, since its frames would keep descriptors open.
    error.__traceback__ = None
    known = error if isinstance(error, ForeignLinkError | WritableByOthersError) else None
    if full := cause_of_file_error(error.errno):
        cause, remedy = full, None
    return kind.kind_for(error.errno or 0)(
        f"{what}: {error.strerror}" if says else what,
        step=step,
        errno=error.errno or 0,
        filename=path,
        cause=known.cause if known else cause,
        remedy=known.remedy if known else remedy,
    )


def home_directories(environ: Mapping[str, str]) -> set[str]:
    """Return the caller's home directories, from the variable HOME and from the user database.

    :returns: each directory twice: as an absolute path, and as a path without symbolic links.
    """
    homes = {environ.get("HOME", "")}
    with contextlib.suppress(KeyError):
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    # Replace two leading slashes, which os.path.normpath() preserves, by one.
    named = {"/" + os.path.normpath(home).lstrip("/") for home in homes if home.startswith("/")}
    return (named | {os.path.realpath(home) for home in named}) - {"/"}


def _refuse_kernel(name: str, source: PathDescriptor) -> None:
    """Reject a writable bind mount source in which writes act on the host's kernel, such as /proc.

    Device files are allowed.

    :raises BindError: writes to the source, or to a file in it, act on the kernel (cause
        ``bind-writes-machine``).
    """
    part = _core.machine_part(source.fd)
    if part not in (None, "/dev"):
        raise BindError(
            f"--bind {name}: {part} must not be writable in a sandbox: writes act on the kernel",
            step="bind",
            filename=name,
            cause="bind-writes-machine",
            remedy="bind without :rw, or bind only the files that are needed",
        )


def own_program(name: str, purpose: str) -> PathDescriptor:
    """Open a native program of this package.

    :param purpose: what the program does, for the error message if the program is missing.
    :raises CommandError: the program is missing, or can't be opened.
    """
    path = find_program(name, purpose)
    try:
        return open_program(path)
    except OSError as error:
        raise CommandError(
            f"{path}: {error.strerror}", step="sandbox", errno=error.errno or 0, filename=path
        ) from error


def _verifier() -> PathDescriptor:
    return own_program("usernsctl-verify", "checks that the kernel is gVisor's")


def _watcher() -> PathDescriptor:
    return own_program("usernsctl-watch", "waits for runsc")


def _network() -> PathDescriptor:
    return own_program("usernsctl-network", "makes the network of a sandbox")


def _resolver(
    binds: Iterable[Bind], config: dict[str, Any] | None, sources: dict[str, PathDescriptor]
) -> list[Bind]:
    """Return the bind mount of /etc/resolv.conf for a private network, as a list.

    The list is empty if `binds` or `config` already has a mount on /etc/resolv.conf.

    :param config: the config.json of a bundle.
    :param sources: the sources of all bind mounts. The source of the returned bind mount is added.
    """
    inside = "/etc/resolv.conf"
    mounts = (config or {}).get("mounts") or ()
    if any(bind.destination == inside for bind in binds) or any(
        os.path.normpath(mount["destination"]) == inside for mount in mounts
    ):
        return []
    source = network.open_resolver()
    sources[source.path] = source
    return [Bind(source.path, inside)]


def _destination(bind: Bind) -> str:
    destination = os.path.normpath(bind.destination)
    if not bind.destination.startswith("/") or destination.strip("/") == "":
        raise BindError(
            f"--bind {bind.source}:{bind.destination}: "
            "the destination must be an absolute path other than /",
            step="bind",
            filename=bind.destination,
            remedy="give a DST other than /, or show all files by --expose-root",
        )
    return "/" + destination.lstrip("/")


def _make_directory(path: str | None, *, makes: bool) -> PathDescriptor | None:
    """Open a directory for runsc's state or logs; create it if it is missing and `makes` is true.

    :returns: the directory, or ``None`` if it is missing and `makes` is false.
    :raises RunscError: the directory can't be created, is not writable, or is writable by other
        users, who could plant symbolic links for runsc to follow.
    """
    if path is None or not (makes or os.path.lexists(path)):
        return None
    what = f"can't use {path} for runsc's files"
    try:
        directory = make_directory(path)
        if not os.access(f"/proc/self/fd/{directory.fd}", os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        # Raise the new error without assigning it to a variable, as in _open_tree().
        raise _error(
            RunscError,
            what,
            error,
            path,
            step="runsc",
            cause="runsc-root-unwritable",
            remedy="name a directory that you may write to",
        ) from error
    return directory


def check_ids(ids: MappedIds, user: tuple[int, int], *, nests: bool = False) -> None:
    """Check that runsc will be 0:0 in its user namespace, and that the command's ids are mapped.

    :param nests: whether, if only one id is mapped, the verifier (a program in the sandbox) runs
        the command in a nested user namespace where the command's ids are mapped.
    :raises PlanError: an id is not mapped.
    """
    if ids.become != (0, 0):
        raise PlanError(
            "the caller must be uid 0 and gid 0 inside: otherwise runsc has no capabilities",
            step="plan",
            remedy="map other ids from 1 on: id 0 inside is the caller's own",
        )
    if nests and ids.count == 1:
        return
    for name, option, wanted, extents in (
        ("uid", "--map-users", user[0], ids.uid),
        ("gid", "--map-groups", user[1], ids.gid),
    ):
        if not any(e.has(wanted) for e in extents):
            mapped = ", ".join(map(_range, extents))
            raise PlanError(
                f"{name} {wanted} is not mapped: the map has only {mapped}",
                step="plan",
                cause="inside-id-unmapped",
                remedy=f"choose a mapped id, or map more ids with --map-auto or {option} (in "
                "Python: idmap=IdMap.auto())",
            )


def ids_of(request: Request) -> tuple[int, int]:
    """Return the uid and the gid of `request`, by default 0 and 0; names are not accepted."""
    assert request.user is None or isinstance(request.user, tuple)
    return request.user or (0, 0)


def with_account(request: Request, used: HostFiles) -> Request:
    """Return `request` with numbers in place of the names of its user and group.

    :param used: the open files of the request.
    :raises CommandError: a name does not exist in the sandbox's /etc/passwd or /etc/group (cause
        ``user-unknown``).
    """
    if request.user is None or isinstance(request.user, tuple):
        return request
    # Import the module here, because few requests name a user.
    from usernsctl.gvisor.launch import accounts

    config = used.bundle or {}
    shown = {id(mount) for mount in oci.bind_mounts(config)}
    mounts = [
        (mount["destination"], used.sources[mount["source"]] if id(mount) in shown else None)
        for mount in config.get("mounts") or ()
    ]
    mounts += [(bind.destination, used.sources[bind.source]) for bind in used.binds]
    return accounts.with_numbers(request, used.tree, mounts)


def _range(extent: Extent) -> str:
    last = extent.inside + extent.count - 1
    return str(extent.inside) if extent.count == 1 else f"{extent.inside} to {last}"


# The namespaces that each run creates, even a run that joins a named user namespace.
_NAMESPACES = ("mount",)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetNamespace:
    """The namespaces in which runsc will run.

    :ivar ids: the mapped ids.
    :ivar target: the namespaces to create or join.
    :ivar pid: whether the run joins a PID namespace, which only a child process can enter.
    :ivar single_id_reason: the reason why only one id is mapped although the caller requested
        several, or ``None``.
    """

    ids: MappedIds
    target: Target
    pid: bool = False
    single_id_reason: str | None = None

    @classmethod
    def new(cls, idmap: IdMap) -> TargetNamespace:
        """Return the TargetNamespace for a new user namespace, which is created by :meth:`enter`.

        :raises MapError: `idmap` is malformed.
        :raises PlanError: the caller is not permitted to use `idmap`.
        """
        planned = plan(idmap)
        target = make_target(_NAMESPACES, planned=planned)
        return cls(
            ids=MappedIds.of_plan(planned),
            target=target,
            single_id_reason=planned.single_id_reason,
        )

    @classmethod
    def kept(cls, name: str, wanted: str) -> TargetNamespace:
        """Return the TargetNamespace for the persistent namespace `name` (``usernsctl ns create``).

        :param wanted: the network that the sandbox needs.
        :raises NamespaceError: no namespace has this name.
        :raises CommandError: the namespace does not have the network `wanted`.
        """
        # Import the module here, because few runs use a named namespace.
        from usernsctl.namespaces.named import find_named
        from usernsctl.namespaces.namespace import Namespace

        found = find_named(name)
        namespace = Namespace.of_holder(found)
        network.check_joined(wanted, found)
        target = make_target(_NAMESPACES, namespace=namespace)
        return cls(
            ids=MappedIds.of_setup(found.uid, found.gid, target.setup),
            target=target,
            pid=namespace.has("pid"),
        )

    def enter(self, *, reraise_signal: bool) -> None:
        """Enter the namespaces, including a new mount namespace, and close inherited descriptors.

        Standard input, output and error stay open. To enter a PID namespace, this method forks, and
        returns only in the child. The parent waits for the child, and exits with the child's exit
        status.

        :param reraise_signal: whether the parent kills itself with signal N if signal N killed the
            child. If not, the parent exits with status 128+N.
        :raises NamespaceError: a system call failed.
        """
        close_inherited()
        self.target.enter()
        if self.pid:
            _continue_in_child(reraise_signal=reraise_signal)
            _mount_own_proc()


def _mount_own_proc() -> None:
    """Mount procfs on /proc, unless /proc already shows the PID namespace of this process.

    runsc looks up its children in /proc, by their pids in its own PID namespace.

    :raises NamespaceError: the mount failed. The kernel denies the mount in a container in which
        parts of /proc are masked.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return
    _core.mount("proc", "/proc", "proc", _PROC_FLAGS, None)


def _continue_in_child(*, reraise_signal: bool) -> None:
    parent = os.pidfd_open(os.getpid())
    # Block all signals, so that a signal that arrives before un_supervise_child() stays pending;
    # un_supervise_child() then forwards it to the child.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(_core.supervise_child(child))
        if status < 0 and reraise_signal:
            _core.reraise(-status)
        os._exit(status if status >= 0 else 128 - status)
    # Set PDEATHSIG first, then check that the parent is alive, because the kernel sends the signal
    # only if the parent dies after prctl(2).
    _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL))
    if select.select([parent], [], [], 0)[0]:
        os._exit(128 + signal.SIGKILL)
    os.close(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about the host for :func:`plan_run`. All paths are absolute.

    :ivar version: the version of this package.
    :ivar ids: the mapped ids.
    :ivar is_root: whether the caller is root. Root can read files of the host that programs in the
        sandbox must not read.
    :ivar homes: the home directories of the caller, which are hidden in the sandbox. ``None`` for a
        launch file, because the user who performs it has other home directories.
    :ivar runsc: the path of runsc, which may be a symbolic link.
    :ivar runsc_file: the path of runsc without symbolic links.
    :ivar runsc_is_script: whether runsc is a script, which has to be executed by its path.
    :ivar watcher: the path of the program that waits for runsc.
    :ivar verifier: the path of the program that checks that the kernel is gVisor's, or ``None``.
    :ivar runsc_env: the environment of runsc.
    :ivar network_command: the path and the options of usernsctl-network; empty if the sandbox needs
        no network of its own.
    :ivar tree: the root filesystem, or ``None`` for the host's programs.
    :ivar binds: the bind mounts of the request, with sources without symbolic links.
    :ivar sources: a mapping from the source paths in `binds` and `bundle` to the real paths.
    :ivar state: the directory for runsc's state, or ``None`` for a private directory.
    :ivar debug_log: the directory for runsc's debug logs, or ``None`` if the logs are discarded.
    :ivar bundle: the config.json of a bundle as :func:`read_bundle` returned it, or ``None``.
    :ivar scratch: candidate mount points for the run's tmpfs.
    :ivar enforced: the limits of the sandbox, each with its mechanism, or ``None``.
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
    network_command: tuple[str, ...] = ()
    tree: str | None = None
    binds: tuple[Bind, ...] = ()
    sources: Mapping[str, str]
    state: str | None = None
    debug_log: str | None = None
    bundle: Mapping[str, Any] | None = None
    scratch: tuple[str, ...]
    enforced: limits.EnforcedLimits | None = None

    @property
    def disk(self) -> int:
        """The limit for writes to the root filesystem, in bytes; 0 means no limit."""
        return 0 if self.enforced is None else self.enforced.disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The result of :func:`inspect`.

    :ivar request: the request, with numbers in place of the names of its user and group.
    :ivar used: the open files that were inspected. The launch uses the descriptors, not the paths.
    :ivar place: the namespaces in which runsc will run.
    """

    request: Request
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
    """Collect the facts about the host for a run, and open the run's files.

    :param caller: the environment of the caller.
    :param notify: a function that is called with messages for the user.
    :param makes: whether to create missing directories for runsc's state and logs.
    :raises UsernsError: a file or namespace is missing or denied.
    """
    if request.terminal and not _core.stdio_is_terminal():
        # Reject --terminal unless all three standard streams are terminals: gVisor uses only one of
        # them as the command's terminal, so output to the others would be lost.
        raise CommandError(
            "--terminal needs a terminal as standard input, output and error",
            step="stdio",
            cause="terminal-missing",
        )
    if request.has_network:
        request = network.with_network(request)
    program = find_runsc(caller, request.program)
    assert request.kept is None or isinstance(request.kept, str)
    place = (
        TargetNamespace.kept(request.kept, request.network)
        if request.kept is not None
        else TargetNamespace.new(request.idmap)
    )
    if place.single_id_reason is not None:
        reason = place.single_id_reason
        notify(f"mapping only the caller's own id, as --allow-single-id allows: {reason}")
    used = open_files(request, program, place.ids, makes=makes)
    used = _with_virtual_env(request, caller, used, notify)
    refuse_own(used, [file.path for file in (used.state, used.debug_log) if file is not None])
    request = with_account(request, used)
    check_ids(place.ids, ids_of(request), nests=request.verify)
    scratch = used.scratch_places()
    facts = collect_facts(request, caller, program, used, place.ids, scratch=scratch)
    return Inspection(request=request, facts=facts, used=used, place=place)


def _with_virtual_env(
    request: Request,
    caller: Mapping[str, str],
    used: HostFiles,
    notify: Callable[[str], object],
) -> HostFiles:
    """Add the caller's active virtual environment to `used` if it contains the command.

    :param notify: a function that is called with a message if the virtual environment can't be
        mounted.
    """
    if not request.virtual_env or not request.args or used.tree is not None:
        return used
    # Import the module here, because few callers have an active virtual environment.
    from usernsctl.gvisor.launch import virtualenv

    command = virtualenv.find_command(request.args[0], request.env.get("PATH", DEFAULT_PATH))
    if command is None:
        return used
    shown = virtualenv.show(
        request.virtual_env,
        command,
        binds=used.binds,
        homes=home_directories(caller),
        notify=notify,
    )
    sources = {bind.source: source for bind, source in shown}
    return replace(
        used,
        binds=(*used.binds, *(bind for bind, _ in shown)),
        sources={**sources, **used.sources},
    )


def collect_facts(
    request: Request,
    caller: Mapping[str, str],
    program: str,
    used: HostFiles,
    ids: MappedIds,
    *,
    scratch: tuple[str, ...],
) -> Facts:
    """Return the facts about the host for a run; `used` are the run's open files.

    :param program: the path of runsc, which may be a symbolic link.
    :param scratch: candidate mount points for the run's tmpfs.
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
        network_command=(
            (used.network.path, *network.options_of(request)) if used.network is not None else ()
        ),
        tree=used.tree.path if used.tree is not None else None,
        binds=used.binds,
        sources={name: source.path for name, source in used.sources.items()},
        state=_directory(used.state, request.state),
        debug_log=_directory(used.debug_log, request.debug_log),
        bundle=used.bundle,
        scratch=scratch,
        enforced=limits_of(request, used.writable_sources()) if request.has_limits else None,
    )


def limits_of(
    request: Request, writable: Iterable[str], *, groups: bool = True
) -> limits.EnforcedLimits:
    """Return the limits of a request, each with the mechanism that will enforce it.

    :param writable: the sources of the writable bind mounts.
    :param groups: whether the sandbox may get its own cgroups.
    :raises RunscError: a limit is out of range, or can't be enforced on this host.
    """
    wanted = limits.Limits(
        memory=request.memory,
        pids=request.pids,
        cpus=request.cpus,
        disk=request.disk,
        timeout=request.timeout,
        idle_timeout=request.idle_timeout,
    )
    return limits.enforce(
        wanted,
        limits.Machine.here(writable, groups=groups),
        best_effort=request.limits == limits.BEST_EFFORT,
    )


def descriptors(launch: Launch, files: Iterable[PathDescriptor]) -> list[int]:
    """Return the descriptors of the host files in ``launch.sources``, in the same order."""
    descriptor_of = {file.path: file.fd for file in files}
    return [descriptor_of[source.path] for source in launch.sources]


def _directory(found: PathDescriptor | None, wanted: str | None) -> str | None:
    """Return the path of `found`, or the absolute path of `wanted` if `found` is None."""
    if found is not None or wanted is None:
        return found.path if found is not None else None
    return os.path.abspath(wanted)


def is_script(program: PathDescriptor) -> bool:
    """Return whether `program` is a script; return False if the caller may not read it.

    A script must be executed by its path, because its interpreter opens the script by that path.
    """
    try:
        with open(program.open(), "rb") as file:
            return file.read(2) == b"#!"
    except PermissionError:
        return False
