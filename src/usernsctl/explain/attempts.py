"""Search for the causes of error messages that the catalogue of messages does not contain.

The catalogue (csrc/explain/messages) contains patterns of whole messages, but can't contain all
messages. Other messages still name an operation, such as ``clone`` or ``uid_map``, and an error,
such as ``Operation not permitted``, in the same line or in neighbouring lines. ``operations.toml``
contains the causes of each pair of operation and error, ``errors.toml`` the texts of the errors.
"""

from __future__ import annotations

import errno
import functools
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from usernsctl._lean import dataclass

# Matches an errno in digits, but not an exit status.
_NUMBER = re.compile(
    r"(?<!exit )(?<!exited with )(?<!exited with return )(?<!exited with error )(?<!exiting with )"
    r"\b(?:errno|os error|error code|error|err|code|ret|rc|returned|result)\b\W{1,4}-?(\d{1,3})\b"
)
# Words that occur in texts about sandboxes. Searching for one word after the other is faster than
# searching for a regular expression that matches all words.
_SANDBOX = (
    b"namespace userns sandbox container jail rootless unshare bwrap bubblewrap flatpak chroot"
    b" nspawn runsc /runc runc: crun: /crun podman buildah docker lxc lxd singularity apptainer"
    b" enroot fakeroot buildkit kubelet gvisor incus proot debootstrap appimage ch-run"
    b" charliecloud snap-confine landlock toolbox distrobox kubernetes bazel guix /nix nix- nix:"
    b" pressure-vessel clone_new rootfs /snap. /snap/ overlay2 graphdriver"
).split()
# Maximum number of bytes to search before and after an error in its line, so that a very long line
# takes little time.
_AROUND = 512
# Maximum number of bytes to search in lines with errors and in their neighbouring lines. The rest
# of a longer text, which is probably a log, is not searched.
_READ_MAX = 1 << 20
# Maximum number of different failed operations to collect.
_KEPT_MAX = 64
# If a line contains only an error: maximum number of preceding lines in which to search for the
# failed operation. Headings and the position markers in Python's tracebacks are not counted.
_BEFORE_MAX = 3
# If more headings and empty lines than this precede the line with the error, the search ends.
_SKIPPED_MAX = 3
# Matches a heading such as "Caused by:", and a line of position markers.
_SKIPPED = re.compile(rb"(?:caused by|error|reason)s?:?|[\s^~]+")
# Matches the beginning of log lines that report no failure.
_HARMLESS = re.compile(r"\W{0,2}(?:warn|info|debu|notice|trace)")
# Matches messages of programs that continue without the failed operation.
_GOES_ON = re.compile(r"\b(?:trying|falling back|going forward|ignoring|ignored|continuing)\b")
# Matches text that says nothing about the operation: dates, log levels, exception names and
# numbers. If the line of an error contains only such text and one other word ("ptrace: Operation
# not permitted."), the error may belong to an operation in another line. A line such as "setfacl:
# FILE: Operation not permitted" names an operation of its own.
_NOISE = re.compile(
    r"\[[^\]]*\]|\((?:os error )?-?\w{1,7}\)"
    r"|called `result::unwrap\(\)` on an `err` value|panicked at|\S+\.rs:\d+:\d+"
    r"|\b\w*(?:error|errno|exception|failure|warning|fatal|caused by|info)\b|[\d\W_]+"
)
# Maximum length, in characters, of the one other word in a line that contains an error and _NOISE.
_REST_MAX = 16
# Matches the date that Go's package log prints at the beginning of a line.
_DATE = re.compile(r"\d{4}/\d\d/\d\d ")


