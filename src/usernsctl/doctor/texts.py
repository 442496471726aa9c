"""The messages that are recognised, read from the files in ``said/``."""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources

import msgspec

#: The files, by what says the messages in them.
SPEAKERS = ("runsc", "helpers", "namespaces")

_NOT_LITERAL = re.compile(r"\\.|\[[^\]]*\]|\.")
_GROUP = re.compile(r"\([^()]*\)")
_REPEATED = re.compile(r".(?:[?*+]|\{[^}]*\})")
_GAP = "\0"


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that some program prints.

    :ivar says: the message as it was met.
    :ivar pattern: the regular expression that it is known by, within a line.
    :ivar causes: ids of what it can come from, likeliest first.
    :ivar since: the first release of runsc that says so (YYYYMMDD), where others don't.
    :ivar until: the first that no longer does.
    """

    says: str
    pattern: str
    causes: tuple[str, ...]
    since: int | None = None
    until: int | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    text: tuple[Text, ...]


@functools.cache
def texts() -> tuple[Text, ...]:
    """All messages, in the order of the files."""
    directory = resources.files("usernsctl.doctor") / "said"
    found: list[Text] = []
    for speaker in SPEAKERS:
        table = tomllib.loads((directory / f"{speaker}.toml").read_text(encoding="utf-8"))
        found += msgspec.convert(table, _File).text
    return tuple(found)


def needle(pattern: str) -> str:
    """The longest piece of text that is in whatever the pattern matches; empty if there is none.

    To look for a plain piece of text is many times as fast as to look for a pattern, and most
    messages are not in most inputs.
    """
    bare = _NOT_LITERAL.sub(_GAP, pattern)
    while _GROUP.search(bare):
        bare = _GROUP.sub(_GAP, bare)
    if "|" in bare:
        return ""
    return max(_REPEATED.sub(_GAP, bare).split(_GAP), key=len)
