"""The messages that the core's table is made of (csrc/explain/messages/), for tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

_DIRECTORY = Path(__file__).resolve().parents[3] / "csrc" / "explain" / "messages"


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that some program prints.

    :ivar says: the message as it was met.
    :ivar pattern: the regular expression (:data:`re.ASCII`) that it is known by, within a line.
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
    hint: tuple[Text, ...] = ()


_FILES = [
    msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), _File)
    for file in sorted(_DIRECTORY.glob("*.toml"))
]

TEXTS = tuple(text for file in _FILES for text in file.text)
HINTS = tuple(hint for file in _FILES for hint in file.hint)
