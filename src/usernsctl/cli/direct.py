"""``usernsctl run`` without click, for calls that nothing is wrong with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from usernsctl import _interrupts

_ENVIRON_FD = "--environ-fd"


def run(argv: Sequence[str]) -> bool:
    """Replace this process by what ``usernsctl run`` asks for.

    :param argv: the words without the program's name.
    :returns: whether it was answered; ``False`` for another call, or one that click has to answer:
        it has to read all of it.
    """
    number, words = _environ_fd(argv)
    if not words or words[0] != "run":
        return False
    from usernsctl.cli import run as verb

    _interrupts.raise_again()
    given = verb.read(words[1:])
    if given is None:
        return False
    try:
        verb.check_combination(given)
        environ = _environ(number)
    except (verb.WrongUsageError, OSError):
        return False
    verb.perform(given, environ)
    return True


def _environ_fd(argv: Sequence[str]) -> tuple[int | None, Sequence[str]]:
    """The option for the descriptor, if it is the first word, and what follows it."""
    name, has_value, value = argv[0].partition("=") if argv else ("", "", "")
    if name != _ENVIRON_FD:
        return None, argv
    if not has_value:
        value = argv[1] if len(argv) > 1 else ""
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) > 2):
        return None, argv
    return int(value), argv[1 if has_value else 2 :]


def _environ(number: int | None) -> Mapping[str, str]:
    from usernsctl.cli import caller

    return os.environ if number is None else caller.read(number)