class _Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of operations.toml; the comment at the top of that file describes the fields."""

    name: str
    says: tuple[str, ...]
    causes: dict[str, tuple[str, ...]]
    common: bool = False


class _Errors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts of errors.toml, keyed by the symbolic name of the error."""

    exact: dict[str, tuple[str, ...]]
    vague: dict[str, tuple[str, ...]]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    operation: tuple[_Operation, ...]
    other_subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An operation that a program attempted, and that failed.

    :ivar line: the line with the error.
    :ivar causes: the ids of the possible causes, the likeliest first.
    :ivar common: whether programs that have nothing to do with sandboxes print such lines, too.
    :ivar strength: how certain it is that the sandbox failed because of this operation: 2 if the
        line contains the name, number or text of an errno; 1 if this errno is ENOENT, whose cause
        is often not the sandbox, or if the line contains only a word such as "failed"; 0 if the
        line contains only advice, or says that the program continues.
    """

    line: str
    causes: tuple[str, ...]
    common: bool
    strength: int


def operations() -> tuple[_Operation, ...]:
    """Return the entries of operations.toml, in the order of the file."""
    return _file().operation


@functools.cache
def _file() -> _File:
    return msgspec.convert(_read_table("operations.toml"), _File)


@functools.cache
def _other_subjects() -> re.Pattern[str]:
    return re.compile("|".join(_file().other_subjects))


@functools.cache
def errors() -> _Errors:
    """Return the texts of errors.toml, keyed by the symbolic name of the error."""
    return msgspec.convert(_read_table("errors.toml"), _Errors)


def _read_table(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], _Operation], ...]:
    flags = re.IGNORECASE | re.ASCII
    return tuple((re.compile("|".join(one.says), flags), one) for one in operations())


class AttemptReader:
    """Reader that collects failed attempts from the lines that are passed to :meth:`add`."""

    def __init__(self) -> None:
        self._found: dict[Attempt, None] = {}
        self._read = 0
        self._is_about_sandboxes = False

    def add(self, piece: bytes) -> None:
        """Search `piece`, the next lines of the input, unless a limit has ended the search."""
        if self._is_full():
            return
        text = piece.lower()
        if not self._is_about_sandboxes:
            self._is_about_sandboxes = any(word in text for word in _SANDBOX)
        for start, end in _error_lines(text):
            near = (*_lines_before(text, start), _line_after(text, end))
            self._read += sum(map(len, near), end - start)
            if self._is_full():
                break
            line = piece[start:end].decode("utf-8", "replace")
            if found := _attempt(line, [one.decode("utf-8", "replace") for one in near]):
                self._found[found] = None

    def _is_full(self) -> bool:
        return self._read > _READ_MAX or len(self._found) == _KEPT_MAX

    def attempts(self) -> list[Attempt]:
        """Return the failed attempts with the greatest `strength`, in the order of their lines."""
        found = [one for one in self._found if self._is_about_sandboxes or not one.common]
        strength = max((one.strength for one in found), default=0)
        return [one for one in found if one.strength == strength]


def _lines_before(text: bytes, start: int) -> Iterator[bytes]:
    """Yield the lines before the line at `start`, nearest first, up to an empty line.

    Of a long line, only the last bytes are yielded. An empty line before a heading such as "Caused
    by:" does not end the search.
    """
    left, skipped = _BEFORE_MAX, 0
    after_heading = False
    while start and left and skipped <= _SKIPPED_MAX:
        end = start - 1
        start = text.rfind(b"\n", 0, end) + 1
        line = text[max(start, end - _AROUND) : end].strip()
        if not line and not after_heading:
            break
        if not line or _SKIPPED.fullmatch(line):
            after_heading = bool(line)
            skipped += 1
            continue
        after_heading = False
        left -= 1
        yield line


def _line_after(text: bytes, end: int) -> bytes:
    """Return the first _AROUND bytes of the line after the line that ends at the offset `end`."""
    return text[end + 1 : end + 1 + _AROUND].partition(b"\n")[0]


@functools.cache
def _literals() -> tuple[bytes, ...]:
    """Return byte strings to search for; each line with an error contains at least one of them.

    The strings of the table ``exact`` in errors.toml come before those of the table ``vague``.
    """
    known = errors()
    exact, vague = ([*itertools.chain(*table.values())] for table in (known.exact, known.vague))
    names = [name.lower() for name in known.exact]
    words = (*exact, *names, "errno", *vague)
    # Search for both cases of non-ASCII letters, because bytes.lower() does not change them.
    forms = (form for word in words for form in (word, word.capitalize()))
    found = dict.fromkeys(form.encode().lower() for form in forms)
    # Drop a word that contains another word, because each line with the longer word also contains
    # the shorter one.
    return tuple(one for one in found if not any(other in one for other in found if other != one))


def _error_lines(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each line with an error.

    Of a long line, at most _AROUND bytes before and after the error are included.
    """
    lines: dict[int, tuple[int, int]] = {}
    is_ascii = text.isascii()
    for literal in _literals():
        at = -1 if is_ascii and not literal.isascii() else text.find(literal)
        while at >= 0 and len(lines) < _READ_MAX // len(literal):
            start = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            lines.setdefault(start, (max(start, at - _AROUND), min(end, at + _AROUND)))
            at = text.find(literal, end)
    yield from sorted(lines.values())


def _attempt(text: str, near: Sequence[str]) -> Attempt | None:
    """Return the failed attempt that a line with an error and its neighbours report, or None.

    An operation in the line itself takes precedence over an operation in a neighbouring line. Vague
    words for a failure, such as "failed", count only for an operation in the same line.
    """
    line = text.lower()
    near = [one for one in near if not _HARMLESS.match(one.lower())]
    found = _exact_errors(line)
    if found:
        strength = 1 if found == ["ENOENT"] else 2
        return _first(text, [line], found, strength) or (
            _first(text, near, found, strength, common=False) if _is_error_alone(line) else None
        )
    found = _named(errors().vague, line)
    advice = "ADVICE" in found
    strength = 0 if _GOES_ON.search(line) else 1
    return _first(text, [line], [one for one in found if one != "ADVICE"], strength) or (
        _first(text, [line], ["ADVICE"], 0) if advice else None
    )


def _is_error_alone(line: str) -> bool:
    """Return whether a line contains an error, hardly any other text, and no path."""
    line = _DATE.sub("", line)
    for texts in errors().exact.values():
        for text in texts:
            line = line.replace(text, "")
    rest = _NOISE.sub(" ", line).split()
    return len(rest) <= 1 and len("".join(rest)) <= _REST_MAX and "/" not in line


def _named(words: dict[str, tuple[str, ...]], line: str) -> list[str]:
    return [error for error, texts in words.items() if any(text in line for text in texts)]


def _exact_errors(line: str) -> list[str]:
    numbers = [errno.errorcode.get(int(number), "") for number in _NUMBER.findall(line)]
    exact = errors().exact
    names = [name for name in exact if re.search(rf"\b{name.lower()}\b", line)]
    return [*_named(exact, line), *names, *numbers]


def _first(
    text: str, lines: Sequence[str], found: Sequence[str], strength: int, *, common: bool = True
) -> Attempt | None:
    """Return the first operation in `lines` that can cause an error in `found`, as an attempt.

    :param found: the symbolic names of the errors.
    :param common: whether to accept operations whose field `common` is true.
    :returns: the attempt, or ``None`` if there is no such operation.
    """
    for line in lines if found else ():
        if _other_subjects().search(line.lower()):
            continue
        for pattern, operation in _patterns():
            causes = next((operation.causes[one] for one in found if one in operation.causes), ())
            if causes and (common or not operation.common) and pattern.search(line):
                return Attempt(text, causes, operation.common, strength)
    return None
