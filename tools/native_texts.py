"""Write csrc/explain/texts.c from the catalogue; with --check, say whether it is up to date.

The native programs explain runsc's failures by the same messages and causes as the package does.
They have no regular expressions, so each pattern becomes plain sequences (csrc/explain/match.h).

It runs with the interpreter of the environment that has usernsctl installed as it is in this tree.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import generated

from usernsctl import _core
from usernsctl.explain.catalogue import get
from usernsctl.explain.messages import texts

TARGET = Path(__file__).parent.parent / "csrc" / "explain" / "texts.c"

# As csrc/explain/match.h has them.
SET, NOT, END = "\1", "\2", "\3"
MANY = 1000

# Causes that runsc's failures can have without a word of it.
SILENT = {
    "runsc-refused-call",
    "runsc-ran-nothing",
    "runsc-killed",
    "runsc-not-executable",
    "not-runsc",
}

# Classes, as the inside of a set (re.ASCII).
CLASSES = {"d": "0-9", "w": "A-Za-z0-9_", "S": "^ \t\n\r\f\v"}

HEAD = """\
/*
 * What runsc, newuidmap and others say, and the causes that it can have; made from the catalogue in
 * src/usernsctl/explain/ by tools/native_texts.py.
 *
 * One text holds all, so that nothing of it is looked at, nor moved, before there is a failure.
 */
#include "explain/texts.h"

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
        found = "^" if self._take("^") else ""
        while not self._take("]"):
            char = self._next()
            if char == "\\":
                char = {"n": "\n", **CLASSES}.get(char := self._next(), char)
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


def words(lists: Iterator[list[str]]) -> Iterator[str]:
    for one in lists:
        for word in one:
            assert word.isascii(), word
            yield f"    {literal(word)} {literal(chr(0))}"
        yield f"    {literal(chr(0))}"


def document() -> str:
    known = texts()
    named = SILENT.union(*(text.causes for text in known))
    assert len(named) < 128, "UN_CANDIDATES_MAX of csrc/explain/known.h"
    told = sorted(cause for cause in named if _core.cause(cause) is None)
    lists = (part for text in known for part in (Pattern(text.pattern).sequences(), [*text.causes]))
    causes = ([cause, get(cause).why, get(cause).remedies["host"]] for cause in told)
    return "\n".join(
        [
            f"{HEAD}const char un_texts[] =",
            f"{chr(10).join(words(lists))};",
            "",
            "const char un_text_causes[] =",
            f"{chr(10).join(words(causes))};",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, document))
