"""Search a text for error messages, and explain them by their possible causes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from usernsctl._core.messages import MessageSearch
from usernsctl._lean import dataclass
from usernsctl.explain.attempts import AttemptReader
from usernsctl.explain.catalogue import catalogue
from usernsctl.explain.logs import SHOWN_MAX, Failure, message_at, printable
from usernsctl.explain.model import Cause, Finding, Report

_BLOCK = 1 << 20
# Maximum number of bytes at the end of a block of the input that are searched again together with
# the next block, because a message may extend into the next block.
_LINE_MAX = 4096
#: Maximum number of bytes to search in a text; the rest is ignored.
INPUT_MAX = 16 << 20
# Minimum size, in bytes, of a block that is checked for binary data. Smaller blocks are cheap to
# search.
_BINARY_MIN = 1 << 16
# Matches a line end, and the indentation after it, that a terminal or a mail program may have
# inserted into a long line.
_WRAPPED = re.compile(rb"(?<=[^\n]{50})\n[ \t]*(?=[a-z])")
# Control characters that do not occur in text. Terminals use backspace, tab, line ends and escape.
_CONTROLS = bytes(code for code in range(32) if code not in b"\b\t\n\f\r\x1b")
# A block counts as binary if more than 1/_CONTROLS_RARE of its bytes are _CONTROLS.
_CONTROLS_RARE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A possible cause of an error message in the input.

    :ivar seen: the lines with messages of this cause, each cut to a few hundred characters.
    :ivar finding: the finding of doctor for this cause on this host, or ``None``.
    """

    cause: Cause
    seen: tuple[str, ...]
    finding: Finding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The possible causes of the error messages in an input.

    :ivar candidates: the possible causes: first the causes that the probes confirm, then the other
        causes, the likeliest first.
    :ivar others: findings on this host whose causes match no message in the input.
    :ivar probed: whether this host was probed.
    :ivar empty: whether the input was empty.
    :ivar truncated: whether the input was longer than :data:`INPUT_MAX`.
    """

    candidates: tuple[Candidate, ...]
    others: tuple[Finding, ...] = ()
    probed: bool = False
    empty: bool = False
    truncated: bool = False

    @property
    def recognised(self) -> bool:
        """True if the input contains a message whose possible causes are known."""
        return bool(self.candidates)


def explain(stream: BinaryIO) -> Explanation:
    """Return the possible causes of the error messages in a stream; do not probe this host.

    The stream may contain any bytes; memory use does not grow with its length. If the stream
    contains no message of the catalogue, the operations and errors in its lines determine the
    causes (:mod:`usernsctl.explain.attempts`).

    :raises OSError: the stream can't be read.
    """
    search, reader, text = MessageSearch(), AttemptReader(), _Limited(stream)
    seen: dict[str, dict[str, None]] = {}
    piece = b""
    for piece in _pieces(text):
        _add_messages(seen, search, piece)
        if not seen:
            reader.add(piece)
    if not seen:
        for attempt in reader.attempts():
            search.add_causes(attempt.causes)
            for cause_id in attempt.causes:
                seen.setdefault(cause_id, {})[printable(attempt.line)] = None
    if not seen and text.size <= _BLOCK:
        _add_messages(seen, search, _WRAPPED.sub(b" ", piece))
    known = catalogue()
    candidates = tuple(
        Candidate(cause=known[cause_id], seen=tuple(seen[cause_id])) for cause_id in search.causes()
    )
    return Explanation(candidates=candidates, empty=not text.size, truncated=text.is_truncated)


def _add_messages(seen: dict[str, dict[str, None]], search: MessageSearch, piece: bytes) -> None:
    """Find the lines with known messages; add each line to `seen`, by the ids of its causes."""
    for at, causes in search.add(piece):
        line = _line_at(piece, at)
        for cause_id in causes:
            seen.setdefault(cause_id, {})[line] = None


def explain_failures(failures: Sequence[Failure]) -> Explanation:
    """Return the possible causes of the first failure with a known cause in runsc's debug logs.

    Failures of unknown cause are skipped, because a process often reports only that another process
    has exited.
    """
    explanation = Explanation(candidates=(), empty=not failures)
    for failure in failures:
        explanation = explain(io.BytesIO(failure.message.encode()))
        if explanation.recognised:
            break
    return explanation


def confirm(explanation: Explanation, report: Report) -> Explanation:
    """Return the explanation with doctor's findings; causes that apply to this host come first.

    The causes that apply are sorted in the order in which they prevent a sandbox from starting.
    They are followed by causes that a setting of this host suggests, and then by all other causes.
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
        truncated=explanation.truncated,
    )


# Causes that the value of a sysctl suggests even if the probes succeed: usernsctl's probes may have
# an AppArmor profile that the failed program lacks.
_BY_SYSCTL = {"apparmor-restricts-userns": ("kernel/apparmor_restrict_unprivileged_userns", 1)}


def _spoken_for(report: Report) -> Iterator[str]:
    sysctls = report.facts.get("sysctls")
    for cause, (name, value) in _BY_SYSCTL.items():
        if isinstance(sysctls, Mapping) and sysctls.get(name) == value:
            yield cause


class _Limited:
    """A reader of the first :data:`INPUT_MAX` bytes of a possibly endless stream.

    :ivar size: the number of bytes that were read so far.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = 0
        self.is_truncated = False

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; no bytes at the end of the stream or at the limit."""
        if self.size == INPUT_MAX:
            return b""
        block = self._stream.read(min(size, INPUT_MAX - self.size))
        self.size += len(block)
        self.is_truncated = self.size == INPUT_MAX and bool(self._stream.read(1))
        return block


def _pieces(stream: _Limited) -> Iterator[bytes]:
    """Yield the text of a stream in pieces that begin with the previous piece's unfinished line.

    Of a long unfinished line, only the last :data:`_LINE_MAX` bytes are repeated. Binary blocks are
    omitted, so that searching an endless stream such as /dev/zero takes little time.
    """
    rest = b""
    while block := stream.read(_BLOCK):
        block = block.replace(b"\0", b"")
        if _is_binary(block):
            continue
        # Convert the line ends CR and CR LF of other systems.
        piece = rest + block.replace(b"\r", b"\n")
        yield piece
        rest = piece[max(piece.rfind(b"\n") + 1, len(piece) - _LINE_MAX) :]


def _is_binary(block: bytes) -> bool:
    """Return whether a block is empty or binary. The caller must have removed the block's NULs.

    A block is binary if it is large, and consists of one repeated byte or has many control
    characters.
    """
    if len(block) < _BINARY_MIN:
        return not block
    controls = len(block) - len(block.translate(None, _CONTROLS))
    return controls * _CONTROLS_RARE > len(block) or block.count(block[:1]) == len(block)


def _line_at(piece: bytes, at: int) -> str:
    """Return the line or the JSON message at the offset `at`, escaped for a terminal."""
    start = max(piece.rfind(b"\n", 0, at) + 1, at - _LINE_MAX)
    end = piece.find(b"\n", at, at + 2 * _LINE_MAX)
    before = piece[start:at].decode("utf-8", "replace")
    rest = piece[at : end if end >= 0 else at + 2 * _LINE_MAX].decode("utf-8", "replace")
    line = before + rest
    message = message_at(line, len(before))
    if message is line:
        message = line[max(0, min(len(before), len(line) - SHOWN_MAX)) :]
    return printable(message)
