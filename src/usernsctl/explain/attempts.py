"""Causes by what a program attempted and by the error of the attempt, for messages of any program.

The messages in csrc/explain/messages are exact, but no list of messages is complete. A message that
is not listed still names an operation, such as ``clone`` or ``uid_map``, and an error, such as
``Operation not permitted``, in the same line or in neighbouring lines. ``operations.toml`` has the
causes of each such pair.
"""

from __future__ import annotations

import errno
import functools
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from usernsctl._lean import dataclass

# Errors by name: the texts of strerror(3) with glibc and musl, and other words, in lower case, for
# the same error. AUTHENTICATION (of polkit) and SIGSYS are not errno values.
_EXACT = {
    "EPERM": ("operation not permitted",),
    "EACCES": ("permission denied",),
    "ENOSPC": ("no space left on device",),
    "EINVAL": ("invalid argument",),
    "ENOSYS": ("function not implemented",),
    "EUSERS": ("too many users",),
    "EAGAIN": ("resource temporarily unavailable",),
    "ENOMEM": ("cannot allocate memory", "out of memory"),
    "ENOENT": ("no such file or directory", "executable file not found", "command not found"),
    "ENODEV": ("no such device",),
    "ENXIO": ("no such device or address",),
    "EROFS": ("read-only file system",),
    "EBUSY": ("device or resource busy",),
    "EIO": ("input/output error",),
    "EOVERFLOW": ("value too large for defined data type",),
    "AUTHENTICATION": ("interactive authentication required", "authentication is required"),
    "SIGSYS": ("bad system call",),
}
# Words for a failure without an exact error. An error that stands further up counts first.
_VAGUE = {
    "UNSUPPORTED": (
        "not enabled", "n't enabled", "not support", "n't support", "not available", "unsupported",
        "unavailable", "disabled", "require user namespaces",
    ),
    "EPERM": (
        "not permitted", "not allowed", "no permission", "insufficient permission", "disallow",
        "insufficient privilege", "denied", "refused", "forbid", "not have permission",
        "n't have permission",
    ),
    "ENOENT": ("not found", "no entry", "no mapping entry", "no matching", "missing"),
    "STATUS": ("exit status ", "exit code "),
    "FAILED": (
        "fail", "error", "cannot", "can't", "could not", "couldn't", "unable to", "not listed",
    ),
}  # fmt: skip
_NUMBER = re.compile(r"\b(?:errno|os error|error code|error|err|code)\W{1,4}-?(\d{1,3})\b")
# Words of texts about sandboxes.
_SANDBOX = re.compile(
    rb"namespace|userns|sandbox|container|\bjail|rootless|unshare|bwrap|bubblewrap|flatpak|chroot"
    rb"|nspawn|\brunsc?\b|\bcrun\b|podman|buildah|docker|\blxc|singularity|apptainer|enroot|fakeroot",
)
# Lines about other things with clones or namespaces: git, C++, XML, the API of Kubernetes, and
# libseccomp, which names the system calls of its rules.
_OTHER_SUBJECT = re.compile(
    r"\bgit\b|namespace (?:std|\w+::)|xmlns|using namespace|is forbidden: user|kind: namespace"
    r"|namespaces? \"[\w-]+\" (?:is|not|already)|\bkubectl\b|\bhelm\b|filter rule for syscall"
)
# Length of the text that is read before and after an error in the same line.
_AROUND = 512
# Length of all lines with errors that are read. A text with more of them is a log.
_READ_MAX = 1 << 20
_KEPT_MAX = 64
_HEADINGS_MAX = 2
# Maximum length of a line with little more than the error, such as "ptrace: Operation not
# permitted.".
_ERROR_ALONE_MAX = 40


class _Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of operations.toml, whose head describes the fields."""

    name: str
    says: tuple[str, ...]
    causes: dict[str, tuple[str, ...]]
    common: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True):
    operation: tuple[_Operation, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An operation of a program that failed.

    :ivar line: the line with the error.
    :ivar causes: the ids of the possible causes, the likeliest first.
    :ivar common: whether programs without a sandbox print such lines, too.
    """

    line: str
    causes: tuple[str, ...]
    common: bool


