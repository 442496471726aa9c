"""What runsc writes about itself, and what of that can be trusted.

Its debug logs hold text of whoever made the bundle, and of the command: names, options, arguments.
So nothing is looked for in them. What tells that runsc failed is written by runsc alone:

- Each of its processes writes an error that it ends of to one file, as JSON (``--log``).
- The last line that ``runsc run`` writes to its own debug log, where it ends in order, is the exit
  status. That is the command's then, whatever it is; or the sandbox's own, if that has crashed.
- Go's report of a crash goes to a file of its own (``--panic-log``).

The debug logs of the other two processes, which a command inside can have grow, are thrown away if
nobody has asked for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from usernsctl._system.paths import open_file
from usernsctl.gvisor.runsc import command as runsc_command

# More than all the messages of a start, and the beginning of the report of a crash.
_READ_MAX = 1 << 18


def read_failure(logs: runsc_command.Logs) -> str | None:
    """Why runsc failed, in its own words, or ``None`` if it says nothing.

    These words may be about what a stranger has written: they are to be shown quoted only.
    """
    from usernsctl.explain.logs import crash_line

    messages = list(_messages(_read(logs.errors)))
    if len(messages) <= 1:
        # The process that was called has seen no more than that the other one was gone.
        crash = crash_line(_read(logs.crash))
        if crash is not None:
            return crash
    return messages[0] if messages else None


def own_failure(fd: int) -> str | None:
    """What a command of runsc has written to an open file (``--log``) of why it failed.

    :returns: ``None`` if it did not fail, and so ended as what it ran.
    """
    content = os.pread(fd, _READ_MAX, 0).decode("utf-8", "replace")
    return next(_messages(content), None)


def quote_runsc(words: str) -> str:
    """What to say of runsc's words: that they are its own."""
    from usernsctl.explain.logs import quoted

    return f"runsc says: {quoted(words)}"


def _messages(text: str) -> Iterator[str]:
    """The messages of JSON objects that follow each other."""
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
    """The beginning of a log, or its end; empty if there is none."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open_file(os.open(path, flags)) as file:
            if at_end:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _READ_MAX))
            return file.read(_READ_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
