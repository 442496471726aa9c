"""What a sandbox keeps of processes that have ended, apart from its files and IPC objects.

Those are settings of gVisor's kernel and shared memory. A program of ours in the sandbox reads them
(csrc/programs/agent/leftovers.c): all others may be those of the last user.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from usernsctl._system.deadlines import seconds_left
from usernsctl._system.descriptors import wait_readable
from usernsctl._text import shown
from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.errors import RunscError
from usernsctl.gvisor.launch.steps import AGENT_INSIDE

if TYPE_CHECKING:
    from usernsctl.gvisor.sandbox.sandbox import Sandbox

_COMMAND = (AGENT_INSIDE, "--leftovers")
# The program writes no more (TEXT_SIZE in csrc/programs/agent/leftovers.c).
_BYTES_MAX = 65536


def read_leftovers(box: Sandbox, seconds: float) -> set[tuple[bytes, bytes]] | None:
    """Read the settings in /proc/sys that may be changed, and the names in /dev/shm.

    :param box: the sandbox.
    :param seconds: how long that may take.
    :returns: the path and the content of each; of names in /dev/shm no content. gVisor may show a
        setting in two ways. ``None``: they can't be read, or there are more than anybody has.
    :raises TimeoutExpired: it took longer.
    :raises UsernsError: as :meth:`usernsctl.Sandbox.popen` does.
    """
    deadline = time.monotonic() + seconds
    reader = box.popen(_COMMAND, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    assert reader.stdout is not None
    try:
        told = _read(reader.stdout.fileno(), deadline)
        status = reader.wait(seconds_left(deadline))
    finally:
        reader._end()
        reader.stdout.close()
    if status or len(told) > _BYTES_MAX:
        return None
    words = told.split(b"\0")
    return set(zip(words[::2], words[1::2], strict=False))


def _read(fd: int, deadline: float) -> bytes:
    """Read a pipe to its end, but no more than one byte too many."""
    told = bytearray()
    while len(told) <= _BYTES_MAX:
        if not wait_readable(fd, timeout=seconds_left(deadline)):
            raise TimeoutExpired(_COMMAND, 0)
        part = os.read(fd, _BYTES_MAX + 1 - len(told))
        if not part:
            break
        told += part
    return bytes(told)


def check_leftovers(box: Sandbox, before: set[tuple[bytes, bytes]] | None, seconds: float) -> None:
    """Check that no user has left anything in a sandbox.

    :param box: the sandbox.
    :param before: what :func:`read_leftovers` returned before there was a user.
    :param seconds: how long that may take.
    :raises RunscError: something is left, which the message names, or that can't be told.
    :raises TimeoutExpired: as :func:`read_leftovers` does.
    :raises UsernsError: likewise.
    """
    now = read_leftovers(box, seconds)
    if before is None or now is None:
        raise RunscError(
            f"what the last user of the sandbox {box.id} has left can't be read, or is too much",
            step="pool",
        )
    if changed := before ^ now:
        paths = sorted({path for path, _ in changed})
        names = ", ".join(shown(os.fsdecode(path)) for path in paths[:3])
        raise RunscError(
            f"the last user of the sandbox {box.id} has left something that is kept: {names}",
            step="pool",
        )
