"""Checkpoint images: the files that ``runsc checkpoint`` writes, in a SandboxHost's tmpfs.

Only processes in the host's mount namespace can open the files, and the kernel removes them when
the host has ended. :meth:`Image.save` copies them to a directory.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence

from usernsctl._core import Descriptor
from usernsctl._system.paths import NAME, OpenFile, make_private, open_file
from usernsctl._system.records import fault_of
from usernsctl._text import quoted
from usernsctl.errors import NamespaceError, RunscError
from usernsctl.gvisor.sandbox.host_namespace import HostNamespace

#: The name of the step in errors about templates.
STEP = "template"


def not_ready(why: str, remedy: str | None = None) -> RunscError:
    """Return the error for a command that did not become ready."""
    return RunscError(why, step=STEP, cause="template-not-ready", remedy=remedy)


def unsavable(why: str, remedy: str | None = None) -> RunscError:
    """Return the error for a sandbox that can't be saved, or could not be restored afterwards."""
    return RunscError(why, step=STEP, cause="template-unsavable", remedy=remedy)


def too_large(why: str) -> RunscError:
    """Return the error for a checkpoint that does not fit the tmpfs of the SandboxHost."""
    return RunscError(
        f"the tmpfs for checkpoints is full: {why}",
        step=STEP,
        errno=errno.ENOSPC,
        cause="disk-full",
        remedy="let the command use less memory: the tmpfs has half of the machine's memory\n"
        "close other templates of the SandboxHost: all its templates share the tmpfs",
    )


def outdated(what: str, remedy: str | None) -> RunscError:
    """Return the error for a template that can't be used any more because of a change.

    :param what: what has changed since the template was created, for the message.
    :param remedy: the shell command that recreates the template, or ``None``.
    """
    return RunscError(
        f"the template is outdated: {what}",
        step=STEP,
        cause="template-outdated",
        remedy=remedy or "create the template again",
    )


def other_host(options: Sequence[str], remedy: str | None) -> RunscError:
    """Return the error for a template that was created in a SandboxHost with other options.

    :param options: descriptions of the options that differ.
    :param remedy: the shell command that recreates the template, or ``None``.
    """
    return RunscError(
        f"the template was created with other options: {'; '.join(options)}",
        step=STEP,
        cause="template-host-differs",
        remedy="give the options of the template's creation to usernsctl template run or "
        f"SandboxHost(); or {remedy or 'create the template again'}",
    )


def wrong_kind(path: str, kind: str) -> RunscError:
    """Return the error for a saved template that was loaded by the wrong class.

    :param kind: the kind of the saved template.
    """
    name = "PythonTemplate" if kind == "python" else "Template"
    return RunscError(
        f"{path} is the template of {'an interpreter' if kind == 'python' else 'a command'}",
        step=STEP,
        filename=path,
        remedy=f"usernsctl.{name}.load(directory)",
    )


def damaged(path: str, why: str) -> RunscError:
    """Return the error for a saved template that is incomplete or was modified.

    :param path: the directory of the template.
    """
    return RunscError(
        f"{path} is not a complete template: {why}",
        step=STEP,
        filename=path,
        cause="template-damaged",
        remedy=f"create the template again, after: rm -r {quoted(path)}",
    )


def untrusted(path: str, why: str) -> RunscError:
    """Return the error for a template that other users could have modified."""
    return RunscError(
        f"{path} can't be trusted: {why}",
        step=STEP,
        filename=path,
        cause="template-untrusted",
        remedy=f"chmod -R go= {quoted(path)}    # if nobody else has changed the files; "
        "directories above must not be writable by others",
    )


# The directory for images, beside the sandboxes' directories. Its name can't be the id of a
# sandbox, because an id can't begin with a dot.
_DIRECTORY = ".images"

# The maximum number of files in an image. runsc writes three; a later release may write more.
_FILES_MAX = 16

_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

#: A mapping from the names of an image's files to their sizes and SHA-256 digests.
Sums = Mapping[str, tuple[int, str]]


