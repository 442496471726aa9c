"""The directory of a bundle, opened once, and its config.json."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from usernsctl._lean import dataclass
from usernsctl._system.descriptors import Closing
from usernsctl._system.paths import open_beneath, open_path
from usernsctl._text import command, operand
from usernsctl.errors import BundleError
from usernsctl.gvisor.oci.schema import STEP, parse, serialise, validate

CONFIG_NAME = "config.json"
MAX_BYTES = 16 * 1024 * 1024
"""Longer files are refused: real ones have a few KiB."""


class Bundle(Closing):
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
            return open_path(os.path.join(here, path)).detach()
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
        """Rename a file of the bundle."""
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def unlink(self, name: str) -> None:
        """Remove a file of the bundle."""
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
        """Close the directory. Does nothing the second time."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

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


ORIGINAL_NAME = CONFIG_NAME + ".orig"


def create(bundle: str | os.PathLike[str], config: dict[str, Any]) -> Path:
    """Write `config` to the directory `bundle`, which is made if it is missing.

    :returns: the path of the new config.json.
    :raises BundleError: there is a config.json already, or it can't be written. A directory
        that this call made is removed again.
    """
    directory = Path(bundle)
    filename = directory / CONFIG_NAME
    with contextlib.ExitStack() as undo, _told(filename):
        if not directory.exists():
            directory.mkdir()
            undo.callback(directory.rmdir)
        with Bundle(bundle) as opened, _new_file(opened, serialise(config)) as temporary:
            opened.link(temporary, CONFIG_NAME)
        undo.pop_all()
    return filename


def replace(bundle: Bundle, config: dict[str, Any]) -> Path:
    """Put `config` in the place of the bundle's config.json.

    The old file is kept beside it as config.json.orig, with the same mode and, if the caller
    may give files away, the same owner.

    :returns: the path of the file kept.
    :raises BundleError: there is a config.json.orig already, or something can't be read or
        written. Then the bundle is as it was.
    """
    original = Path(bundle.path) / ORIGINAL_NAME
    with contextlib.ExitStack() as undo, _told(original):
        with open(bundle.open_config(), "rb") as file:
            status = os.fstat(file.fileno())
            old = file.read()
        like = _Attributes(status.st_mode & 0o777, status.st_uid, status.st_gid)
        with _new_file(bundle, old, like) as temporary:
            bundle.link(temporary, ORIGINAL_NAME)
        undo.callback(bundle.unlink, ORIGINAL_NAME)
        with _new_file(bundle, serialise(config), like) as temporary:
            bundle.rename(temporary, CONFIG_NAME)
        undo.pop_all()
    return original


@dataclass(frozen=True, slots=True)
class _Attributes:
    """What a new file takes over from the one it stands for."""

    mode: int
    uid: int
    gid: int

    def give(self, descriptor: int) -> None:
        if os.geteuid() == 0:
            os.fchown(descriptor, self.uid, self.gid)
        os.fchmod(descriptor, self.mode)


@contextlib.contextmanager
def _new_file(bundle: Bundle, text: bytes, like: _Attributes | None = None) -> Iterator[str]:
    """A complete file of the bundle under a name of its own, gone at the end unless renamed."""
    name = f".{CONFIG_NAME}.{os.urandom(8).hex()}"
    # What takes over a private mode must not be open to others meanwhile.
    descriptor = bundle.make(name, 0o666 if like is None else 0o600)
    try:
        with open(descriptor, "wb") as file:
            if like is not None:
                like.give(descriptor)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield name
        bundle.sync()
    finally:
        with contextlib.suppress(FileNotFoundError):
            bundle.unlink(name)


@contextlib.contextmanager
def _told(filename: Path) -> Iterator[None]:
    """Turn an OSError of the block into a BundleError about `filename`."""
    try:
        yield
    except BundleError:
        raise
    except FileExistsError as error:
        reason = f"{filename} exists already; it is not overwritten"
        name = operand(str(filename))
        remedy = command(["mv", name, f"{name}.old"])
        raise _error(reason, filename, error, remedy) from None
    except OSError as error:
        raise _error(f"can't write {filename}: {error.strerror}", filename, error) from None


def _error(reason: str, filename: Path, error: OSError, remedy: str | None = None) -> BundleError:
    number = error.errno or 0
    return BundleError(reason, step=STEP, errno=number, filename=str(filename), remedy=remedy)
