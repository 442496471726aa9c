"""Functions that read failures from runsc's logs, from those parts that untrusted text can't forge.

The debug logs quote the bundle and the command (names, options, arguments), so they are not
searched for messages. Only runsc itself writes the following signs of a failure:

- Each process of runsc writes its fatal error to one file, as JSON (``--log``).
- When ``runsc run`` exits normally, the last line of its own debug log is the exit status of the
  command, or of the sandbox if the sandbox has crashed.
- The Go runtime writes its report of a crash to a separate file (``--panic-log``).

A command in the sandbox can make the debug logs of the processes "boot" and "gofer" grow, so these
logs are discarded unless the caller has requested debug logs.
"""

from __future__ import annotations

import os

from usernsctl._core import messages
from usernsctl.gvisor.runsc import command as runsc_command

# The maximum number of bytes to read from a log: enough for all messages of runsc about a start.
_READ_MAX = 1 << 18


def read_failure(logs: runsc_command.Logs) -> str | None:
    """Return the message with which runsc failed, or None if the logs contain none.

    The message may quote untrusted text: escape it before printing.
    """
    return messages.read_runsc_failure(logs.errors, logs.crash, logs.debug)


def own_failure(fd: int) -> str | None:
    """Return the error message that a runsc command has written to its log `fd` (``--log``).

    :returns: the message, or ``None`` if runsc did not fail; runsc's exit status is then that of
        the command.
    """
    return messages.first_message(os.pread(fd, _READ_MAX, 0))


def quote_runsc(message: str) -> str:
    """Return a message from runsc, escaped and preceded by "runsc says:"."""
    from usernsctl.explain.logs import quoted

    return f"runsc says: {quoted(message)}"
