"""The native programs that are installed with this package."""

from __future__ import annotations

import os

from usernsctl.errors import CommandError

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bin")
_REMEDY = "pip install --force-reinstall usernsctl"


def path_of(name: str) -> str:
    """Where a program of ours is, whether or not it is there."""
    return os.path.join(_DIRECTORY, name)


def missing(name: str, purpose: str) -> CommandError:
    """The error that a program of ours is not there: the installation is incomplete.

    :param purpose: what it does.
    """
    path = path_of(name)
    return CommandError(
        f"{path}, which {purpose}, is missing: it is installed together with this package",
        step="exec",
        filename=path,
        remedy=_REMEDY,
    )


def find(name: str, purpose: str) -> str:
    """The path of a program of ours.

    :raises CommandError: it is not there, or can't be executed.
    """
    path = path_of(name)
    if not os.access(path, os.X_OK):
        raise missing(name, purpose)
    return path
