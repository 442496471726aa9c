"""Readers of the logs of runsc that untrusted text can't forge.

The debug logs quote the bundle and the command (names, options, arguments), so they are not
searched. Only runsc itself writes the signs of its failure:

- Each process of runsc writes its fatal error to one file, as JSON (``--log``).
- ``runsc run``, if it exits normally, writes an exit status as the last line of its own debug log:
  that of the command, or that of the sandbox if the sandbox has crashed.
- Go writes its report of a crash to a separate file (``--panic-log``).

A command inside can make the debug logs of the other two processes grow, so these are discarded
unless the caller wants them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from usernsctl._system.paths import open_file
from usernsctl.gvisor.runsc import command as runsc_command

# Enough for all messages of a start, and for the beginning of a crash report.
_READ_MAX = 1 << 18


def read_failure(logs: runsc_command.Logs) -> str | None:
    """Return the message with which runsc failed, or None if there is no message.

    The message may quote untrusted text: escape it before printing.
    """
    from usernsctl.explain.logs import crash_line

    messages = list(_messages(_read(logs.errors)))
    if len(messages) <= 1:
        # If the sandbox process crashes, `runsc run` logs only that the sandbox is gone.
        crash = crash_line(_read(logs.crash))
        if crash is not None:
            return crash
    return messages[0] if messages else None


def own_failure(fd: int) -> str | None:
    """Return the error that a runsc command has written to an open file (``--log``).

    :returns: the message, or None if runsc did not fail; its exit status is the command's then.
    """
    content = os.pread(fd, _READ_MAX, 0).decode("utf-8", "replace")
    return next(_messages(content), None)


def quote_runsc(message: str) -> str:
    """Return a message of runsc, escaped and marked as runsc's."""
    from usernsctl.explain.logs import quoted

    return f"runsc says: {quoted(message)}"


def _messages(text: str) -> Iterator[str]:
    """Yield the ``msg`` members of concatenated JSON objects."""
    import json

    decoder = json.JSONDecoder()
    place = 0
    while True:
        start = text.find("{", place)
        if start < 0:
            return
        try:
            found, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        message = found.get("msg")
        if isinstance(message, str) and message.strip():
            yield message.strip()


def _read(path: str, *, at_end: bool = False) -> str:
    """Return the beginning of a log, or its end; an empty string if it can't be read."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open_file(os.open(path, flags)) as file:
            if at_end:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _READ_MAX))
            return file.read(_READ_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
