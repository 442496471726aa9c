"""The directories of saved templates."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from usernsctl._system.opened import Untrusted, open_trusted
from usernsctl._system.state import Directory, make_private
from usernsctl.errors import NamespaceError, UsernsError
from usernsctl.gvisor.template.errors import STEP, damaged, untrusted
from usernsctl.gvisor.template.image import open_saved
from usernsctl.gvisor.template.record import TemplateRecord

_T = TypeVar("_T")

#: In there: what is known of a template. All else are the files of its image.
RECORD = "template.json"


def opened(path: str) -> Directory:
    """Open the directory of a saved template.

    :param path: an absolute path.
    :raises RunscError: there is none, or others could have written to it.
    """
    return Directory(open_saved(path), path, forbidden=0o077)


def use(path: str, work: Callable[[Directory], _T]) -> _T:
    """Do something with the directory of a saved template, and return what comes of it.

    Where that fails since the template was removed, or another one has taken its place, it is done
    with what is there now.

    :param path: an absolute path.
    :raises RunscError: there is none, or others could have written to it.
    :raises UsernsError: what `work` raises.
    """
    while True:
        with opened(path) as directory:
            try:
                return work(directory)
            except UsernsError:
                if _is_still(directory):
                    raise


def _is_still(directory: Directory) -> bool:
    """Whether its path leads to it."""
    try:
        now = os.stat(directory.path, follow_symlinks=False)
    except OSError:
        return False
    return os.path.samestat(now, os.fstat(directory.fd))


def made(path: str) -> Directory:
    """Make a directory for a template, or open one that is empty.

    :param path: an absolute path.
    :raises NamespaceError: it is not empty.
    :raises RunscError: others could write to it.
    :raises OSError: it can't be made.
    """
    try:
        parent = open_trusted(os.path.dirname(path))
    except Untrusted as error:
        raise untrusted(path, str(error)) from None
    try:
        make_private(os.path.basename(path), parent, exist_ok=True)
    finally:
        os.close(parent)
    found = opened(path)
    if os.listdir(found.fd):
        found.close()
        raise NamespaceError(
            f"{path} is not empty",
            step=STEP,
            filename=path,
            remedy="name a directory that does not exist, or remove what is there",
        )
    return found


def read(directory: Directory) -> TemplateRecord:
    """What is known of a template that was saved.

    :raises RunscError: it is not whole, or others could have written it.
    """
    path = directory.path
    try:
        given = directory.read(RECORD)
        if given is None:
            raise damaged(path, f"there is no {RECORD}")
        made = TemplateRecord.from_json(given)
        if made.images is None:
            raise ValueError("it lists no files")
        return made
    except NamespaceError as error:
        raise untrusted(path, error.reason) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise damaged(path, f"{RECORD} makes no sense") from error
