"""Search in runsc's debug logs for failures that runsc itself reports only as ``EOF``.

An invocation of runsc has three processes, each with a log: the process that the caller starts, the
gofer, which serves the root filesystem, and the sandbox (``boot``). If the gofer or the sandbox
exits too early, the process that the caller started reports only a closed connection. The log of
the process that exited contains the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from usernsctl._core.messages import MessageSearch
from usernsctl._lean import dataclass
from usernsctl._text import shown

# Maximum number of bytes to read from the end of a log: enough for the reason and the stack traces
# of all threads that may follow it.
_TAIL = 4 << 20

# Matches runsc.log.DATE-TIME.COMMAND.txt. All logs of an invocation have the same date and time.
_NAME = re.compile(r"(?P<call>.*\.\d{8}-\d{6}\.\d+)\.(?P<command>[a-z-]+)\.txt")

# The processes, keyed by the subcommand of runsc in the names of their logs.
_PROCESSES = {"gofer": "gofer", "boot": "sandbox", "panic": "sandbox"}
_ORDER = ("gofer", "sandbox", "runsc")

# Matches a fatal message of runsc. The "]" after the source location distinguishes it from output
# of the sandboxed program.
_FATAL = re.compile(r"\] FATAL ERROR: (?=\S)")
# Matches a crash of a Go program. For some fatal errors, Go's runtime prints the reason in the line
# before "fatal error:".
_CRASH = re.compile(r"^(?:runtime: failed |(?:panic|fatal error|SIG[A-Z]+): )[^\n]*", re.MULTILINE)
_HELPER_SAID = re.compile(r"^(?:newuidmap|newgidmap): [^\n]+", re.MULTILINE)
_HELPER_FAILED = re.compile(r"new[ug]idmap failed")


def only_cause(output: bytes) -> str | None:
    """Return the cause id of the first message in `output` that has only one cause, or None."""
    for _, causes in MessageSearch().add(output):
        if len(causes) == 1:
            return causes[0]
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The reason why one of runsc's processes failed.

    :ivar process: ``"gofer"``, ``"sandbox"``, or ``"runsc"`` for the process that the caller
        starts.
    :ivar filename: the path of the log that contains the reason.
    :ivar message: the reason, in one line.
    """

    process: str
    filename: str
    message: str

    @property
    def is_of_helper(self) -> bool:
        """True if newuidmap or newgidmap failed.

        The result is false for the gofer and the sandbox, which do not execute these programs.
        """
        return self.process == "runsc" and bool(
            _HELPER_SAID.match(self.message) or _HELPER_FAILED.search(self.message)
        )


def root_failure(directory: str | os.PathLike[str]) -> str | None:
    """Return runsc's own message about its newest failed invocation.

    :param directory: the directory of the debug logs, the argument of runsc's ``--debug-log``.
    :returns: the message in one line; ``None`` if no log in the directory contains a failure.
    :raises OSError: the directory, or a log in the directory, can't be read.
    """
    found = failures(directory)
    return found[0].message if found else None


def failures(directory: str | os.PathLike[str]) -> tuple[Failure, ...]:
    """Return all failures in the newest failed invocation of runsc, the root cause first.

    :param directory: the directory of the debug logs, the argument of runsc's ``--debug-log``.
    :raises OSError: the directory, or a log in the directory, can't be read.
    """
    for logs in _calls(directory):
        found = [failure for log in logs if (failure := log.failure()) is not None]
        if found:
            # Sort the failure of newuidmap or newgidmap first, because it is the root cause:
            # without an id map, the gofer may fail, too, before runsc kills it.
            return tuple(sorted(found, key=lambda failure: not failure.is_of_helper))
    return ()


@dataclass(frozen=True, slots=True)
class _Log:
    filename: str
    command: str

    @property
    def process(self) -> str:
        return _PROCESSES.get(self.command, "runsc")

    def failure(self) -> Failure | None:
        text = self._tail()
        message = _fatal(text)
        if message is None:
            return None
        if _HELPER_FAILED.search(message):
            # Prefer the message of newuidmap or newgidmap to runsc's own message, which follows it
            # in the log, because only the helper's message names the reason.
            said = _HELPER_SAID.findall(text)
            message = said[-1] if said else message
        return Failure(process=self.process, filename=self.filename, message=printable(message))

    def _tail(self) -> str:
        with open(self.filename, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return file.read(_TAIL).decode("utf-8", "replace")


def _calls(directory: str | os.PathLike[str]) -> Iterator[list[_Log]]:
    """Yield the logs of each invocation of runsc, the newest invocation first.

    The logs of an invocation are in the order of _ORDER: a process that others need comes first.
    """
    calls: dict[str, list[_Log]] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                continue
            name = _NAME.fullmatch(entry.name)
            # Treat all logs with other names, which come from --debug-log=PATTERN, as the logs of
            # one invocation.
            call, command = (name["call"], name["command"]) if name else ("", _guess(entry.name))
            calls.setdefault(call, []).append(_Log(entry.path, command))
    for call in sorted(calls, reverse=True):
        yield sorted(calls[call], key=lambda log: (_ORDER.index(log.process), log.filename))


def _guess(name: str) -> str:
    return next((command for command in _PROCESSES if command in name), "")


def _fatal(text: str) -> str | None:
    for place in _FATAL.finditer(text):
        start = text.rfind("\n", 0, place.start()) + 1
        end = text.find("\n", place.end())
        line = text[start : end if end >= 0 else len(text)]
        message = message_at(line, place.start() - start)
        return message.partition(place[0])[2].split("\n")[0] or None
    crash = _CRASH.search(text)
    return crash[0] if crash else None


SHOWN_MAX = 300

# Matches a message in the JSON logs of runsc, Docker or containerd. runsc writes several objects in
# one line.
_JSON_MESSAGE = re.compile(r'"(?:msg|log|message)":\s?"((?:[^"\\]|\\.)*)"')


def message_at(line: str, place: int) -> str:
    """Return the JSON message around offset `place` of a line, or the whole line if it has none."""
    for message in _JSON_MESSAGE.finditer(line):
        if message.start() <= place < message.end():
            return _unescape(message[1])
    return line


def printable(text: str) -> str:
    """Return `text` as one line of at most :data:`SHOWN_MAX` characters, escaped for a terminal."""
    return shown(" ".join(text.split())[:SHOWN_MAX])[:SHOWN_MAX]


def quoted(text: str) -> str:
    """Return untrusted text as one line in quotation marks.

    Quotation marks and control characters in the text are escaped. The text is cut after
    :data:`SHOWN_MAX` characters.
    """
    import json

    shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
    escaped = json.dumps(shown, ensure_ascii=False)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in escaped)


def _unescape(text: str) -> str:
    import json

    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