def operations() -> tuple[_Operation, ...]:
    """Return the entries of operations.toml, in the order of the file."""
    text = Path(__file__).with_name("operations.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), _File).operation


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], _Operation], ...]:
    flags = re.IGNORECASE | re.ASCII
    return tuple((re.compile("|".join(one.says), flags), one) for one in operations())


class AttemptReader:
    """A reader of the failed attempts in a text that comes in pieces of whole lines."""

    def __init__(self) -> None:
        self._found: dict[Attempt, None] = {}
        self._read = 0
        self._is_about_sandboxes = False

    def add(self, piece: bytes) -> None:
        """Read the next piece of the text."""
        text = piece.lower()
        self._is_about_sandboxes = self._is_about_sandboxes or bool(_SANDBOX.search(text))
        for start, end in _error_lines(text):
            lines = (piece[start:end], _line_before(text, start), _line_after(text, end))
            self._read += sum(map(len, lines))
            if self._read > _READ_MAX or len(self._found) == _KEPT_MAX:
                break
            if found := _attempt([line.decode("utf-8", "replace") for line in lines]):
                self._found[found] = None

    def attempts(self) -> list[Attempt]:
        """Return the failed attempts, in the order of the text."""
        return [one for one in self._found if self._is_about_sandboxes or not one.common]


def _line_before(text: bytes, start: int) -> bytes:
    """Return the end of the line before the one at `start`; skip headings such as "Caused by:"."""
    for _ in range(_HEADINGS_MAX):
        end = max(start - 1, 0)
        start = text.rfind(b"\n", 0, end) + 1
        line = text[max(start, end - _AROUND) : end]
        if line.strip() not in (b"caused by:", b"error:"):
            break
    return line


def _line_after(text: bytes, end: int) -> bytes:
    """Return the beginning of the line after the one that ends at `end`."""
    return text[end + 1 : end + 1 + _AROUND].partition(b"\n")[0]


@functools.cache
def _literals() -> tuple[bytes, ...]:
    """Return the words that a line with an error has at least one of."""
    words = [word for table in (_EXACT, _VAGUE) for texts in table.values() for word in texts]
    names = [name.lower() for name in _EXACT]
    return tuple(word.encode() for word in (*words, *names, "errno"))


def _error_lines(text: bytes) -> Iterator[tuple[int, int]]:
    """Yield the beginning and the end of each line with an error, cut around the error."""
    lines: dict[int, tuple[int, int]] = {}
    for literal in _literals():
        at = text.find(literal)
        while at >= 0 and len(lines) < _READ_MAX // len(literal):
            start = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            lines.setdefault(start, (max(start, at - _AROUND), min(end, at + _AROUND)))
            at = text.find(literal, end)
    yield from sorted(lines.values())


def _attempt(lines: Sequence[str]) -> Attempt | None:
    """Return the failed attempt of a line with an error and its neighbouring lines.

    An operation in the line itself comes first, then one in the line before and after.
    """
    line = lines[0].lower()
    if _OTHER_SUBJECT.search(line):
        return None
    # Only a line of little more than the error can belong to an operation in another line.
    lines = lines if len(line) <= _ERROR_ALONE_MAX else lines[:1]
    # Words of _VAGUE explain only their own line.
    return _first(lines, _exact_errors(line)) or _first(lines[:1], _named(_VAGUE, line))


def _named(words: dict[str, tuple[str, ...]], line: str) -> list[str]:
    return [error for error, texts in words.items() if any(text in line for text in texts)]


def _exact_errors(line: str) -> list[str]:
    numbers = [errno.errorcode.get(int(number), "") for number in _NUMBER.findall(line)]
    names = [name for name in _EXACT if re.search(rf"\b{name.lower()}\b", line)]
    return [*_named(_EXACT, line), *names, *numbers]


def _first(lines: Sequence[str], errors: Sequence[str]) -> Attempt | None:
    """Return the first operation that a line names and that fails with one of the errors."""
    for line in lines if errors else ():
        for pattern, operation in _patterns():
            causes = next((operation.causes[one] for one in errors if one in operation.causes), ())
            if causes and pattern.search(line):
                return Attempt(lines[0], causes, operation.common)
    return None
