"""The paths of a run, made absolute and checked before a mount can cover any of them."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from usernsctl.errors import BundleError, NamespaceError, RunscError
from usernsctl.sandbox.request import Bind, Request

# Where the tmpfs may go: directories that most machines have, and that a run seldom needs.
_SCRATCH_PLACES = ("/mnt", "/media", "/srv", "/tmp", "/run", "/var/tmp", "/home", "/boot")

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PROGRAMS = os.path.join(_PACKAGE, "_bin")


@dataclass(frozen=True, slots=True)
class Paths:
    """Paths outside; absolute, and without symbolic links where they are mounted.

    :ivar watcher: the program that waits for runsc, and passes signals on.
    :ivar verifier: the program that proves the kernel, or ``None`` if that is not wanted.
    :ivar tree: the root filesystem to be shown as it is, or ``None`` for this machine's programs.
    """

    runsc: str
    watcher: str
    verifier: str | None
    tree: str | None
    binds: tuple[Bind, ...]
    state: str | None
    debug_log: str | None

    def scratch_place(self, others: Iterable[str] = ()) -> str:
        """A directory to mount a tmpfs on: none of these paths is in it.

        :param others: further paths that must stay in sight.
        :raises NamespaceError: there is no such directory.
        """
        own = (self.runsc, self.watcher, self.verifier, self.tree, self.state, self.debug_log)
        needed = [path for path in own if path is not None and path != "/"]
        needed += [bind.source for bind in self.binds]
        # Python still imports from there, and is started again should runsc fail.
        needed += [os.path.abspath(entry) for entry in (*sys.path, __file__, sys.executable)]
        needed += others
        needed += [os.path.realpath(path) for path in needed]
        for place in _SCRATCH_PLACES:
            is_free = not any(path == place or path.startswith(f"{place}/") for path in needed)
            if is_free and os.path.isdir(place) and os.path.realpath(place) == place:
                return place
        raise NamespaceError(
            f"the run uses paths in each of {', '.join(_SCRATCH_PLACES)}, "
            "so there is no directory left to mount its own files on",
            step="mount",
            remedy="make an empty directory /mnt",
        )


def resolve(request: Request, runsc: str, tree: str | None) -> Paths:
    """Find and check what `request` names.

    :param tree: the root filesystem to show, or ``None`` for this machine's programs.
    :raises BundleError: a path to be shown inside does not exist.
    :raises RunscError: our own program is missing.
    """
    if tree is not None and not os.path.isdir(tree):
        problem = "is not a directory" if os.path.exists(tree) else "does not exist"
        raise BundleError(
            f"the root filesystem {tree} {problem}",
            step="rootfs",
            filename=tree,
            cause="rootfs-missing",
        )
    return Paths(
        runsc=runsc,
        watcher=_watcher(),
        verifier=_verifier() if request.verify else None,
        tree=os.path.realpath(tree) if tree is not None else None,
        binds=tuple(_resolve_bind(bind) for bind in request.binds),
        state=_absolute(request.state),
        debug_log=_absolute(request.debug_log),
    )


def home_directories(environ: Mapping[str, str]) -> set[str]:
    """The home directory of the caller: by HOME, and by the user database."""
    homes = {environ.get("HOME", "")}
    with contextlib.suppress(KeyError):
        homes.add(pwd.getpwuid(os.getuid()).pw_dir)
    return {os.path.normpath(home) for home in homes if home.startswith("/")} - {"/"}


def own_program(name: str, purpose: str, remedy: str) -> str:
    """The path of a program that this package brings with it.

    :param purpose: what it does, for the message should it be missing.
    :raises RunscError: it is missing.
    """
    path = os.path.join(_PROGRAMS, name)
    if not os.access(path, os.X_OK):
        raise RunscError(
            f"{path}, which {purpose}, is missing", step="sandbox", filename=path, remedy=remedy
        )
    return path


def _verifier() -> str:
    return own_program(
        "usernsctl-verify",
        "proves that a sandbox is one",
        "install usernsctl again, or do without the proof: --no-verify",
    )


def _watcher() -> str:
    return own_program("usernsctl-watch", "waits for runsc", "install usernsctl again")


def _resolve_bind(bind: Bind) -> Bind:
    source = os.path.realpath(bind.source)
    try:
        os.stat(source)
    except OSError as error:
        raise BundleError(
            f"--bind {bind.source}: {error.strerror}",
            step="bind",
            errno=error.errno or 0,
            filename=bind.source,
        ) from error
    destination = os.path.normpath(bind.destination)
    if not bind.destination.startswith("/") or destination.strip("/") == "":
        raise BundleError(
            f"--bind {bind.source}:{bind.destination}: "
            "the destination must be an absolute path other than /",
            step="bind",
            filename=bind.destination,
        )
    return Bind(source, destination, bind.read_only)


def _absolute(path: str | None) -> str | None:
    return os.path.abspath(path) if path is not None else None


def make_directory(path: str) -> None:
    """Make a directory for runsc to write to, unless there is one.

    :raises RunscError: it can't be made, or not be written to.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise RunscError(
            f"{path}, which runsc was to write to: {error.strerror}",
            step="runsc",
            errno=error.errno or 0,
            filename=path,
            cause="runsc-root-unwritable",
            remedy="name a directory that you may write to",
        ) from error
