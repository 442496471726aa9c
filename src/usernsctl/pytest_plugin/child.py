"""The child process in which a test runs, and the messages that it sends to the parent."""

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
    """Return `value`; replace each part that can't be pickled with its repr()."""
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301
    except Exception:  # Methods that pickle calls may raise any exception.
        if isinstance(value, dict):
            return {key: sendable(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [sendable(part) for part in value]
        return repr(value)
    return value


def describe(error: BaseException) -> list[bytes]:
    """Return pickles of an exception, and of substitutes: exceptions of its base classes.

    A substitute has the same text. The parent uses the first pickle that it can load.
    """
    try:
        text = str(error)
    except Exception:  # __str__() may raise any exception.
        text = type(error).__name__
    # Keep the exceptions of a group, but no arguments of other exceptions: a class may require
    # arguments that differ from those of its base classes.
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
    """Return the exception that :func:`describe` has pickled, or a substitute of a base class."""
    for data in description:
        with contextlib.suppress(Exception):
            found = _Unpickler(io.BytesIO(data)).load()
            if isinstance(found, tuple):
                cls, text, parts = found
                arguments = [[rebuild(part) for part in parts]] if parts else []
                found = cls.__new__(cls, text, *arguments)
            if isinstance(found, BaseException):
                return found
    return Exception("the child raised an exception that can't be unpickled")


class _Pickler(pickle.Pickler):
    """Pickler that pickles exception classes by name, even if the classes can't be imported.

    Classes of functions, and those of pytest, can't be imported by name. But all classes that
    existed at the fork exist in the parent, too.
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
# Maximum number of times to search a namespace for processes and kill them, because a process in an
# uninterruptible system call survives SIGKILL.
_SWEEPS = 1000
# Seconds by which the parent's timeout exceeds the child's, so that the child, whose report is more
# detailed, reports a timeout first.
_GRACE = 2.0
# Timeout, in seconds, for the child to enter its namespaces.
_START_SECONDS = _core.START_SECONDS


class Channel:
    """Connection over which a child sends its parent messages and a user namespace's descriptor.

    :ivar alarm: the remaining time and the interval of ITIMER_REAL before fork(2), as setitimer(2)
        returned them. fork() stops the timer, so both processes set it again.
    """

    def __init__(self, connection: socket.socket, alarm: tuple[float, float] = (0, 0)) -> None:
        self.alarm = alarm
        self._connection = connection
        self._has_sent_namespace = False

    def close(self) -> None:
        """Close this end of the connection."""
        self._connection.close()

    @property
    def closed(self) -> bool:
        """True after :meth:`close` was called."""
        return self._connection.fileno() < 0

    def fileno(self) -> int:
        """Return the descriptor of this end of the connection."""
        return self._connection.fileno()

    def send_namespace(self) -> None:
        """Send the parent a descriptor of the child's user namespace."""
        fd = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        socket.send_fds(self._connection, [b"+"], [fd])
        os.close(fd)
        self._has_sent_namespace = True

    def receive_namespace(self) -> int:
        """Receive the descriptor of the child's user namespace; return -1 if none was sent."""
        _, fds = receive(self._connection, 1, 1)
        return fds[0] if fds else -1

    def send(self, message: dict[str, Any]) -> None:
        """Send a message to the parent; replace each part that can't be pickled with its repr()."""
        data = pickle.dumps(sendable(message))
        if not self._has_sent_namespace:
            self._connection.sendall(b"-")
            self._has_sent_namespace = True
        self._connection.sendall(_LENGTH.pack(len(data)))
        self._connection.sendall(data)

    def receive(self, pidfd: int) -> dict[str, Any] | None:
        """Receive a message from the child; return ``None`` if the child has exited.

        The exit of the child is detected through its pidfd, because other processes of the test may
        keep the connection open.
        """
        __tracebackhide__ = True
        header = self._read(_LENGTH.size, pidfd)
        if header is None:
            return None
        text = self._read(_LENGTH.unpack(header)[0], pidfd)
        # Unpickling is safe, because the child is a fork of this program.
        return None if text is None else dict(pickle.loads(text))  # noqa: S301

    def _read(self, size: int, pidfd: int) -> bytearray | None:
        __tracebackhide__ = True
        data = bytearray()
        connection = self._connection.fileno()
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while len(data) < size:
            ready = {fd for fd, _ in poll.poll()}
            # If the connection is not readable now, the child has exited without sending more data.
            if connection not in ready:
                return None
            more = self._connection.recv(size - len(data))
            if not more:
                return None
            data += more
        return data


class Child:
    """The parent's handle for the process that runs a test, and for the test's other processes."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._channel = channel
        self._namespace = -1
        left, interval = channel.alarm
        if left:
            # The child's timer interrupts the test, so that the report names the interrupted line.
            # The parent's timer is for tests that block SIGALRM.
            signal.setitimer(signal.ITIMER_REAL, left + _GRACE, interval)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the messages of the child.

        The caller must stop iterating after the last message: after that, the iterator waits for
        another message, and fails the test when the child exits.

        :raises pytest.fail.Exception: the child exited before the end of the test, or did not enter
            its namespaces in time.
        """
        __tracebackhide__ = True
        if not wait_readable(self._channel.fileno(), self._pidfd, timeout=_START_SECONDS):
            reason = f"the test's process did not enter its namespaces within {_START_SECONDS:g} s"
            pytest.fail(reason, pytrace=False)
        self._namespace = self._channel.receive_namespace()
        while (message := self._channel.receive(self._pidfd)) is not None:
            yield message
        how = _how_ended(self._reap())
        pytest.fail(f"the process that ran the test {how} before the test ended", pytrace=False)

    def close(self) -> None:
        """Kill all processes of the test, and close the connection to the child."""
        # Stop the timer, so that SIGALRM can't interrupt this method. The timer is set again below.
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        self._end()
        if left > _GRACE:
            signal.setitimer(signal.ITIMER_REAL, left - _GRACE, interval)

    def _end(self) -> None:
        if self._pid:
            if self._namespace < 0:
                # Open the child's user namespace here: the child may have entered the namespace
                # without having sent its descriptor.
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
        """Wait for the child; return its exit status, -N if signal N killed it, None if unknown."""
        pid, self._pid = self._pid, 0
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:
            # The kernel has reaped the child, because this process ignores SIGCHLD.
            return _core.lost_returncode(self._pidfd)


def _how_ended(code: int | None) -> str:
    if code is None:
        return "ended"
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # signal.Signals lacks most real-time signals.
        return f"was killed by signal {-code}"


def fork() -> Child | Channel:
    """Fork; return a :class:`Child` in the parent, and a :class:`Channel` in the child.

    The parent must close the Child. The child must exit by calling :func:`leave`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair()
    # Stop the timer during the fork: if the handler of SIGALRM raised an exception in a callback of
    # os.fork(), Python would ignore the exception.
    alarm = signal.setitimer(signal.ITIMER_REAL, 0)
    with warnings.catch_warnings():
        # Ignore Python's warning that other threads may hold locks at a fork: threads of pytest and
        # its plugins hold no locks that a test function needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            pid = os.fork()
        except OSError:
            signal.setitimer(signal.ITIMER_REAL, *alarm)
            raise
    if pid == 0:
        ours.close()
        return Channel(theirs, alarm)
    theirs.close()
    return Child(pid, Channel(ours, alarm))


def move(target: Target, *, mount_proc: bool, channel: Channel) -> None:
    """Move this process, the child, into the namespaces.

    The parent receives a descriptor of the user namespace.

    :raises pytest.fail.Exception: a namespace can't be created or entered.
    """
    # Let the kernel kill the child when the parent exits or is killed.
    target.setup.pdeathsig = signal.SIGKILL
    proc = "/proc" if mount_proc else None
    try:
        # Import the module before entering the namespaces, because the test's user in the namespace
        # may not be allowed to read the module's file.
        prctl = hardening.python_prctl()
        target.enter()
        # Make the process dumpable again, so that the test may write to its own files in /proc, as
        # a test without namespaces may.
        prctl.set_dumpable(True)
        channel.send_namespace()
        if not {"pid", "time"}.isdisjoint(target.namespaces):
            _continue_in_child(has_init=target.has_init)
            _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL, mount_proc=proc))
    except UsernsError as error:
        refuse(error)
    finally:
        # Close the connection in processes that the test forks, because they must not send
        # messages.
        os.register_at_fork(after_in_child=channel.close)
        signal.setitimer(signal.ITIMER_REAL, *channel.alarm)


def refuse(error: UsernsError) -> NoReturn:
    """Fail the test because its namespaces can't be created, with `error` as the reason."""
    remedy = f"\nremedy: {error.remedy}" if error.remedy else ""
    reason = f"can't create the namespaces of the test: {error}{remedy}"
    raise pytest.fail.Exception(reason, pytrace=False) from None


_STATUS = struct.Struct("i")
# Maximum number of bytes to read from the pipe of wait statuses: the capacity of a pipe (pipe(7)).
_REPORTS_MAX = 1 << 16


def _continue_in_child(*, has_init: bool) -> None:
    """Fork, and return in the child, because only children enter a new PID or time namespace.

    The parent waits for the child, and then exits with the child's exit status, or kills itself
    with the signal that killed the child (unshare(2)).

    :param has_init: whether the child, PID 1 of the new PID namespace, forks once more. The
        function then returns in the grandchild, which runs the test, and PID 1 reports the
        grandchild's wait status.
    """
    is_ignored = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    if is_ignored:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reports, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reports)
        if has_init:
            _continue_below_process_1(report)
        os.close(report)
        if is_ignored:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return
    os.close(report)
    _, status = os.waitpid(pid, 0)
    # Use the wait status that PID 1 has reported, because it contains the signal that killed the
    # test; PID 1 itself exits with 128 plus the number of that signal.
    for (reported,) in _STATUS.iter_unpack(os.read(reports, _REPORTS_MAX)):
        if not os.WIFSTOPPED(reported) and not os.WIFCONTINUED(reported):
            status = reported
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        # Kill this process with the same signal, because the parent derives the end of the test
        # from this process's wait status.
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _continue_below_process_1(report: int) -> None:
    """Fork, and return in the child. The parent, PID 1, forwards signals and reaps orphans."""
    _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL))
    os.set_blocking(report, False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    test = os.fork()
    if test:
        _core.be_init(test, report)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def leave(channel: Channel, message: dict[str, Any]) -> NoReturn:
    """Send the last message, and exit this process, the child."""
    try:
        # Flush first, because the parent kills the child when it receives the message.
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        channel.send(message)
        os._exit(os.EX_OK)
    finally:
        # Exit even after an exception, because the child must not continue the session.
        os._exit(os.EX_SOFTWARE)


def save_coverage() -> str | None:
    """Save the coverage data of this process, if coverage is measured.

    :returns: the reason why the data can't be saved; None if the data were saved, or if coverage is
        not measured.
    """
    coverage = sys.modules.get("coverage")
    current = coverage.Coverage.current() if coverage is not None else None
    if current is None:
        return None
    try:
        current.stop()
        current.save()
    except Exception as error:  # The test's current uid may not be allowed to write the file.
        return str(error)
    return None


def _is_ours(namespace: int) -> bool:
    return os.path.samestat(os.fstat(namespace), os.stat("/proc/self/ns/user"))


def _kill_all_in(namespace: int) -> None:
    """Kill all processes in a user namespace and in its descendant namespaces.

    `namespace`, a descriptor, keeps the user namespace alive, so that no other namespace can get
    its inode number.
    """
    for _ in range(_SWEEPS):
        found = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
        if sum(_kill_in(namespace, pid) for pid in found) == 0:
            return


def _kill_in(namespace: int, pid: int) -> bool:
    """Kill a process if it is in the namespace; return whether it was there and had not exited."""
    # Check before pidfd_open(2), to save that call for the many processes in other namespaces.
    if not _is_in(pid, namespace):
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Check again, because the pid may have been reused. A zombie still has its user namespace.
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
    """Return whether the process of a pidfd exits within `milliseconds`."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _is_in(pid: int, namespace: int) -> bool:
    try:
        current = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    except OSError:  # The process has exited, or belongs to another user.
        return False
    if _is_ours(current):
        os.close(current)
        return False
    wanted = os.fstat(namespace)
    try:
        while not os.path.samestat(os.fstat(current), wanted):
            parent = parent_namespace(current).detach()
            os.close(current)
            current = parent
    except OSError:  # EPERM: `wanted` is not an ancestor of the process's namespace.
        return False
    finally:
        os.close(current)
    return True
