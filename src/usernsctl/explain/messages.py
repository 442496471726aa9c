"""The messages that are recognised, read from the files in ``texts/``."""

from __future__ import annotations

import codecs
import functools
import io
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from usernsctl._lean import dataclass
from usernsctl.explain.catalogue import catalogue
from usernsctl.explain.logs import SHOWN_MAX, Failure, message_at, printable
from usernsctl.explain.model import Cause, Finding, Report

#: The files, by what says the messages in them.
SPEAKERS = ("runsc", "helpers", "namespaces", "containers")

_NOT_LITERAL = re.compile(r"\\.|\[[^\]]*\]|\.")
_GROUP = re.compile(r"\([^()]*\)")
_REPEATED = re.compile(r".(?:[?*+]|\{[^}]*\})")
_GAP = "\0"


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


@functools.cache
def _files() -> tuple[_File, ...]:
    directory = Path(__file__).with_name("texts")
    tables = (
        tomllib.loads((directory / f"{speaker}.toml").read_text(encoding="utf-8"))
        for speaker in SPEAKERS
    )
    return tuple(msgspec.convert(table, _File) for table in tables)


def texts() -> tuple[Text, ...]:
    """All messages, in the order of the files."""
    return tuple(text for file in _files() for text in file.text)


def hints() -> tuple[Text, ...]:
    """What is no failure, but says of which system a text is.

    A hint names no cause by itself. Of the causes that messages beside it can have, its own comes
    first.
    """
    return tuple(hint for file in _files() for hint in file.hint)


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


_BLOCK = 1 << 20
# A line that is longer is cut, but at places that overlap by as much: no message is lost.
_LINE_MAX = 4096

# Our own errors end with [id]; JSON of ours has "cause": "id".
_OWN_ID = re.compile(r'(?:\[|\bcause"?: "?)([a-z]{1,30}(?:-[a-z]{1,30}){0,6})\b')


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A cause that the input can have.

    :ivar seen: the lines that speak for it, each cut to a few hundred characters.
    :ivar finding: what the probes found of it on this machine, or ``None``.
    """

    cause: Cause
    seen: tuple[str, ...]
    finding: Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is known of an input.

    :ivar candidates: those that the probes confirm first, then the likeliest first.
    :ivar others: what the probes found that the input does not speak of.
    :ivar probed: whether there were probes.
    :ivar empty: whether there was no input at all.
    """

    candidates: tuple[Candidate, ...]
    others: tuple[Finding, ...] = ()
    probed: bool = False
    empty: bool = False

    @property
    def recognised(self) -> bool:
        """Whether a cause is known that it may have."""
        return bool(self.candidates)


@dataclass(frozen=True, slots=True)
class _Match:
    causes: Sequence[str]
    line: str


def explain(stream: BinaryIO) -> Explanation:
    """Name the causes that the text of a stream can have, without a look at this machine.

    Any bytes will do; memory use does not grow with their number.

    :raises OSError: the stream can't be read.
    """
    search, empty = _Search(), True
    for piece in _pieces(stream):
        empty = False
        search.look_at(piece)
    return Explanation(candidates=_rank(search.found, search.hinted), empty=empty)


def explain_failures(failures: Sequence[Failure]) -> Explanation:
    """Name the causes of a call of runsc by its debug logs: of the first failure that is known.

    What one process says last is often only that another one is gone.
    """
    explanation = Explanation(candidates=(), empty=not failures)
    for failure in failures:
        explanation = explain(io.BytesIO(failure.message.encode()))
        if explanation.recognised:
            break
    return explanation


