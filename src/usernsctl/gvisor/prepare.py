"""Makes the root filesystem that the sandboxes of a host share.

``python -m usernsctl.gvisor.prepare SOCKET`` runs inside the namespaces of the host, where it
mounts what the sandboxes need, and hands the directory with that over the socket. Those mounts, and
so all files in them, are gone when the last process and the last descriptor that needs them is.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from dataclasses import dataclass
from typing import Any

from usernsctl._system import mounts
from usernsctl.errors import NamespaceError, UsernsError
from usernsctl.gvisor import launch, logs, paths
from usernsctl.gvisor.place import Ids
from usernsctl.gvisor.request import Request
from usernsctl.gvisor.rootfs import refuse_state

# Beside the directories of a host's sandboxes, whose names are their ids: a file for each one's
# report of a crash. All together are bounded; what tells of failures is not among them.
CRASH_DIRECTORY = ".crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be made.

    :ivar used: the files that it takes; the child has the same descriptors.
    :ivar bundle: the config.json of a bundle as :func:`config.read_bundle` gave it, or ``None``.
    :ivar ids: those that there are.
    :ivar homes: the home directories of the caller.
    :ivar is_root: whether the caller is root.
    :ivar state: the directory that detached sandboxes are known by.
    """

    request: Request
    used: paths.Paths
    bundle: dict[str, Any] | None
    ids: Ids
    homes: set[str]
    is_root: bool
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was made.

    :ivar scratch: the path inside of the directory for the files of the sandboxes.
    :ivar init: the path of the program that each sandbox's PID namespace begins with.
    :ivar detach: the path of the program that starts a sandbox which has none.
    :ivar empty: the path of an empty directory.
    :ivar config: the config.json of a sandbox, but for what differs between them.
    """

    scratch: str
    init: str
    detach: str
    empty: str
    config: dict[str, Any]


def prepare(order: Order) -> Prepared:
    """Make the root filesystem, in this process's mount namespace.

    :raises UsernsError: it can't be had; the reasons are those of ``usernsctl run``.
    """
    # Before the first mount, which could cover them.
    used = order.used.here()
    init = paths.own_program("usernsctl-init", "holds sandboxes")
    detach = paths.own_program("usernsctl-detach", "starts detached sandboxes")
    for directory in (order.state, *([used.debug_log.path] if used.debug_log else ())):
        refuse_state(used.sources, directory)
    os.umask(0o022)
    scratch = mounts.mount_scratch(used.scratch_places([order.state])[0])
    _, wanted = launch.make_root(
        order.request,
        order.ids,
        used,
        scratch,
        order.bundle,
        homes=order.homes,
        is_root=order.is_root,
    )
    for name in ("boxes", "programs", "empty"):
        os.mkdir(name, 0o700, dir_fd=scratch.fd)
    crash = f"{scratch.path}/boxes/{CRASH_DIRECTORY}"
    os.mkdir(crash, 0o700)
    mounts.mount_tmpfs(crash, logs.CRASH_BYTES)
    if used.debug_log is not None:
        launch.show_debug_log(used.debug_log, scratch)
    programs = scratch.child("programs")
    shown = [launch.show_program(program, programs) for program in (init, detach)]
    # Sandboxes are started by its path, since it looks for files of its own beside that.
    used.runsc.here()
    return Prepared(
        scratch=scratch.path,
        init=shown[0],
        detach=shown[1],
        empty=f"{scratch.path}/empty",
        config=wanted,
    )


def main(connection: socket.socket) -> None:
    """Read an :class:`Order` from standard input; answer with what came of it."""
    result: Prepared | UsernsError
    try:
        result = prepare(pickle.load(sys.stdin.buffer))
        directory = os.open(f"{result.scratch}/boxes", os.O_RDONLY | os.O_DIRECTORY)
        socket.send_fds(connection, [b"+"], [directory])
    except UsernsError as error:
        result = error
    except OSError as error:
        result = NamespaceError(
            f"{error.filename or 'the root filesystem'}: {error.strerror}",
            step="sandbox",
            errno=error.errno or 0,
            filename=error.filename,
        )
    sys.stdout.buffer.write(pickle.dumps(result))


if __name__ == "__main__":
    # What is pickled must be known by the same name on both sides, which __main__ is not.
    from usernsctl.gvisor import prepare as module

    with socket.socket(fileno=int(sys.argv[1])) as given:
        module.main(given)
