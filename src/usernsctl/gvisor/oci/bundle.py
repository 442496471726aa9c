"""Access to bundle directories and their config.json, through one descriptor for each directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from usernsctl._lean import dataclass
from usernsctl._system.descriptors import Closing
from usernsctl._system.paths import OpenFile, PathDescriptor, open_beneath, open_file, open_path
from usernsctl._text import command, operand
from usernsctl.errors import BundleError
from usernsctl.gvisor.oci.schema import STEP, parse, serialise, validate

CONFIG_NAME = "config.json"
MAX_BYTES = 16 * 1024 * 1024
"""Maximum size of a config.json, in bytes; real files have a few KiB."""


class Bundle(Closing):
    """An open bundle directory. All paths in the bundle are resolved from :attr:`descriptor`.

    :ivar path: the path by which the directory was opened, for messages.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the bundle directory.

        :raises BundleError: `path` is not a directory, or can't be opened.
        """
        self.path: str = os.fspath(path)
        absolute = os.path.abspath(self.path)
        self._prefixes = (absolute, os.path.realpath(absolute))
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self._opened = OpenFile.own(self.path, os.open, self.path, flags)
        except OSError as error:
            self._refuse_directory(error)

    @property
    def descriptor(self) -> int:
        """The descriptor (O_PATH) of the directory; -1 after :meth:`close`."""
        return self._opened.fd

    @property
    def filename(self) -> str:
        """The path of the bundle's config.json, for messages."""
        return os.path.join(self.path, CONFIG_NAME)

    def load(self) -> dict[str, Any]:
        """Read, parse and validate the bundle's config.json: see the function :func:`load`."""
        config = parse(self.read(), filename=self.filename)
        validate(config, filename=self.filename)
        return config

    def read(self) -> bytes:
        """Read the bundle's config.json.

        :raises BundleError: config.json is missing, isn't a regular file in the bundle, can't be
            read, or is longer than :data:`MAX_BYTES`.
        """
        with self.open_config() as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            self._refuse(f"{self.filename} is longer than {MAX_BYTES} bytes")
        return text

    @contextlib.contextmanager
    def open_config(self) -> Iterator[BinaryIO]:
        """Open config.json, and yield a file object that reads from it.

        :raises BundleError: config.json is missing, isn't a regular file, can't be read, or is a
            symbolic link that resolves outside of the bundle.
        """
        with contextlib.ExitStack() as opened:
            try:
                found = opened.enter_context(open_beneath(self.descriptor, CONFIG_NAME))
                # Check the type on an O_PATH descriptor: opening a device may have side effects,
                # and opening a FIFO blocks.
                if not stat.S_ISREG(found.status.st_mode):
                    self._refuse(f"{self.filename} is not a regular file")
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                file = opened.enter_context(open_file(f"/proc/self/fd/{found.fd}", flags))
            except OSError as error:
                if isinstance(error, BundleError):
                    raise
                self._refuse_config(error)
            yield file

    def within(self, path: str) -> str | None:
        """Return `path` relative to the bundle, or None if `path` is outside of the bundle.

        Absolute paths are compared with the bundle's path as text. :func:`open_beneath` later
        rejects symbolic links that resolve outside of the bundle.
        """
        if not path.startswith("/"):
            return path
        for base in self._prefixes:
            if path == base:
                return "."
            if path.startswith(f"{base.rstrip('/')}/"):
                return path[len(base.rstrip("/")) + 1 :].lstrip("/") or "."
        return None

    def open_path(self, path: str, *, anywhere: bool = False) -> PathDescriptor:
        """Open a path from config.json, either absolute or relative to the bundle.

        :param anywhere: whether the path may resolve outside of the bundle.
        :raises ForeignLinkError: `anywhere` is true, and the path contains a symbolic link that
            another user may change.
        :raises OSError: the path can't be opened. EXDEV means that the path resolves outside of the
            bundle, and `anywhere` is false.
        """
        if anywhere:
            here = os.readlink(f"/proc/self/fd/{self.descriptor}")
            return open_path(os.path.join(here, path))
        inside = self.within(path)
        if inside is None:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        return open_beneath(self.descriptor, inside)

    def create_file(self, name: str, mode: int) -> BinaryIO:
        """Create the file `name` in the bundle, and return a file object that writes to it."""
        # Python runs no signal handler between os.open() and the creation of the file object, which
        # then owns the descriptor, because both run in C code.
        return open(name, "xb", opener=partial(os.open, mode=mode, dir_fd=self.descriptor))

    def link(self, old: str, new: str) -> None:
        """Create a hard link `new` to the file `old` of the bundle; `new` must not exist."""
        os.link(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def rename(self, old: str, new: str) -> None:
        """Rename a file in the bundle; replace an existing file `new`."""
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def unlink(self, name: str) -> None:
        """Remove a file of the bundle."""
        os.unlink(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Write the entries of the bundle's directory to disk (fsync(2))."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with OpenFile.own(".", os.open, ".", flags, dir_fd=self.descriptor) as directory:
            os.fsync(directory.fd)

    def close(self) -> None:
        """Close the descriptor of the bundle directory. Repeated calls do nothing."""
        self._opened.close()

    def _command_that_creates(self) -> str:
        """Return the shell command that creates a bundle in this directory."""
        argv = ["usernsctl", "bundle", "init", operand(self.path)]
        return f"{command(argv)} --rootfs ROOTFS -- COMMAND"

    def _refuse_directory(self, error: OSError) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            remedy = self._command_that_creates()
            self._refuse(f"there is no bundle directory {self.path}", error.errno, remedy)
        if isinstance(error, NotADirectoryError):
            self._refuse(
                f"{self.path} is not a directory; a bundle is a directory with a {CONFIG_NAME}",
                error.errno,
            )
        self._refuse(f"can't open {self.path}: {error.strerror}", error.errno)

    def _refuse_config(self, error: OSError) -> NoReturn:
        if isinstance(error, FileNotFoundError):
            remedy = self._command_that_creates()
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

    The result has all keys of the file, in the file's order, including unknown keys.

    :raises BundleError: the directory or file is missing or can't be read, or the file is invalid
        (see :func:`parse` and :func:`validate`).
    """
    with Bundle(bundle) as opened:
        return opened.load()


ORIGINAL_NAME = CONFIG_NAME + ".orig"


def create(bundle: str | os.PathLike[str], config: dict[str, Any]) -> Path:
    """Write `config` to a new config.json in the directory `bundle`; create a missing directory.

    :returns: the path of the new config.json.
    :raises BundleError: config.json exists already, or can't be written. The function then removes
        the directory if it has created the directory.
    """
    directory = Path(bundle)
    filename = directory / CONFIG_NAME
    with contextlib.ExitStack() as undo, _bundle_errors(filename):
        if not directory.exists():
            directory.mkdir()
            undo.callback(directory.rmdir)
        with Bundle(bundle) as opened, _new_file(opened, serialise(config)) as temporary:
            opened.link(temporary, CONFIG_NAME)
        undo.pop_all()
    return filename


def replace(bundle: Bundle, config: dict[str, Any]) -> Path:
    """Replace the bundle's config.json by `config`.

    The old file is preserved as config.json.orig, with the same mode and, if the caller is root,
    the same owner.

    :returns: the path of config.json.orig.
    :raises BundleError: config.json.orig exists already, or a file can't be read or written. The
        bundle is then unchanged.
    """
    original = Path(bundle.path) / ORIGINAL_NAME
    with contextlib.ExitStack() as undo, _bundle_errors(original):
        with bundle.open_config() as file:
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
    """The mode and the owner of an old file, for the file that replaces it."""

    mode: int
    uid: int
    gid: int

    def apply(self, descriptor: int) -> None:
        if os.geteuid() == 0:
            os.fchown(descriptor, self.uid, self.gid)
        os.fchmod(descriptor, self.mode)


@contextlib.contextmanager
def _new_file(bundle: Bundle, text: bytes, like: _Attributes | None = None) -> Iterator[str]:
    """Write a temporary file in the bundle; yield its name, which the ``with`` body may link.

    The name is removed after the ``with`` body.
    """
    name = f".{CONFIG_NAME}.{os.urandom(8).hex()}"
    try:
        # Create the file with a private mode: the mode of `like` may be private, and until that
        # mode is set, other users must not be able to open the file.
        with bundle.create_file(name, 0o666 if like is None else 0o600) as file:
            if like is not None:
                like.apply(file.fileno())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield name
        bundle.sync()
    finally:
        with contextlib.suppress(FileNotFoundError):
            bundle.unlink(name)


@contextlib.contextmanager
def _bundle_errors(filename: Path) -> Iterator[None]:
    """Convert an OSError raised in the ``with`` body to a BundleError for `filename`."""
    try:
        yield
    except BundleError:
        raise
    except FileExistsError as error:
        reason = f"{filename} exists already and is not overwritten"
        name = operand(str(filename))
        remedy = command(["mv", name, f"{name}.old"])
        raise _error(reason, filename, error, remedy) from None
    except OSError as error:
        raise _error(f"can't write {filename}: {error.strerror}", filename, error) from None


def _error(reason: str, filename: Path, error: OSError, remedy: str | None = None) -> BundleError:
    number = error.errno or 0
    return BundleError(reason, step=STEP, errno=number, filename=str(filename), remedy=remedy)