class Image:
    """A checkpoint image: a directory of files in the tmpfs of a SandboxHost.

    :ivar inside: the path of the directory in the mount namespace of the SandboxHost.
    """

    def __init__(self, host: HostNamespace) -> None:
        """Create an empty directory for the files of an image.

        :raises ValueError: the host is closed.
        :raises NamespaceError: the directory can't be created.
        """
        name = os.urandom(8).hex()
        # Open a descriptor that stays open even if the SandboxHost is closed while the image is
        # used.
        self._top = host.open_directory()
        self.inside: str = f"{self._top.path}/{_DIRECTORY}/{name}"
        self._name = f"{_DIRECTORY}/{name}"
        self._file = OpenFile(Descriptor(), self.inside)
        with NamespaceError.instead("the image of the template", step=STEP):
            try:
                make_private(_DIRECTORY, self._top.fd, exist_ok=True)
                make_private(self._name, self._top.fd)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = OpenFile.own(
                    self.inside, os.open, self._name, flags, dir_fd=self._top.fd
                )
            except BaseException:
                self.close()
                raise

    def save(self, directory: int) -> dict[str, tuple[int, str]]:
        """Copy the image's files to a directory; return the size and the digest of each file.

        :param directory: a descriptor of the directory.
        :raises OSError: a file can't be read or written.
        """
        # Open the directory again to get a new open file description. Threads that list the
        # directory through the same description would share its offset, and each would see only
        # some of the names.
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with OpenFile.own(self.inside, os.open, ".", flags, dir_fd=self._file.fd) as own:
            return {name: _copy(name, own.fd, directory) for name in sorted(os.listdir(own.fd))}

    def load(self, directory: int, path: str, sums: Sums) -> None:
        """Copy the files of a saved image from a directory; check that they are unchanged.

        :param path: the path of `directory`, for messages.
        :raises RunscError: a file was changed, or other users could have modified it.
        :raises NamespaceError: the files can't be copied, for example for lack of space.
        """
        for name, (size, digest) in sums.items():
            _check_file(name, directory, path, size)
            with NamespaceError.instead(f"{path}/{name}", step=STEP):
                copied = _copy(name, directory, self._file.fd)
            if copied != (size, digest):
                raise damaged(path, f"{name} has changed since it was saved")

    def is_out_of_space(self) -> bool:
        """Return whether the filesystem of the image's files has no free block."""
        return os.fstatvfs(self._file.fd).f_bavail == 0

    def clear(self) -> None:
        """Remove the image's files."""
        for name in os.listdir(self._file.fd):
            os.unlink(name, dir_fd=self._file.fd)

    def close(self) -> None:
        """Remove the image's directory. Sandboxes that were started from the image keep running."""
        self._file.close()
        # Take the descriptor out of self._top first, so that another thread that calls this method
        # can't close the descriptor while this thread uses it.
        with OpenFile(self._top.descriptor.move(), self._top.path) as top:
            if top.fd >= 0:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self._name, dir_fd=top.fd)

    def release(self) -> None:
        """Close the descriptors without removing the image's directory."""
        self._file.close()
        self._top.close()


def sums_from_json(given: Mapping[str, object]) -> Sums:
    """Parse the JSON form of the value that :meth:`Image.save` returned.

    :raises ValueError: the JSON is malformed.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, one in given.items():
        match one:
            case [int(size), str(digest)] if re.fullmatch(NAME, name) and size >= 0:
                found[name] = (size, digest)
            case _:
                raise ValueError("the list of files is invalid")
    if not 0 < len(found) <= _FILES_MAX:
        raise ValueError("the list of files is empty or too long")
    return found


def _check_file(name: str, directory: int, path: str, size: int) -> None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        raise damaged(path, f"{name} is missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, f"{name} is not a regular file")
    if status.st_size != size:
        raise damaged(path, f"{name} has {status.st_size} bytes, but had {size} when saved")
    fault = fault_of(status, 0o022)
    if fault is not None:
        raise untrusted(f"{path}/{name}", fault)


def _copy(name: str, source: int, target: int) -> tuple[int, str]:
    """Copy a file from one directory to another; return its size and its SHA-256 digest."""
    import hashlib

    digest, size = hashlib.sha256(), 0
    opener = functools.partial(os.open, mode=0o600, dir_fd=target)
    with (
        open_file(name, _READ, source) as reading,
        open(name, "xb", buffering=0, opener=opener) as writing,
    ):
        if not stat.S_ISREG(os.fstat(reading.fileno()).st_mode):
            raise OSError(22, "not a regular file", name)
        os.fchmod(writing.fileno(), 0o600)
        while chunk := reading.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[writing.write(view) :]
    return size, digest.hexdigest()
