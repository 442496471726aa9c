"""Parser of csrc/explain/messages/, the source of the core's table of messages."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

_DIRECTORY = Path(__file__).resolve().parents[3] / "csrc" / "explain" / "messages"


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that a program prints.

    :ivar says: an example of the message, as a program has printed it.
    :ivar pattern: the regular expression (:data:`re.ASCII`) that matches the message within a line.
    :ivar causes: ids of the possible causes, likeliest first.
    :ivar since: the first release of runsc that prints the message (YYYYMMDD), or None if all do.
    :ivar until: the first later release of runsc that no longer prints the message, or None if all
        later releases print it.
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
