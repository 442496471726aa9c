"""What runsc has saved of a sandbox: files in the tmpfs of a host, which nobody else can reach.

They vanish with the host. A copy of them is taken elsewhere only if somebody saves the template.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence

from usernsctl._system.paths import UntrustedPathError, make_private, open_file, open_trusted
from usernsctl._text import quoted
from usernsctl.errors import NamespaceError, RunscError
from usernsctl.gvisor.launch.steps import BOXES
from usernsctl.gvisor.sandbox.host_namespace import HostNamespace

#: The step that these errors are of.
STEP = "template"


def not_ready(why: str, remedy: str | None = None) -> RunscError:
    """The error that a command did not get to where it is ready."""
    return RunscError(why, step=STEP, cause="template-not-ready", remedy=remedy)


def unsavable(why: str, remedy: str | None = None) -> RunscError:
    """The error that what runs can't be saved, or not so that it goes on afterwards."""
    return RunscError(why, step=STEP, cause="template-unsavable", remedy=remedy)


def outdated(what: str, remedy: str | None) -> RunscError:
    """The error that a template was made for something else than is there now.

    :param what: is another one than then.
    :param remedy: the command that makes the template anew.
    """
    return RunscError(
        f"the template was made when {what}",
        step=STEP,
        cause="template-outdated",
        remedy=remedy or "make the template anew",
    )


def other_host(options: Sequence[str], remedy: str | None) -> RunscError:
    """The error that a template is to be started in a host unlike the one that it was made in.

    :param options: in words, which options were others then.
    :param remedy: the command that makes the template anew.
    """
    return RunscError(
        f"the template was made in another host: {'; '.join(options)}",
        step=STEP,
        cause="template-host-differs",
        remedy="give the options that you made the template with, to usernsctl template run or "
        f"SandboxHost(); or {remedy or 'make the template anew'}",
    )


def wrong_kind(path: str, kind: str) -> RunscError:
    """The error that a saved template is to be loaded as one of another kind.

    :param kind: that it is of.
    """
    name = "PythonTemplate" if kind == "python" else "Template"
    return RunscError(
        f"{path} is the template of {'an interpreter' if kind == 'python' else 'a command'}",
        step=STEP,
        filename=path,
        remedy=f"usernsctl.{name}.load(directory)",
    )


def damaged(path: str, why: str) -> RunscError:
    """The error that a saved template is not what was saved.

    :param path: its directory.
    """
    return RunscError(
        f"{path} is no whole template: {why}",
        step=STEP,
        filename=path,
        cause="template-damaged",
        remedy=f"make it anew; what is left of this one: rm -r {quoted(path)}",
    )


def untrusted(path: str, why: str) -> RunscError:
    """The error that others could have written a template."""
    return RunscError(
        f"{path} is not believed: {why}",
        step=STEP,
        filename=path,
        cause="template-untrusted",
        remedy=f"if nobody else has changed it: chmod -R go= {quoted(path)}; "
        "a directory above it must not be writable by others, either",
    )


# In the directory for the sandboxes, whose ids can't have such a name.
_DIRECTORY = ".images"

# runsc writes three; more for whatever a later release may add.
_FILES_MAX = 16
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"

_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: The files of an image: of each name, the size, and the SHA-256 of what is in it.
Sums = Mapping[str, tuple[int, str]]


