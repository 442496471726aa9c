"""The command line: ``usernsctl VERB ...``."""

from __future__ import annotations

import gc
import os
import signal
import sys

from usernsctl import _interrupts
from usernsctl._system.handover import default_sigchld

# To type checkers this is true; the module that has it is not needed otherwise.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# What a shell asks for the names of a kind by, in the midst of a line.
_NAMES = ["completion", "--names"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, 125 where the failure is ours.

    :param argv: its words without the program's name; ``None`` takes those of this process.
    """
    default_sigchld()
    try:
        return _answer(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        return _interrupts.STATUS
    except BrokenPipeError:
        _forget(1)
        _forget(2)
        return 128 + signal.SIGPIPE
    except OSError as error:
        _forget(1)
        where = error.filename
        from usernsctl._text import say

        try:
            say(f"usernsctl: {where}: {error.strerror}" if where else f"usernsctl: {error}")
        except OSError:
            _forget(2)
        return 125


def _answer(argv: list[str]) -> int:
    try:
        status = _call(argv)
        # Standard output may be closed, which print() bears.
        print(end="", flush=True)
        return status
    except OSError as error:
        from usernsctl.errors import UsernsError
        from usernsctl.explain.printing import print_error

        if not isinstance(error, UsernsError):
            raise
        print_error(error)
        return error.exit_status


def _call(argv: list[str]) -> int:
    if argv[:-1] == _NAMES:
        from usernsctl.cli.completion import names

        if argv[-1] in names.KINDS:
            names.tell(argv[-1])
            return 0
    if argv in (["--version"], ["-V"]):
        print(version(), end="")
        return 0
    # argparse is most of what is imported now: --version and completion do without.
    from usernsctl.cli.parser import Answer, usernsctl

    try:
        parser = usernsctl()
        given = parser.read(argv)
        environ = given["environ"]
        while parser.verbs:
            name, *argv = given["words"]
            parser = parser.find(name)
            given = parser.read(argv)
        if parser.prog != "usernsctl run":
            gc.enable()
        _interrupts.raise_again()
        return parser.perform(given, environ, argv)
    except Answer as answer:
        print(answer.text, end="", file=sys.stderr if answer.status else sys.stdout)
        return answer.status


def version() -> str:
    """Return what ``--version`` prints."""
    from usernsctl import _core

    return f"usernsctl, version {_core.version()}\n"


def _forget(fd: int) -> None:
    """What nobody can take any more would be flushed once more, and fail once more, at exit."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), fd)
