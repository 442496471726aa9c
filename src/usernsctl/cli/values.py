"""The values of options, from text to what the package works with."""

from __future__ import annotations

import re
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from usernsctl.errors import RunscError

if TYPE_CHECKING:
    from usernsctl.gvisor.oci import Rlimit
    from usernsctl.gvisor.request import Bind


_ID_MAX = 2**32 - 2  # the last one, 2**32 - 1, stands for "no change" (setresuid(2))
_UNLIMITED = 2**64 - 1  # RLIM_INFINITY, as config.json has it


def each(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a click callback of a function that reads one value.

    It applies to the value of an option, or to each one of an option that may be repeated.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(parse(one) for one in value)
        return None if value is None else parse(value)

    return callback


def bind(text: str) -> Bind:
    """Read ``SRC[:DST][:ro|rw]``; SRC and DST have no colons."""
    from usernsctl.gvisor.request import Bind

    source, *more = text.split(":")
    mode = more.pop() if more and more[-1] in ("ro", "rw") else "ro"
    if not source or len(more) > 1:
        raise click.BadParameter(f"{text!r} is not SRC[:DST][:ro|rw]")
    return Bind.shown(source, *more, read_only=mode == "ro")


def user(text: str) -> tuple[int, int]:
    """Read ``UID[:GID]``; the gid is the uid's number unless given."""
    uid, _, gid = text.partition(":")
    ids = [uid, gid or uid]
    if not all(re.fullmatch(r"[0-9]{1,10}", number) and int(number) <= _ID_MAX for number in ids):
        raise click.BadParameter(f"{text!r} is not UID[:GID], numbers from 0 to {_ID_MAX}")
    return int(ids[0]), int(ids[1])


def rlimit(text: str) -> Rlimit:
    """Read ``NAME=SOFT[:HARD]``; NAME as ``nofile`` or ``RLIMIT_NOFILE``."""
    from usernsctl.gvisor.oci import Rlimit

    name, _, limits = text.partition("=")
    full = f"RLIMIT_{name.upper().removeprefix('RLIMIT_')}"
    if full == "RLIMIT_OFILE" or not hasattr(resource, full):
        # RLIMIT_OFILE is BSD's name for RLIMIT_NOFILE.
        names = {n for n in dir(resource) if n.startswith("RLIMIT_")} - {"RLIMIT_OFILE"}
        known = ", ".join(sorted(n.removeprefix("RLIMIT_").lower() for n in names))
        raise click.BadParameter(f"{name!r} is no resource limit; there are {known}")
    soft, _, hard = limits.partition(":")
    numbers = [_limit(text, soft), _limit(text, hard or soft)]
    if numbers[0] > numbers[1]:
        raise click.BadParameter(f"{text!r}: the soft limit is above the hard limit")
    return Rlimit(full, *numbers)


def network(text: str) -> str:
    """Read ``none`` or ``host``.

    :raises RunscError: it is ``sandbox``, runsc's own default.
    """
    if text == "sandbox":
        raise RunscError(
            "--network sandbox can't be had without root: runsc would have to take over a network "
            "device of this machine, and refuses",
            step="runsc",
            cause="runsc-rootless-netstack",
            remedy="--network host, or none",
        )
    return choice("none", "host")(text)


def choice(*known: str) -> Callable[[str], str]:
    """Make a function that takes one of these words."""

    def parse(text: str) -> str:
        if text not in known:
            raise click.BadParameter(f"{text!r} is none of {', '.join(known)}")
        return text

    return parse


def _limit(text: str, number: str) -> int:
    if number in ("unlimited", "-1"):
        return _UNLIMITED
    if not re.fullmatch(r"[0-9]{1,20}", number) or int(number) > _UNLIMITED:
        raise click.BadParameter(f"{text!r} is not NAME=SOFT[:HARD], numbers or 'unlimited'")
    return int(number)