def confirm(explanation: Explanation, report: Report) -> Explanation:
    """Put the causes first that hold on this machine, in the order in which they block.

    Of the others, that comes first which a setting of this machine speaks for.
    """
    order = {finding.id: place for place, finding in enumerate(report.findings)}
    order |= {cause: len(order) for cause in _spoken_for(report) if cause not in order}
    candidates = [
        Candidate(
            cause=candidate.cause,
            seen=candidate.seen,
            finding=next((f for f in report.findings if f.id == candidate.cause.id), None),
        )
        for candidate in explanation.candidates
    ]
    candidates.sort(key=lambda candidate: order.get(candidate.cause.id, len(order)))
    named = {candidate.cause.id for candidate in candidates}
    return Explanation(
        candidates=tuple(candidates),
        others=tuple(finding for finding in report.findings if finding.id not in named),
        probed=True,
        empty=explanation.empty,
    )


# Other programs can meet these where usernsctl does not: it may have a profile, and they none.
_BY_SYSCTL = {"apparmor-restricts-userns": ("kernel/apparmor_restrict_unprivileged_userns", 1)}


def _spoken_for(report: Report) -> Iterator[str]:
    sysctls = report.facts.get("sysctls")
    for cause, (name, value) in _BY_SYSCTL.items():
        if isinstance(sysctls, Mapping) and sysctls.get(name) == value:
            yield cause


def _pieces(stream: BinaryIO) -> Iterator[str]:
    """The text of a stream, in pieces that end where a line does, or overlap."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while block := stream.read(_BLOCK):
        # A copy of what other systems wrote may have their line ends.
        text = rest + decoder.decode(block).replace("\r", "\n")
        yield text
        rest = text[max(text.rfind("\n") + 1, len(text) - _LINE_MAX) :]
    if last := decoder.decode(b"", final=True):
        yield rest + last


class _Search:
    """Looks for every message until it is found."""

    def __init__(self) -> None:
        self.found: list[_Match] = []
        self.hinted: set[str] = set()
        self._own: set[str] = set()
        self._left: list[tuple[str, re.Pattern[str], Text]] = [_prepared(text) for text in texts()]
        self._hints = [_prepared(hint) for hint in hints()]

    def look_at(self, piece: str) -> None:
        for own in _OWN_ID.finditer(piece):
            if own[1] in catalogue() and own[1] not in self._own:
                self._own.add(own[1])
                self.found.append(_Match((own[1],), _line_at(piece, own)))
        left = []
        for plain, pattern, text in self._left:
            match = pattern.search(piece) if plain in piece else None
            if match is None:
                left.append((plain, pattern, text))
            else:
                self.found.append(_Match(text.causes, _line_at(piece, match)))
        self._left = left
        for plain, pattern, hint in self._hints:
            if plain in piece and pattern.search(piece):
                self.hinted.update(hint.causes)


def _prepared(text: Text) -> tuple[str, re.Pattern[str], Text]:
    return needle(text.pattern), re.compile(text.pattern, re.ASCII), text


def _rank(matches: Sequence[_Match], hinted: Collection[str]) -> tuple[Candidate, ...]:
    """The causes of all messages: those of a message that has few before those of one with many.

    Those that were hinted at come first, if a message has them.
    """
    rank: dict[str, tuple[int, int]] = {}
    seen: dict[str, dict[str, None]] = {}
    for match in matches:
        for place, cause_id in enumerate(match.causes):
            rank[cause_id] = min(rank.get(cause_id, (99, 99)), (len(match.causes), place))
            seen.setdefault(cause_id, {})[match.line] = None
    rank |= {cause_id: (0, 0) for cause_id in hinted if cause_id in rank}
    known = catalogue()
    return tuple(
        Candidate(cause=known[cause_id], seen=tuple(seen[cause_id]))
        for cause_id in sorted(rank, key=lambda cause_id: rank[cause_id])
    )


def _line_at(piece: str, match: re.Match[str]) -> str:
    """The line or the message that a match is in, fit for a terminal."""
    start = max(piece.rfind("\n", 0, match.start()) + 1, match.start() - _LINE_MAX)
    end = piece.find("\n", match.end(), match.end() + _LINE_MAX)
    line = piece[start : end if end >= 0 else match.end() + _LINE_MAX]
    place = match.start() - start
    message = message_at(line, place)
    if message is line:
        message = line[max(0, min(place, len(line) - SHOWN_MAX)) :]
    return printable(message)
