"""Parser of csrc/explain/messages/, from which the core's table of messages is generated."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

_DIRECTORY = Path(__file__).resolve().parents[3] / "csrc" / "explain" / "messages"


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that a program prints.

    :ivar says: an example of the message, as a program has printed it.
    :ivar pattern: the regular expression (:data:`re.ASCII`) that finds the message within a line.
    :ivar causes: ids of the possible causes, likeliest first.
    :ivar since: the first release of runsc with the message (YYYYMMDD); None if all releases have
        the message.
    :ivar until: the first later release of runsc without the message; None if all later releases
        have the message.
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
