"""The directory of a bundle, opened once, and its config.json."""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import Any, NoReturn, Self

from usernsctl.beneath import open_beneath
from usernsctl.errors import BundleError
from usernsctl.oci.parse import STEP, parse
from usernsctl.oci.shape import validate
from usernsctl.opened import follow
from usernsctl.shown import command, operand

CONFIG_NAME = "config.json"
MAX_BYTES = 16 * 1024 * 1024
"""Longer files are refused: real ones have a few KiB."""


class Bundle:
    """The directory of a bundle: an open descriptor, which all paths of it are followed from.

    :ivar path: what it was opened as, for messages.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the directory.

        :raises BundleError: there is none.
        """
        self.path = os.fspath(path)
        self.descriptor = -1
        absolute = os.path.abspath(self.path)
        self._named_as = (absolute, os.path.realpath(absolute))
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self.descriptor = os.open(self.path, flags)
        except OSError as error:
            self._refuse_directory(error)

    @property
    def filename(self) -> str:
        """The path of config.json, for messages."""
        return os.path.join(self.path, CONFIG_NAME)

    def load(self) -> dict[str, Any]:
        """Read, parse and validate config.json; see :func:`load`."""
        config = parse(self.read(), filename=self.filename)
        validate(config, filename=self.filename)
        return config

    def read(self) -> bytes:
        """The bytes of config.json.

        :raises BundleError: there is none, it isn't a regular file of the bundle, it can't be
            read, or it is longer than :data:`MAX_BYTES`.
        """
        with open(self.open_config(), "rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            self._refuse(f"{self.filename} has more than {MAX_BYTES} bytes")
        return text

    def open_config(self) -> int:
        """A descriptor to read config.json from; a symbolic link to it has to stay in the bundle.

        :raises BundleError: there is none, it isn't a regular file, or it can't be read.
        """
        try:
            found = open_beneath(self.descriptor, CONFIG_NAME)
            try:
                # Not even opened otherwise: a device may act at that, and a FIFO waits.
                if not stat.S_ISREG(os.fstat(found).st_mode):
                    self._refuse(f"{self.filename} is not a regular file")
                return _reopen(found)
            finally:
                os.close(found)
        except OSError as error:
            if isinstance(error, BundleError):
                raise
            self._refuse_config(error)

    def within(self, path: str) -> str | None:
        """`path` from this directory on; ``None`` for one that does not even begin with it.

        What the result leads to is for :func:`open_beneath` to find out.
        """
        if not path.startswith("/"):
            return path
        for base in self._named_as:
            if path == base:
                return "."
            if path.startswith(f"{base.rstrip('/')}/"):
                return path[len(base.rstrip("/")) + 1 :].lstrip("/") or "."
        return None

    def open_path(self, path: str, *, anywhere: bool = False) -> int:
        """Open a path of config.json: absolute, or from this directory on.

        :param anywhere: whether it may lead out of the bundle.
        :returns: a descriptor (O_PATH, close-on-exec) for the caller to close.
        :raises ForeignLinkError: it may, but by a symbolic link that somebody else may change.
        :raises OSError: EXDEV where it leads out of the bundle and may not, or what the kernel
            says.
        """
        if anywhere:
            here = os.readlink(f"/proc/self/fd/{self.descriptor}")
            return follow(os.path.join(here, path)).detach()
        inside = self.within(path)
        if inside is None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        return open_beneath(self.descriptor, inside)

    def make(self, name: str, mode: int) -> int:
        """A descriptor of a new file of this name in the directory, to write to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(name, flags, mode, dir_fd=self.descriptor)

    def link(self, old: str, new: str) -> None:
        """Give the file of the directory another name, which nothing may have yet."""
        os.link(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Have the names in the directory written to the disk."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        directory = os.open(".", flags, dir_fd=self.descriptor)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close()

    def _refuse_directory(self, error: OSError) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            self._refuse(f"there is no bundle directory {self.path}", error.errno)
        if isinstance(error, NotADirectoryError):
            self._refuse(
                f"{self.path} is not a directory; a bundle is a directory with a {CONFIG_NAME}",
                error.errno,
            )
        self._refuse(f"can't open {self.path}: {error.strerror}", error.errno)

    def _refuse_config(self, error: OSError) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            words = ["usernsctl", "bundle", "init", operand(self.path)]
            remedy = f"{command(words)} --rootfs ROOTFS -- COMMAND"
            self._refuse(f"there is no {CONFIG_NAME} in {self.path}", error.errno, remedy)
        if error.errno == errno.EXDEV:
            self._refuse(f"{self.filename} leads out of the bundle", error.errno)
        self._refuse(f"can't read {self.filename}: {error.strerror}", error.errno)

    def _refuse(
        self, reason: str, number: int | None = None, remedy: str | None = None
    ) -> NoReturn:
        raise BundleError(
            reason, step=STEP, errno=number or 0, filename=self.filename, remedy=remedy
        )


def load(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Read, parse and validate the config.json in the directory `bundle`.

    The result has every key of the file, in the file's order.

    :raises BundleError: there is no such directory or file, it can't be read, or its text or
        shape is wrong (see :func:`parse` and :func:`validate`).
    """
    with Bundle(bundle) as opened:
        return opened.load()


def _reopen(descriptor: int) -> int:
    """A descriptor to read from the file that `descriptor` only stands for (O_PATH)."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
