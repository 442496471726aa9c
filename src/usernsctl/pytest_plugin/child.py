"""How reports and exceptions get from the child that runs a test to its parent."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from usernsctl import _core, hardening
from usernsctl._system.descriptors import receive, wait_readable
from usernsctl._system.processes import kill, parent_namespace
from usernsctl._system.target import Target
from usernsctl.errors import UsernsError


def sendable(value: Any) -> Any:
    """The value, with representations in place of those of its parts that can't be pickled."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # whatever the methods of a stranger's class raise
        if isinstance(value, dict):
            return {key: sendable(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [sendable(part) for part in value]
        return repr(value)
    return value


def describe(error: BaseException) -> list[bytes]:
    """Tell of an exception: the first of these that can be unpickled is it, or comes close."""
    try:
        text = str(error)
    except Exception:  # that of a stranger's class
        text = type(error).__name__
    # What a class wants of its arguments is unknown, but for those of groups.
    grouped = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    parts = [describe(part) for part in grouped]
    found = []
    for candidate in (error, *((cls, text, parts) for cls in type(error).__mro__)):
        with contextlib.suppress(Exception):
            buffer = io.BytesIO()
            _Pickler(buffer).dump(candidate)
            found.append(buffer.getvalue())
    return found


def rebuild(description: list[bytes]) -> BaseException:
    """The exception that :func:`describe` told of, or one of the nearest class that can be had."""
    for data in description:
        with contextlib.suppress(Exception):
            found = _Unpickler(io.BytesIO(data)).load()
            if isinstance(found, tuple):
                cls, text, parts = found
                arguments = [[rebuild(part) for part in parts]] if parts else []
                found = cls.__new__(cls, text, *arguments)
            if isinstance(found, BaseException):
                return found
    return Exception("an exception that can't be told")


class _Pickler(pickle.Pickler):
    """Has names for classes of exceptions that can't be imported, such as pytest's, or local ones.

    The parent has all that its child had when it began.
    """

    def persistent_id(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, type) and issubclass(value, BaseException):
            return value.__module__, value.__qualname__
        return None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: tuple[str, str]) -> type[BaseException]:
        for found in _with_subclasses(BaseException):
            if (found.__module__, found.__qualname__) == name:
                return found
        raise pickle.UnpicklingError(".".join(name))


def _with_subclasses(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _with_subclasses(below)


_LENGTH = struct.Struct("!Q")
# How often the processes of a namespace are looked for, before they are taken for immortal.
_SWEEPS = 1000
# How much later than the child its parent is alarmed, in seconds: it can tell less of the test.
_GRACE = 2.0
# How long the child may take to be in its namespaces: who is root there may keep it from that.
_START_SECONDS = _core.START_SECONDS


class Channel:
    """How the child is heard of. First comes its user namespace, if it has one, then messages.

    :ivar alarm: the alarm that is set in the parent, as by setitimer(2). Timers are not inherited.
    """

    def __init__(self, connection: socket.socket, alarm: tuple[float, float] = (0, 0)) -> None:
        self.alarm = alarm
        self._connection = connection
        self._has_sent_namespace = False

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._connection.fileno() < 0

    def fileno(self) -> int:
        """The descriptor of this end."""
        return self._connection.fileno()

    def send_namespace(self) -> None:
        """Tell the parent which user namespace the child is in now."""
        fd = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        socket.send_fds(self._connection, [b"+"], [fd])
        os.close(fd)
        self._has_sent_namespace = True

    def receive_namespace(self) -> int:
        """The descriptor of the child's user namespace, or -1 if it has none of its own."""
        _, fds = receive(self._connection, 1, 1)
        return fds[0] if fds else -1

    def send(self, message: dict[str, Any]) -> None:
        """Tell the parent something; what can't be pickled is told by its representation."""
        data = pickle.dumps(sendable(message))
        if not self._has_sent_namespace:
            self._connection.sendall(b"-")
            self._has_sent_namespace = True
        self._connection.sendall(_LENGTH.pack(len(data)))
        self._connection.sendall(data)

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

    def _read(self, size: int, pidfd: int) -> bytearray | None:
        __tracebackhide__ = True
        data = bytearray()
        connection = self._connection.fileno()
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while len(data) < size:
            ready = {fd for fd, _ in poll.poll()}
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
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        if left:
            # The child's own alarm interrupts the test, and its report has the line where that was.
            # Ours is for a test that blocks the signal.
            signal.setitimer(signal.ITIMER_REAL, left + _GRACE, interval)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Wait for what the process tells; after its last words there is no need to go on.

        :raises pytest.fail.Exception: the process ended.
        """
        __tracebackhide__ = True
        if not wait_readable(self._channel.fileno(), self._pidfd, timeout=_START_SECONDS):
            reason = f"the process of the test was not in its namespaces after {_START_SECONDS:g} s"
            pytest.fail(reason, pytrace=False)
        self._namespace = self._channel.receive_namespace()
        while (message := self._channel.receive(self._pidfd)) is not None:
            yield message
        how = _told(self._reap())
        pytest.fail(f"the process that ran the test {how} before the test was over", pytrace=False)

    def close(self) -> None:
        """End all that is in the namespaces, however far the test has come."""
        # Not to be interrupted; what is left of an alarm that has not rung goes on afterwards.
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        self._end()
        if left > _GRACE:
            signal.setitimer(signal.ITIMER_REAL, left - _GRACE, interval)

    def _end(self) -> None:
        if self._pid:
            if self._namespace < 0:
                # It may be there already, only not heard of.
                with contextlib.suppress(OSError):
                    self._namespace = os.open(f"/proc/{self._pid}/ns/user", os.O_RDONLY)
                    if _is_ours(self._namespace):
                        os.close(self._namespace)
                        self._namespace = -1
            kill(self._pidfd)
            self._reap()
        os.close(self._pidfd)
        self._channel.close()
        if self._namespace >= 0:
            _kill_all_in(self._namespace)
            os.close(self._namespace)

    def _reap(self) -> int | None:
        """Wait for the process; return its exit status, -N after signal N; None: nobody knows."""
        pid, self._pid = self._pid, 0
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:
            # The session ignores SIGCHLD, so the kernel has reaped it.
            return _core.lost_returncode(self._pidfd)


def _told(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-code}"


def fork() -> Child | Channel:
    """Fork: the parent gets a :class:`Child`, to be closed, and the child a :class:`Channel`.

    The child has to end with :func:`leave`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair()
    alarm = signal.getitimer(signal.ITIMER_REAL)
    with warnings.catch_warnings():
        # Threads that hold locks are why fork() is warned of. Those of pytest and its plugins have
        # none that a test function needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        ours.close()
        return Channel(theirs, alarm)
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
        # Inside, its file may be out of reach.
        prctl = hardening.python_prctl()
        target.enter()
        # What a test does to its own process in /proc works, as it does outside.
        prctl.set_dumpable(True)
        channel.send_namespace()
        if not {"pid", "time"}.isdisjoint(target.namespaces):
            _go_on_in_a_child(has_init=target.has_init)
            _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL, mount_proc=proc))
    except UsernsError as error:
        refuse(error)
    finally:
        # What the test forks has no say in how the test ends.
        os.register_at_fork(after_in_child=channel.close)
        signal.setitimer(signal.ITIMER_REAL, *channel.alarm)