class Image:
    """A directory of a host's.

    :ivar inside: its path for those in the mount namespace of the host.
    """

    def __init__(self, host: HostNamespace) -> None:
        """Make it, empty.

        :raises ValueError: the host is closed.
        :raises NamespaceError: it can't be made.
        """
        name = os.urandom(8).hex()
        self.inside: str = f"{host.prepared.scratch}/{BOXES}/{_DIRECTORY}/{name}"
        self._name = f"{_DIRECTORY}/{name}"
        # Of our own, so that the host may be closed meanwhile.
        self._top = host.open_directory()
        with NamespaceError.instead("the image of the template", step=STEP):
            try:
                make_private(_DIRECTORY, self._top, exist_ok=True)
                make_private(self._name, self._top)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._fd = os.open(self._name, flags, dir_fd=self._top)
            except BaseException:
                self.close()
                raise

    _fd = -1
    _top = -1

    def save(self, directory: int) -> dict[str, tuple[int, str]]:
        """Copy the files into a directory; what they are.

        :param directory: a descriptor of it.
        :raises OSError: they can't be read or written.
        """
        # One of our own: whoever lists the same at the same time would have a part of it.
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            return {name: _copy(name, own, directory) for name in sorted(os.listdir(own))}
        finally:
            os.close(own)

    def load(self, directory: int, path: str, sums: Sums) -> None:
        """Copy the files of a saved image from a directory, and see that they are whole.

        :param path: of that directory, for messages.
        :raises RunscError: they are not, or others could have written them.
        :raises NamespaceError: there is no room for them.
        """
        for name, (size, digest) in sums.items():
            _check_file(name, directory, path, size)
            with NamespaceError.instead(f"{path}/{name}", step=STEP):
                copied = _copy(name, directory, self._fd)
            if copied != (size, digest):
                raise damaged(path, f"{name} has changed since it was saved")

    def clear(self) -> None:
        """Remove what is in it."""
        for name in os.listdir(self._fd):
            os.unlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Remove it. Sandboxes that were started from it go on."""
        fd, self._fd = self._fd, -1
        top, self._top = self._top, -1
        if fd >= 0:
            os.close(fd)
        if top >= 0:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._name, dir_fd=top)
            os.close(top)

    def let_go(self) -> None:
        """Close the descriptors, and leave it alone."""
        for fd in (self._fd, self._top):
            if fd >= 0:
                os.close(fd)
        self._fd = self._top = -1

    def __del__(self) -> None:
        self.let_go()


def sums_from_json(given: Mapping[str, object]) -> Sums:
    """Read what :meth:`Image.save` has returned.

    :raises ValueError: it is something else.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, one in given.items():
        match one:
            case [int(size), str(digest)] if re.fullmatch(_NAME, name) and size >= 0:
                found[name] = (size, digest)
            case _:
                raise ValueError("its list of files makes no sense")
    if not 0 < len(found) <= _FILES_MAX:
        raise ValueError("it lists no files, or too many")
    return found


def open_saved(path: str) -> int:
    """Open the directory of a saved template, which only this user can have written to.

    :param path: an absolute path.
    :returns: a descriptor, the caller's to close.
    :raises RunscError: there is none, or others could have written to it.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        parent = open_trusted(os.path.dirname(path))
        try:
            opened = os.open(os.path.basename(path), flags, dir_fd=parent)
        finally:
            os.close(parent)
    except UntrustedPathError as error:
        raise untrusted(path, str(error)) from None
    except OSError as error:
        raise RunscError(
            f"there is no template {path}: {error.strerror}",
            step=STEP,
            errno=error.errno or 0,
            filename=path,
            cause="no-such-template",
            remedy="name the directory that a template was saved in",
        ) from error
    try:
        _check_ours(os.fstat(opened), path, 0o077)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _check_ours(status: os.stat_result, path: str, forbidden: int) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        raise untrusted(path, f"it belongs to uid {status.st_uid}, not to {os.geteuid()}")
    if mode & forbidden:
        raise untrusted(path, f"it is open to others (mode {mode:o})")


def _check_file(name: str, directory: int, path: str, size: int) -> None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise damaged(path, f"{name} is missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, f"{name} is no regular file")
    if status.st_size != size:
        raise damaged(path, f"{name} has {status.st_size} bytes, and had {size}")
    _check_ours(status, f"{path}/{name}", 0o022)


def _copy(name: str, source: int, target: int) -> tuple[int, str]:
    """Copy a file from one directory to another; its size, and the digest of what was copied."""
    digest, size = hashlib.sha256(), 0
    with (
        open_file(os.open(name, _READ, dir_fd=source)) as reading,
        open(os.open(name, _WRITE, 0o600, dir_fd=target), "wb", buffering=0) as writing,
    ):
        if not stat.S_ISREG(os.fstat(reading.fileno()).st_mode):
            raise OSError(22, "it is no regular file", name)
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[writing.write(view) :]
    return size, digest.hexdigest()
