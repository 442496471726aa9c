"""Make csrc/explain/texts.c of the catalogue, src/usernsctl/explain/, when csrc/ is built.

The native programs explain failures by the same messages and causes as the package does. They have
no regular expressions, so each pattern becomes plain sequences (csrc/explain/explain.h). It needs
nothing but Python's own library, since nothing else is there when a build begins.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# As csrc/explain/explain.h has them.
SET, NOT, END = "\1", "\2", "\3"
MANY = 1000

# Classes, as the inside of a set (re.ASCII).
CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "S": "^ \t\n\r\f\v"}

#: The files with messages: the order counts where several match.
SPEAKERS = ("runsc", "helpers", "namespaces", "containers")

HEAD = """\
/*
 * All messages with their causes, and all causes. explain/texts.py makes this file of
 * explain/messages/ and of src/usernsctl/explain/causes/.
 *
 * One text holds all, so that nothing of it is looked at, nor moved, before there is a failure.
 */
#include "explain/explain.h"

/* clang-format off */
"""


class Pattern:
    """Reads a regular expression of the catalogue, as far as those go."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def sequences(self) -> list[str]:
        """What the pattern matches: each of these does."""
        found = self._alternatives()
        if self._at != len(self._text):
            raise ValueError(f"{self._text!r}: not understood at {self._at}")
        return found

    def _alternatives(self) -> list[str]:
        found = self._sequence()
        while self._take("|"):
            found += self._sequence()
        return found

    def _sequence(self) -> list[str]:
        parts: list[list[str]] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(*self._one()))
        return ["".join(one) for one in itertools.product(*parts)]

    def _one(self) -> tuple[list[str], str]:
        """What comes next: a group, or the set of a single character."""
        if self._take("(?:"):
            group = self._alternatives()
            self._need(")")
            return group, ""
        if self._take("(?!"):
            group = self._alternatives()
            self._need(")")
            return ["".join(f"{NOT}{one}{END}" for one in group)], ""
        return [], self._set()

    def _set(self) -> str:
        char = self._next()
        if char == "\\":
            return CLASSES.get(char := self._next(), char)
        if char == ".":
            return "^\n"
        if char != "[":
            if char in "()*+?{}^$":
                raise ValueError(f"{self._text!r}: not understood at {self._at - 1}")
            return char
        # A message is within a line.
        found = "^\n" if self._take("^") else ""
        while not self._take("]"):
            char = self._next()
            if char == "\\":
                char = {"n": "", **CLASSES}.get(char := self._next(), char)
            found += char
        return found

    def _repeated(self, group: list[str], members: str) -> list[str]:
        least, most = self._times()
        if group:
            if (least, most) not in ((1, 1), (0, 1)):
                raise ValueError(f"{self._text!r}: a group is repeated before {self._at}")
            return ["", *group] if least == 0 else group
        if (least, most, len(members)) == (1, 1, 1):
            return [members]
        return [f"{SET}{members}{SET}{least},{most};"]

    def _times(self) -> tuple[int, int]:
        if self._take("?"):
            return 0, 1
        if self._take("+"):
            return 1, MANY
        if self._take("{"):
            least, _, most = self._text[self._at :].partition("}")[0].partition(",")
            self._at = self._text.index("}", self._at) + 1
            return int(least), int(most)
        return 1, 1

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _take(self, word: str) -> bool:
        if not self._text.startswith(word, self._at):
            return False
        self._at += len(word)
        return True

    def _need(self, word: str) -> None:
        if not self._take(word):
            raise ValueError(f"{self._text!r}: {word!r} is missing at {self._at}")


def literal(text: str) -> str:
    """A C string."""
    escaped = "".join(
        char
        if " " <= char <= "~" and char not in '"\\?'
        else f"\\{char}"
        if char in '"\\?'
        else f"\\{byte:03o}"
        for byte, char in ((ord(one), one) for one in text)
    )
    return f'"{escaped}"'


def words(lists: list[list[str]]) -> Iterator[str]:
    """Yield lines of C for lists of words, each ended by an empty word."""
    for one in lists:
        for word in one:
            assert word.isascii(), word
            yield f"    {literal(word)} {literal(chr(0))}"
        yield f"    {literal(chr(0))}"


def read(directory: Path, key: str) -> list[dict[str, Any]]:
    """Return the tables of that name in all files of a directory, in the order of SPEAKERS."""
    order = {f"{name}.toml": place for place, name in enumerate(SPEAKERS)}
    files = sorted(directory.glob("*.toml"), key=lambda file: (order.get(file.name, 0), file.name))
    return [
        table
        for file in files
        for table in tomllib.loads(file.read_text(encoding="utf-8")).get(key, ())
    ]


def document(messages: Path, causes: Path) -> str:
    """Return the C source.

    :param messages: the directory with the messages of each speaker.
    :param causes: the directory with the causes.
    """
    texts, hints = (read(messages, key) for key in ("text", "hint"))
    known = read(causes, "cause")
    assert len(known) <= 256, "UN_CAUSES_MAX of usernsctl.h"
    assert len(texts) + len(hints) + len(known) <= 512, "UN_OCCURRENCES_MAX of usernsctl.h"
    ids = {one["id"] for one in known}
    for text in (*texts, *hints):
        assert ids.issuperset(text["causes"]), text
    told = [[one["id"], one["why"], one["remedies"]["host"].strip()] for one in known]
    tables = {"texts": entries(texts), "text_hints": entries(hints), "text_causes": told}
    return HEAD + "".join(
        f"const char un_{name}[] =\n{chr(10).join(words(lists))};\n\n"
        for name, lists in tables.items()
    )


def entries(texts: list[dict[str, Any]]) -> list[list[str]]:
    """Return, by turns, the sequences and the causes of each text."""
    return [part for one in texts for part in (Pattern(one["pattern"]).sequences(), one["causes"])]


def generate(messages: Path, causes: Path, target: Path) -> None:
    """Write the C source to `target`, unless that has it already."""
    wanted = document(messages, causes)
    if not target.exists() or target.read_text(encoding="utf-8") != wanted:
        target.write_text(wanted, encoding="utf-8")
