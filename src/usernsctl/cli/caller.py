"""The environment of whoever calls ``usernsctl``.

It is this process's own, but in a container: there csrc/programs/entrypoint/main.c hands it over
as data, so that it changes nothing of what is started outside of gVisor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def environ() -> Mapping[str, str]:
    """The variables that a command may be given, within a command of click's."""
    import click

    given = click.get_current_context().find_root().obj
    return os.environ if given is None else dict(given)


def read(fd: int) -> dict[str, str]:
    """Read variables as /proc/PID/environ has them (proc_pid_environ(5)), and close the file.

    What is no ``NAME=VALUE`` is left out, and the first of a name counts, as in ``os.environ``.

    :param fd: a descriptor of a file, read from its beginning.
    :raises OSError: it can't be read; it stays open then, if it is.
    """
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        text = file.read()
    os.close(fd)
    found: dict[str, str] = {}
    for entry in text.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if name and equals:
            found.setdefault(os.fsdecode(name), os.fsdecode(value))
    return found
