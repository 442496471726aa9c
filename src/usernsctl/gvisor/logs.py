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
import time
from collections.abc import Iterator

from usernsctl._system.opened import open_file
from usernsctl.gvisor import runsc

# More than all the messages of a start, and the beginning of the report of a crash.
_READ_MAX = 1 << 18

#: So large may the reports of crashes become: with the stacks of all threads, megabytes.
CRASH_BYTES = 1 << 20

_COMMANDS = ("run", "boot", "gofer")

#: In the directory of a run's own logs: what is thrown away.
UNWANTED = tuple(f"{command}.txt" for command in _COMMANDS[1:])


def quiet(directory: str, crash: str) -> runsc.Logs:
    """Where runsc is to write; :func:`prepare` makes ready.

    :param directory: one of the run's own.
    :param crash: the file for the report of a crash.
    """
    return runsc.Logs(errors=f"{directory}/errors", debug=f"{directory}/%COMMAND%.txt", crash=crash)


def prepare(directory: str, dir_fd: int | None = None) -> None:
    """Have the logs that are not wanted thrown away: see :func:`quiet`."""
    for name in UNWANTED:
        os.symlink(os.devnull, f"{directory}/{name}", dir_fd=dir_fd)


def seen_from(logs: runsc.Logs, here: str, there: str) -> runsc.Logs:
    """The same files for whoever knows the directory `here` as `there`."""
    return runsc.Logs(
        errors=there + logs.errors.removeprefix(here),
        crash=there + logs.crash.removeprefix(here),
        debug=there + logs.debug.removeprefix(here),
    )


def kept_files(stamp: str) -> list[str]:
    """The names of the files that are to be made for :func:`kept_at`; the last is for crashes."""
    return [f"runsc.log.{stamp}.{name}.txt" for name in (*_COMMANDS, "panic")]


def kept_at(directory: str, own: str, stamp: str) -> runsc.Logs:
    """Where runsc is to write if somebody wants to read it all, and the files are there.

    :param directory: where the debug logs go, under the names that runsc gives them.
    :param own: a directory of the run's own.
    :param stamp: the time of the start, as runsc would write it.
    """
    files = kept_files(stamp)
    return runsc.Logs(
        errors=f"{own}/errors",
        debug=f"{directory}/runsc.log.{stamp}.%COMMAND%.txt",
        crash=f"{directory}/{files[-1]}",
    )


def kept(directory: str, own: str) -> runsc.Logs:
    """Where runsc is to write if somebody wants to read it all: new files, closed to others.

    :param directory: where the debug logs go, under the names that runsc gives them.
    :param own: a directory of the run's own.
    :raises OSError: they can't be made.
    """
    while True:
        now = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06}"
        try:
            for name in kept_files(stamp):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(f"{directory}/{name}", flags, 0o600))
        except FileExistsError:
            continue  # another run has begun in the same microsecond
        return kept_at(directory.rstrip("/"), own, stamp)


def reason(logs: runsc.Logs) -> str | None:
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


def said(words: str) -> str:
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
