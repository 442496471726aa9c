"""Reading the config.json of a bundle."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Any, NoReturn

from usernsctl.errors import BundleError
from usernsctl.oci.parse import STEP, parse
from usernsctl.oci.shape import validate

CONFIG_NAME = "config.json"
MAX_BYTES = 16 * 1024 * 1024
"""Longer files are refused: real ones have a few KiB."""


def load(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """Read, parse and validate the config.json in the directory `bundle`.

    The result has every key of the file, in the file's order.

    :raises BundleError: there is no such directory or file, it can't be read, or its text or
        shape is wrong (see :func:`parse` and :func:`validate`).
    """
    filename = os.path.join(bundle, CONFIG_NAME)
    config = parse(read(bundle), filename=filename)
    validate(config, filename=filename)
    return config


def read(bundle: str | os.PathLike[str]) -> bytes:
    """The bytes of the config.json in the directory `bundle`.

    :raises BundleError: there is none, it isn't a regular file, it can't be read, or it is
        longer than :data:`MAX_BYTES`.
    """
    directory = Path(bundle)
    filename = directory / CONFIG_NAME
    try:
        with open(filename, "rb", opener=_open_at_once) as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            text = file.read(MAX_BYTES + 1) if is_regular else b""
    except OSError as error:
        _refuse_open(directory, filename, error)
    if not is_regular:
        _refuse(f"{filename} is not a regular file", filename)
    if len(text) > MAX_BYTES:
        _refuse(f"{filename} has more than {MAX_BYTES} bytes", filename)
    return text


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a FIFO would keep a plain open() waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_open(directory: Path, filename: Path, error: OSError) -> NoReturn:
    remedy = None
    if isinstance(error, FileNotFoundError) and not directory.exists():
        reason = f"there is no bundle directory {directory}"
    elif isinstance(error, NotADirectoryError):
        reason = f"{directory} is not a directory; a bundle is a directory with a {CONFIG_NAME}"
    elif isinstance(error, FileNotFoundError):
        reason = f"there is no {CONFIG_NAME} in {directory}"
        remedy = f"usernsctl bundle init {shlex.quote(str(directory))} --rootfs ROOTFS -- COMMAND"
    elif isinstance(error, IsADirectoryError):
        reason = f"{filename} is not a regular file"
    else:
        reason = f"can't read {filename}: {error.strerror}"
    _refuse(reason, filename, error.errno, remedy)


def _refuse(
    reason: str, filename: Path, errno: int | None = None, remedy: str | None = None
) -> NoReturn:
    raise BundleError(reason, step=STEP, errno=errno or 0, filename=str(filename), remedy=remedy)
