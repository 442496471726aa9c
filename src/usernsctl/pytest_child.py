"""The process that runs a test in namespaces of its own, and what is heard of it.

The test process is forked in the midst of running the test. The child moves into new namespaces and
goes on: it runs the function, and pytest makes a report of that as always. There it ends, and hands
the report to its parent, which takes it for its own. So the report has all that it would have had
without namespaces: rewritten assertions, captured output, the outcome of an expected failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import select
import signal
import socket
import struct
import sys
import warnings
from typing import Any, NoReturn

import pytest

from usernsctl import _core
from usernsctl.errors import UsernsError
from usernsctl.target import Target

# ioctl_nsfs(2): a descriptor of the user namespace that owns or contains the given one.
_NS_GET_PARENT = 0xB702
_LENGTH = struct.Struct("!Q")
# How often the processes of a namespace are looked for, before they are taken for immortal.
_SWEEPS = 1000


class Channel:
    """How the child is heard of. First comes its user namespace, if it has one, then a report."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._has_sent_namespace = False

    def close(self) -> None:
        self._connection.close()

    def send_namespace(self) -> None:
        fd = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        socket.send_fds(self._connection, [b"+"], [fd])
        os.close(fd)
        self._has_sent_namespace = True

    def receive_namespace(self) -> int:
        """The descriptor of the child's user namespace, or -1 if it has none of its own."""
        _, fds, _, _ = socket.recv_fds(self._connection, 1, 1)
        return fds[0] if fds else -1

    def send(self, message: dict[str, Any]) -> None:
        data = pickle.dumps(message)
        if not self._has_sent_namespace:
            self._connection.sendall(b"-")
        self._connection.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self, pidfd: int) -> dict[str, Any] | None:
        """What the child sent, or ``None`` if it ended without a word.

        Not the end of the stream tells that, which processes of the test may hold open.
        """
        __tracebackhide__ = True
        header = self._read(_LENGTH.size, pidfd)
        if header is None:
            return None
        text = self._read(_LENGTH.unpack(header)[0], pidfd)
        # The child is this very program.
        return None if text is None else dict(pickle.loads(text))

    def _read(self, size: int, pidfd: int) -> bytes | None:
        __tracebackhide__ = True
        data = b""
        connection = self._connection.fileno()
        while len(data) < size:
            ready, _, _ = select.select([connection, pidfd], [], [])
            # What it sent before it ended is there first.
            if connection not in ready:
                return None
            more = self._connection.recv(size - len(data))
            if not more:
                return None
            data += more
        return data


class Child:
    """Seen from the parent: the process that runs a test, and all that the test started."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._channel = channel
        self._namespace = -1

    def report(self) -> dict[str, Any]:
        """Wait for the report.

        :raises pytest.fail.Exception: the process ended without one.
        """
        __tracebackhide__ = True
        self._namespace = self._channel.receive_namespace()
        message = self._channel.receive(self._pidfd)
        if message is not None:
            return message
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        pytest.fail(f"the process that ran the test {how} before the test was over", pytrace=False)

    def close(self) -> None:
        """End all that is in the namespaces, however far the test has come."""
        if self._pid:
            if self._namespace < 0:
                # It may be there already, only not heard of.
                with contextlib.suppress(OSError):
                    self._namespace = os.open(f"/proc/{self._pid}/ns/user", os.O_RDONLY)
                    if _is_ours(self._namespace):
                        os.close(self._namespace)
                        self._namespace = -1
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        os.close(self._pidfd)
        self._channel.close()
        if self._namespace >= 0:
            _kill_all_in(self._namespace)
            os.close(self._namespace)


def fork() -> Child | Channel:
    """Fork: the parent gets a :class:`Child`, to be closed, and the child a :class:`Channel`.

    The child has to end with :func:`leave`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings():
        # Threads that hold locks are why fork() is warned of. Those of pytest and its plugins have
        # none that a test function needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        ours.close()
        return Channel(theirs)
    theirs.close()
    return Child(pid, Channel(ours))


def move(target: Target, *, mount_proc: bool, channel: Channel) -> None:
    """Move this process, the child, into the namespaces, and let the parent know.

    :raises pytest.fail.Exception: they can't be had.
    """
    # The end of the parent is the end of the test, in whatever way it comes.
    target.setup.pdeathsig = signal.SIGKILL
    proc = "/proc" if mount_proc else None
    try:
        target.enter()
        channel.send_namespace()
        if not {"pid", "time"}.isdisjoint(target.namespaces):
            _go_on_in_a_child()
            _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL, mount_proc=proc))
    except UsernsError as error:
        refuse(error)


def refuse(error: UsernsError) -> NoReturn:
    """Fail the test, since its namespaces can't be had."""
    remedy = f"\n{error.remedy}" if error.remedy else ""
    pytest.fail(f"the namespaces of the test can't be had: {error}{remedy}", pytrace=False)


def _go_on_in_a_child() -> None:
    """Fork, since only children enter a new PID or time namespace (unshare(2))."""
    pid = os.fork()
    if pid == 0:
        return
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # Our parent tells by our end how the test ended.
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def leave(channel: Channel, message: dict[str, Any]) -> NoReturn:
    """End the child, with its last words."""
    _save_coverage()
    channel.send(message)
    os._exit(0)


def _save_coverage() -> None:
    """Have the lines that only this process ran be counted, if they are counted at all."""
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is not None:
        current.stop()
        current.save()


def _is_ours(namespace: int) -> bool:
    return os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/user"))


def _kill_all_in(namespace: int) -> None:
    """Kill the processes in a user namespace and in those below it.

    The descriptor keeps the namespace, so no other can have its number meanwhile.
    """
    for _ in range(_SWEEPS):
        found = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        inside = [pid for pid in found if _is_in(pid, namespace)]
        if not inside:
            return
        for pid in inside:
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                try:
                    # The pid may be somebody else's by now.
                    if _is_in(pid, namespace):
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                        select.select([pidfd], [], [], 1)
                finally:
                    os.close(pidfd)


def _is_in(pid: int, namespace: int) -> bool:
    try:
        current = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    except OSError:  # it has ended, or is somebody else's
        return False
    if _is_ours(current):
        os.close(current)
        return False
    wanted = os.fstat(namespace)
    try:
        while not os.path.samestat(os.fstat(current), wanted):
            parent = fcntl.ioctl(current, _NS_GET_PARENT)
            os.close(current)
            current = parent
    except OSError:  # above ours, where we may not look
        return False
    finally:
        os.close(current)
    return True
