"""The root filesystem of a sandbox: what is shown, what is hidden, and what never may be shown.

As root, runsc could read all files in a directory that is shown, and also those that are made or
replaced later: a new /etc/shadow is a new file, which nothing has hidden. So a directory with
private files is shown as a copy of what every user may read, as it is now.

What never may be shown is the state directory, which tells us what to end and what to join. A
program inside that could write there would have others' processes ended, and one that could read
there would see what others' sandboxes were given.
"""

from __future__ import annotations

from collections.abc import Mapping

from usernsctl import _core
from usernsctl._system.opened import Opened

# What a program needs that is installed on this machine, and little else.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")

# What a program expects to be there; all other data of the machine is left out.
EMPTY = {
    "dev": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}
LINKS = {"var/run": "/run", "var/lock": "/run/lock"}


def refuse_state(sources: Mapping[str, Opened], state: str) -> None:
    """Refuse to show what holds the state directory, or lies in it.

    :param sources: what is to be shown, by the names that it was asked for by.
    :param state: the path of the state directory, which need not be there yet.
    :raises BundleError: one does (cause ``bind-shows-state``). It is told by what it is, not by its
        name: by a link or another mount, it is the same directory.
    """
    _core.refuse_to_show({name: source.fd for name, source in sources.items()}, state)
