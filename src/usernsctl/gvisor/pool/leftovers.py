"""Functions that check whether a lease has changed a sandbox's kernel settings or shared memory.

usernsctl-agent reads settings and shared memory in the sandbox
(csrc/programs/agent/leftovers.c), because every other program there may have been replaced during
the lease.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from usernsctl._system.descriptors import seconds_left, wait_readable
from usernsctl._text import shown
from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.errors import RunscError
from usernsctl.gvisor.launch.steps import AGENT_INSIDE

if TYPE_CHECKING:
    from usernsctl.gvisor.sandbox.sandbox import Sandbox

_COMMAND = (AGENT_INSIDE, "--leftovers")
# The maximum size of the output of ``usernsctl-agent --leftovers``, in bytes (TEXT_SIZE in
# csrc/programs/agent/leftovers.c).
_BYTES_MAX = 65536


def read_leftovers(box: Sandbox, seconds: float) -> set[tuple[bytes, bytes]] | None:
    """Read the writable settings in /proc/sys, and the names of the files in /dev/shm.

    :param box: the sandbox.
    :param seconds: the timeout, in seconds.
    :returns: the path and the content of each file; the content is empty for files in /dev/shm.
        ``None`` if usernsctl-agent fails, or its output is too long.
    :raises TimeoutExpired: usernsctl-agent took more than `seconds`.
    :raises UsernsError: as :meth:`usernsctl.Sandbox.popen` does.
    """
    deadline = time.monotonic() + seconds
    reader = box.popen(_COMMAND, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    assert reader.stdout is not None
    try:
        output = _read(reader.stdout.fileno(), deadline)
        status = reader.wait(seconds_left(deadline))
    finally:
        reader._end()
        reader.stdout.close()
    if status or len(output) > _BYTES_MAX:
        return None
    fields = output.split(b"\0")
    return set(zip(fields[::2], fields[1::2], strict=False))


def _read(fd: int, deadline: float) -> bytes:
    """Read a pipe until end of file, but at most `_BYTES_MAX` + 1 bytes.

    :raises TimeoutExpired: the pipe is not at end of file before the deadline.
    """
    output = bytearray()
    while len(output) <= _BYTES_MAX:
        if not wait_readable(fd, timeout=seconds_left(deadline)):
            raise TimeoutExpired(_COMMAND, 0)
        part = os.read(fd, _BYTES_MAX + 1 - len(output))
        if not part:
            break
        output += part
    return bytes(output)


def check_leftovers(box: Sandbox, before: set[tuple[bytes, bytes]] | None, seconds: float) -> None:
    """Check that the kernel settings and shared memory of a sandbox are unchanged.

    :param box: the sandbox.
    :param before: the result of :func:`read_leftovers` before the first lease.
    :param seconds: the timeout, in seconds.
    :raises RunscError: a kernel setting or a file in /dev/shm was changed, or the settings can't be
        read.
    :raises TimeoutExpired: as :func:`read_leftovers` does.
    :raises UsernsError: as :func:`read_leftovers` does.
    """
    now = read_leftovers(box, seconds)
    if before is None or now is None:
        raise RunscError(
            f"the sandbox {box.id} can't be leased again: its settings can't be read",
            step="pool",
        )
    if changed := before ^ now:
        paths = sorted({path for path, _ in changed})
        names = ", ".join(shown(os.fsdecode(path)) for path in paths[:3])
        raise RunscError(
            f"the sandbox {box.id} can't be leased again: the last lease has changed {names}",
            step="pool",
        )
