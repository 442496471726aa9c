"""Writing the config.json of a bundle: whole or not at all, and never over a file kept before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from usernsctl.errors import BundleError
from usernsctl.oci.load import CONFIG_NAME, Bundle
from usernsctl.oci.parse import STEP, serialise
from usernsctl.shown import command, operand

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