def refuse(error: UsernsError) -> NoReturn:
    """Fail the test, since its namespaces can't be had."""
    remedy = f"\n{error.remedy}" if error.remedy else ""
    reason = f"the namespaces of the test can't be had: {error}{remedy}"
    raise pytest.fail.Exception(reason, pytrace=False) from None


_STATUS = struct.Struct("i")
# As many bytes as a pipe holds (pipe(7)).
_REPORTS_MAX = 1 << 16


def _go_on_in_a_child(*, has_init: bool) -> None:
    """Fork, since only children enter a new PID or time namespace (unshare(2)).

    :param has_init: whether the child forks once more, is process 1 of the new PID namespace, and
        reports the statuses of its own child.
    """
    is_ignored = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    if is_ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reports, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reports)
        if has_init:
            _go_on_below_process_1(report)
        os.close(report)
        if is_ignored:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return
    os.close(report)
    _, status = os.waitpid(pid, 0)
    # Process 1 ends with 128+N if signal N has killed the test, so its report is preferred.
    for (reported,) in _STATUS.iter_unpack(os.read(reports, _REPORTS_MAX)):
        if not os.WIFSTOPPED(reported) and not os.WIFCONTINUED(reported):
            status = reported
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # Our parent tells by our end how the test ended.
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _go_on_below_process_1(report: int) -> None:
    """Fork; the parent, process 1, passes signals on to the child, reaps orphans, and ends."""
    _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL))
    os.set_blocking(report, False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    test = os.fork()
    if test:
        _core.be_init(test, report)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def leave(channel: Channel, message: dict[str, Any]) -> NoReturn:
    """End the child, with its last words."""
    try:
        # Before that, since it is killed when it is heard of.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        channel.send(message)
        os._exit(os.EX_OK)
    finally:
        # Whatever comes in between: the rest of the session is the parent's.
        os._exit(os.EX_SOFTWARE)


def save_coverage() -> str | None:
    """Have the lines that only this process ran be counted, if they are counted at all.

    Returns why they can't be.
    """
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        return None
    try:
        current.stop()
        current.save()
    except Exception as error:  # such as the test's having become somebody who may not write there
        return str(error)
    return None


def _is_ours(namespace: int) -> bool:
    return os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/user"))


def _kill_all_in(namespace: int) -> None:
    """Kill the processes in a user namespace and in those below it.

    The descriptor keeps the namespace, so no other can have its number meanwhile.
    """
    for _ in range(_SWEEPS):
        found = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        if sum(_kill_in(namespace, pid) for pid in found) == 0:
            return


def _kill_in(namespace: int, pid: int) -> bool:
    """Kill a process if it is in that namespace; whether it was, and alive."""
    # Most are not, and this costs less than to open them.
    if not _is_in(pid, namespace):
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # A zombie still tells its user namespace, and the pid may be somebody else's by now.
        if _has_ended(pidfd, 0) or not _is_in(pid, namespace):
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _has_ended(pidfd, 1000)
        return True
    except OSError:
        return True
    finally:
        os.close(pidfd)


def _has_ended(pidfd: int, milliseconds: int) -> bool:
    """Whether a process has ended, or does in that time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))


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
            parent = parent_namespace(current)
            os.close(current)
            current = parent
    except OSError:  # above ours, where we may not look
        return False
    finally:
        os.close(current)
    return True
