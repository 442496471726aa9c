"""Command line interface: ``usernsctl SUBCOMMAND ...``."""

from __future__ import annotations

import gc
import os
import signal
import sys
from itertools import pairwise

from usernsctl._system.handover import INTERRUPTED, default_sigchld, raise_on_interrupt

# Define TYPE_CHECKING here, because importing typing would delay the start. Type checkers treat
# this name as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usernsctl.errors import UsernsError

# The first arguments of usernsctl when shell completion calls it. The kind of names follows.
_COMPLETION_CALL = ["completion", "--names"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status, which is 125 for errors of usernsctl itself.

    :param argv: the arguments without the program's name, or ``None`` for the arguments of this
        process.
    """
    try:
        return _call_and_flush(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _redirect_to_null(1)
        _redirect_to_null(2)
        return 128 + signal.SIGPIPE
    except OSError as error:
        _redirect_to_null(1)
        where = error.filename
        from usernsctl._text import say

        try:
            say(f"usernsctl: {where}: {error.strerror}" if where else f"usernsctl: {error}")
        except OSError:
            _redirect_to_null(2)
        return 125


def _call_and_flush(argv: list[str]) -> int:
    try:
        default_sigchld()
        status = _call(argv)
        # Flush with print(), which also accepts a closed standard output (sys.stdout is None).
        print(end="", flush=True)
        return status
    except OSError as error:
        known = _named(error)
        if known is None:
            raise
        print_or_drop(print_error, known)
        return known.exit_status


def print_or_drop(write: Callable[..., None], *arguments: object, **options: object) -> None:
    """Call `write`, which prints an error; drop the output if it can't be written.

    The exit status still tells the caller what failed.

    :raises BrokenPipeError: standard error is a pipe that nobody reads.
    """
    try:
        write(*arguments, **options)
    except BrokenPipeError:
        raise
    except OSError:
        _redirect_to_null(2)


def print_error(error: UsernsError) -> None:
    """Print on standard error what failed, why, and the remedy.

    The function imports only modules that are loaded already: after ``usernsctl run`` has failed
    inside a user namespace, the files of other modules may be unreadable.
    """
    from usernsctl import _core
    from usernsctl._text import say, shown_lines

    say(f"usernsctl: {error}")
    known = _core.cause(error.cause)
    if known is not None:
        say(f"  why: {known.why} [{error.cause}]")
    elif error.cause not in (None, "usage"):  # "usage" means wrong arguments, which `error` names.
        say(f"  cause: {error.cause}")
    # Only the catalogue's remedies may contain several lines. Other remedies contain file names, in
    # which newlines are escaped.
    if remedy := error.remedy or (known.remedy if known else None):
        lines = shown_lines(remedy).split("\n")
        print("  remedy:", *lines, sep=" " if len(lines) == 1 else "\n    ", file=sys.stderr)


def call_for_each(function: Callable[[str], None], names: Sequence[str]) -> int:
    """Call `function` with each name; print the error of each call that fails.

    :returns: the exit status: that of the first error, or 0.
    """
    from usernsctl.errors import UsernsError

    status = 0
    for name in names:
        try:
            function(name)
        except UsernsError as error:
            print_or_drop(print_error, error)
            status = status or error.exit_status
    return status


def _named(error: OSError) -> UsernsError | None:
    """Return a UsernsError that explains `error`, or ``None`` if the cause is unknown."""
    from usernsctl import _core
    from usernsctl.errors import NamespaceError, UsernsError

    where = error.filename
    if isinstance(error, UsernsError):
        return error
    # /proc/self does not exist if /proc was mounted in another PID namespace.
    if isinstance(error, FileNotFoundError) and str(where).startswith("/proc/self"):
        return NamespaceError.from_os_error(error, where, step="facts", cause="no-proc")
    if where is None and isinstance(error, FileNotFoundError) and not _exists_here():
        return NamespaceError(
            "the current directory was removed, so relative paths have no meaning",
            step="getcwd",
            errno=error.errno or 0,
            remedy="change to an existing directory: cd /",
        )
    if where is None:
        # The failed system call may be one that Python itself makes, so check whether a seccomp
        # filter denies system calls.
        try:
            _core.check_filter()
        except UsernsError as denied:
            return denied
    return None


def _exists_here() -> bool:
    """Return whether the current directory still exists."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _call(argv: list[str]) -> int:
    if argv[:-1] == _COMPLETION_CALL:
        from usernsctl.cli.completion import names

        if argv[-1] in names.KINDS:
            names.print_names(argv[-1])
            return 0
    if argv in (["--version"], ["-V"]):
        print(version(), end="")
        return 0
    # Import the parser only here: neither --version nor completion needs argparse, which takes most
    # of the import time.
    from usernsctl.cli.parser import Answer, usernsctl

    words = argv
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
        raise_on_interrupt()
        return parser.perform(given, environ, argv)
    except Answer as answer:
        if answer.reason is not None and _logs_json(words):
            from usernsctl.cli import json_log

            json_log.usage_error(answer.reason)
            return answer.status
        print(answer.text, end="", file=sys.stderr if answer.status else sys.stdout)
        return answer.status


def _logs_json(words: Sequence[str]) -> bool:
    """Return whether `words` are the arguments of a ``usernsctl run`` with ``--log json``.

    The parser can't answer this for a command line that contains an error.
    """
    if words[:1] != ["run"]:
        return False
    options = words[: words.index("--")] if "--" in words else words
    return "--log=json" in options or ["--log", "json"] in map(list, pairwise(options))


def version() -> str:
    """Return the output of ``--version``."""
    from usernsctl import _core

    return f"usernsctl, version {_core.version()}\n"


def _redirect_to_null(fd: int) -> None:
    """Redirect `fd`, a broken standard stream, to /dev/null, so that the flush at exit succeeds."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), fd)
