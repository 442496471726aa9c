"""The files that a run names: followed once, before the namespace is entered, and then held."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import sys
from collections.abc import Iterable, Mapping

from usernsctl import _core, _programs
from usernsctl._records import dataclass, field, fields
from usernsctl._system import opened
from usernsctl._system.opened import ChangeableError, ForeignLinkError, Opened
from usernsctl._text import quoted
from usernsctl.errors import BindError, CommandError, NamespaceError, RunscError, UsernsError
from usernsctl.gvisor.request import Bind, Request

# Where the tmpfs may go: directories that most machines have, and that a run seldom needs.
_SCRATCH_PLACES = ("/mnt", "/media", "/srv", "/tmp", "/run", "/var/tmp", "/home", "/boot")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
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

    runsc: Opened
    watcher: Opened
    verifier: Opened | None
    tree: Opened | None
    binds: tuple[Bind, ...] = ()
    sources: Mapping[str, Opened] = field(default_factory=dict)
    state: Opened | None = None
    debug_log: Opened | None = None

    def close(self) -> None:
        """Let go of all these files."""
        for one in self.files():
            one.close()

    def files(self) -> list[Opened]:
        """All of them."""
        values = (getattr(self, one.name) for one in fields(self))
        return [*(value for value in values if isinstance(value, Opened)), *self.sources.values()]

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


def resolve(
    request: Request,
    runsc: str,
    tree: str | Opened | None,
    bundle_sources: Mapping[str, Opened | None] | None = None,
    *,
    makes: bool = True,
) -> Paths:
    """Open what `request` names.

    :param tree: the root filesystem to show, or ``None`` for this machine's programs.
    :param bundle_sources: those of the binds of a bundle, as its config.json has them. What is
        ``None`` is opened here, as if the caller had named it.
    :param makes: whether directories for runsc to write to are made, if need be; those that are
        missing are left out otherwise.
    :raises BindError: a path to be shown inside does not exist.
    :raises RunscError: our own program is missing, or runsc could not write to a directory.
    """
    sources: dict[str, Opened] = {}
    for name, source in (bundle_sources or {}).items():
        sources[name] = _follow(f"the bundle's bind of {name}", name) if source is None else source
    binds = []
    for bind in request.binds:
        source = _follow(f"--bind {bind.source}", bind.source)
        if not bind.read_only:
            _refuse_kernel(bind.source, source)
        sources[source.path] = source
        binds.append(Bind(source.path, _destination(bind), bind.read_only))
    return Paths(
        runsc=opened.own(runsc),
        watcher=_watcher(),
        verifier=_verifier() if request.verify else None,
        tree=_open_tree(tree) if isinstance(tree, str) else tree,
        binds=tuple(binds),
        sources=sources,
        state=_make_directory(request.state, makes=makes),
        debug_log=_make_directory(request.debug_log, makes=makes),
    )


def _open_tree(path: str) -> Opened:
    try:
        found = opened.follow(path)
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


def _follow(what: str, path: str) -> Opened:
    try:
        return opened.follow(path)
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
    known = error if isinstance(error, ForeignLinkError | ChangeableError) else None
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


def _refuse_kernel(name: str, source: Opened) -> None:
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


def own_program(name: str, purpose: str) -> Opened:
    """A program that this package brings with it.

    :param purpose: what it does, for the message should it be missing.
    :raises CommandError: it is missing, or can't be opened.
    """
    path = _programs.find(name, purpose)
    try:
        return opened.own(path)
    except OSError as error:
        raise CommandError(
            f"{path}: {error.strerror}", step="sandbox", errno=error.errno or 0, filename=path
        ) from error


def _verifier() -> Opened:
    return own_program("usernsctl-verify", "proves that a sandbox is one")


def _watcher() -> Opened:
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


def _make_directory(path: str | None, *, makes: bool) -> Opened | None:
    """Open a directory for runsc to write to; it is made unless there is one.

    :raises RunscError: it can't be made, or not be written to, or others could change it: runsc
        follows links there.
    """
    if path is None or not (makes or os.path.lexists(path)):
        return None
    what = f"{path}, which runsc was to write to"
    try:
        made = opened.make_directory(path)
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
