"""The root filesystem of a sandbox: what is shown, what is hidden, and what never may be shown.

As root, runsc could read all files in a directory that is shown, and also those that are made or
replaced later: a new /etc/shadow is a new file, which nothing has hidden. So a directory with
private files is shown as a copy of what every user may read, as it is now.

What never may be shown are the directories of usernsctl's own: the state directory, which says
what to kill and what to join, and that of the templates, which holds the memory of programs. A
program inside that could write there would have others' processes killed, and one that could read
there would see what others' sandboxes were given.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from usernsctl import _core
from usernsctl._system.opened import Opened
from usernsctl._system.state import state_directory, templates_directory

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


def refuse_own(
    sources: Mapping[str, Opened], writable: Collection[str], others: Iterable[str] = ()
) -> None:
    """Refuse to show what holds a directory of usernsctl's own, or lies in it.

    A directory is compared by what it is, not by its name: by a link or another mount, it is the
    same directory. The directories need not exist yet, but a program that may only read sees
    nothing of templates where there are none.

    :param sources: what is to be shown, by the names that it was asked for by.
    :param writable: the names of those that a program inside may write to.
    :param others: paths of further directories that are kept from sandboxes.
    :raises BindError: one does (cause ``bind-shows-state``).
    """
    shown = {name: source.fd for name, source in sources.items()}
    for directory in (state_directory(), *others):
        _core.refuse_to_show(shown, directory)
    templates = templates_directory()
    if templates is not None:
        if not os.path.exists(templates):
            shown = {name: fd for name, fd in shown.items() if name in writable}
        _core.refuse_to_show(shown, templates)
