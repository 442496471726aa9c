"""Checks of the names of namespaces and templates, and of the ids of sandboxes."""

from __future__ import annotations

import re

from usernsctl.errors import NamespaceError

#: The pattern that each name and id matches.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"


class InvalidNameError(NamespaceError, ValueError):
    """A text that can't be the name of a namespace or template, or the id of a sandbox."""


def check_name(name: str, what: str) -> str:
    """Check that a text can be the name of an entry, and return it.

    :param what: the kind of the name for the error, such as ``"the name of a namespace"``.
    :raises InvalidNameError: the text can't be a name.
    """
    if not re.fullmatch(NAME, name):
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        raise InvalidNameError(
            f"{shown!r} can't be {what}: it must be 1 to 64 letters, digits, dots, dashes and "
            "underscores, the first a letter, a digit or an underscore",
            step="name",
            cause="name-invalid",
        )
    return name
