"""Bind mounts of the caller's active virtual environment, for a command that is in it.

The caller sets ``VIRTUAL_ENV``, but an untrusted program may have written the files in the
environment, for example in a sandbox with a writable bind mount. So the directory is mounted only
if all its entries belong to a virtual environment. Of the directories that files in the environment
name, only Python installations are mounted.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from usernsctl import _core
from usernsctl._system.paths import PathDescriptor, open_path
from usernsctl._text import quoted
from usernsctl.gvisor.launch.request import SHOWN, Bind

# The directory entries that venv, virtualenv, uv and installed packages create in an environment.
_ENTRIES = frozenset(
    (
        *("bin", "include", "lib", "lib64", "man", "share", "etc", "pyvenv.cfg"),
        *(".gitignore", ".lock", "CACHEDIR.TAG"),
    )
)
# The maximum size of a pyvenv.cfg, in bytes.
_CONFIG_BYTES_MAX = 1 << 16
_LIBRARY = re.compile(r"python3\.\d{1,3}t?")

Shown = tuple[Bind, PathDescriptor]


class _UnsuitableError(Exception):
    """The error for a virtual environment that is not mounted without an explicit ``--bind``."""


def find_command(command: str, search: str) -> str | None:
    """Return the path of a command on the host, or None.

    :param search: the PATH of the command.
    """
    if "/" in command:
        return os.path.abspath(command)
    paths = (os.path.join(directory, command) for directory in search.split(":") if directory)
    return next((p for p in paths if os.access(p, os.X_OK) and not os.path.isdir(p)), None)


def show(
    environment: str,
    command: str,
    *,
    binds: Sequence[Bind],
    homes: Iterable[str],
    notify: Callable[[str], object],
) -> list[Shown]:
    """Return read-only bind mounts of the virtual environment that contains a command.

    :param environment: the value of ``VIRTUAL_ENV``.
    :param command: the path of the command on the host.
    :param binds: the bind mounts that the caller has requested.
    :param homes: the home directories of the caller, which the sandbox hides.
    :param notify: a function that is called with a message if the environment can't be mounted.
    :returns: the bind mounts, each with its open source; empty if `environment` does not contain
        the command.
    """
    place = os.path.normpath(environment)
    if not environment.startswith("/") or not _is_below(command, place):
        return []
    hidden = _Hidden([bind.destination for bind in binds], list(homes))
    try:
        with open_path(place) as top:
            config = _read_config(top)
            found: list[Shown] = []
            if hidden.has(place):
                _check_environment(top)
                found += _mounts(top, place)
            for prefix in _prefixes(place, config):
                if hidden.has(prefix):
                    found += _installation(prefix, hidden.homes)
            return found
    except (OSError, _UnsuitableError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        notify(
            f"the virtual environment of {quoted(command)} is not in the sandbox: {reason}; "
            f"to show it, add --bind {quoted(place)}"
        )
        return []


class _Hidden:
    """The set of the host's paths that don't exist in the sandbox without more bind mounts."""

    def __init__(self, places: list[str], homes: list[str]) -> None:
        self._places = places
        self.homes = homes

    def has(self, path: str) -> bool:
        if any(_is_below(path, place) for place in self._places):
            return False
        in_home = any(_is_below(path, home) for home in self.homes)
        return in_home or path.split("/")[1] not in SHOWN


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def _mounts(source: PathDescriptor, place: str) -> Iterator[Shown]:
    """Yield bind mounts of the directory `source` at `place` and at its own path.

    `place` may contain symbolic links, and a program may look up its files by either path.
    """
    for destination in dict.fromkeys([place, source.path]):
        again = PathDescriptor.own(source.path, os.dup, source.fd)
        yield Bind(source.path, destination), again


def _read_config(top: PathDescriptor) -> dict[str, str]:
    """Return the settings in the pyvenv.cfg of a virtual environment.

    :raises _UnsuitableError: the file belongs to another user, or is not a small regular file.
    :raises OSError: pyvenv.cfg does not exist, or can't be read.
    """
    with top.child("pyvenv.cfg") as file:
        status = file.status
        if not stat.S_ISREG(status.st_mode):
            raise _UnsuitableError("its pyvenv.cfg is not a regular file")
        if not _core.is_trusted(status.st_uid, file.path):
            raise _UnsuitableError(f"its pyvenv.cfg belongs to uid {status.st_uid}")
        with open(file.open(os.O_RDONLY | os.O_NONBLOCK), "rb") as content:
            text = content.read(_CONFIG_BYTES_MAX + 1)
    if len(text) > _CONFIG_BYTES_MAX:
        raise _UnsuitableError(f"its pyvenv.cfg is longer than {_CONFIG_BYTES_MAX} bytes")
    lines = (line.partition("=") for line in os.fsdecode(text).split("\n"))
    return {name.strip().lower(): value.strip() for name, equals, value in lines if equals}


def _check_environment(top: PathDescriptor) -> None:
    """Check that a directory contains only the entries of a virtual environment.

    Other entries may be secret: the virtual environment may have been created in the top directory
    of a project, and a pip.conf may contain passwords.

    :raises _UnsuitableError: the directory contains another entry.
    """
    fd = top.open()
    try:
        others = sorted({*os.listdir(fd)} - _ENTRIES)
    finally:
        os.close(fd)
    if others:
        raise _UnsuitableError(
            f"its directory contains {quoted(others[0])}, "
            "which is not part of a virtual environment"
        )


def _prefixes(place: str, config: dict[str, str]) -> Iterable[str]:
    """Return possible prefixes of the Python installation that a virtual environment uses.

    A prefix is the parent of the directory ``bin`` that pyvenv.cfg or the link bin/python names;
    both are untrusted.

    :param place: the path of the virtual environment.
    """
    real = os.path.realpath(f"{place}/bin/python")
    programs = [config.get("home", ""), os.path.dirname(real)]
    return dict.fromkeys(os.path.dirname(path) for path in programs if _is_plain_bin(path))


def _is_plain_bin(path: str) -> bool:
    is_plain = path.startswith("/") and os.path.normpath(path) == path and "\0" not in path
    return is_plain and os.path.basename(path) == "bin"


def _installation(prefix: str, homes: Iterable[str]) -> list[Shown]:
    """Return the bind mounts of a Python installation; empty if `prefix` is not an installation.

    Without these bind mounts, the command fails with an error that names the interpreter and the
    option that mounts it.

    :param homes: home directories, which must not be mounted.
    """
    try:
        with open_path(prefix) as top:
            contains_home = any(_is_below(home, top.path) for home in homes)
            if contains_home or top.path.count("/") < 2 or not _has_library(top):
                return []
            return list(_mounts(top, prefix))
    except OSError:
        return []


def _has_library(prefix: PathDescriptor) -> bool:
    """Return whether `prefix` contains a Python standard library, without following symbolic links.

    :raises OSError: the directory can't be read.
    """
    with prefix.child("lib") as library:
        if not library.is_directory:
            return False
        fd = library.open()
        try:
            names = [name for name in os.listdir(fd) if _LIBRARY.fullmatch(name)]
        finally:
            os.close(fd)
        return any(_has_module(library, name) for name in names)


def _has_module(library: PathDescriptor, name: str) -> bool:
    try:
        with library.child(name) as modules, modules.child("os.py") as module:
            return stat.S_ISREG(module.status.st_mode)
    except OSError:
        return False
