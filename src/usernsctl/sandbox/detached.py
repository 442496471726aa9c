"""A sandbox that lives on when its creator ends: nobody holds it, and nobody waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from usernsctl import aio, hardening, identity
from usernsctl.errors import RunscError
from usernsctl.namespace import Namespace
from usernsctl.process import DEVNULL, PIPE, Popen, TimeoutExpired
from usernsctl.sandbox import environment, registry
from usernsctl.sandbox.confined import Confined
from usernsctl.sandbox.files import Files
from usernsctl.sandbox.held import close_streams
from usernsctl.waiting import wait_readable

if TYPE_CHECKING:
    from usernsctl.sandbox.host import SandboxHost

# ioctl_nsfs(2)
_NS_GET_PARENT = 0xB702


class Detached:
    """A detached sandbox, seen from any process of the same user.

    :ivar record: what is known of it.
    :ivar popen: what has started it, with our ends of its pipes; ``None`` if that was not us.
    :ivar runsc: the words that every command of runsc about the sandbox begins with.
    :ivar env: the environment of the command, each entry NAME=VALUE.
    """

    def __init__(
        self,
        entry: registry.Entry,
        record: registry.DetachedSandbox,
        popen: Popen[bytes] | None = None,
    ) -> None:
        """Hold it by descriptors.

        :raises NamespaceError: the kernel refused.
        """
        self.record = record
        self.popen = popen
        self.env = record.env
        self.runsc = [record.runsc, f"--root={entry.state}"]
        self.status: int | None = None
        self._entry = entry
        self._is_killed = False
        # Whoever looks at a descriptor holds it, since numbers are used again.
        self._lock = threading.Lock()
        self._inside: Namespace | None = None
        opened = [one.open() for one in record.processes]
        self._pidfds = [pidfd for pidfd in opened if pidfd is not None]
        self._pidfd = -1 if opened[0] is None else opened[0]
        try:
            if self._pidfd >= 0:
                self._inside = _namespace_of_runsc(record.pid)
        except BaseException:
            self.let_go()
            raise

    @classmethod
    def attach(cls, id: str) -> Detached:
        """Find one by its id.

        :raises RunscError: there is none.
        :raises NamespaceError: the state directory can't be used, or the kernel refused.
        """
        entry, record = registry.find(id)
        try:
            return cls(entry, record)
        except BaseException:
            entry.close()
            raise

    @classmethod
    def start(
        cls,
        host: SandboxHost,
        files: Files,
        id: str,
        args: tuple[str, ...],
        streams: Mapping[str, Any],
    ) -> Detached:
        """Start one, and return when it runs.

        :raises RunscError: runsc failed, or the id is taken.
        :raises NamespaceError: the kernel refused, or the state directory can't be used.
        """
        entry = registry.claim(id)
        made = None
        try:
            with _starter(host, files, entry, streams) as popen:
                record = registry.describe(
                    id, args, host.runsc, files.read_pid(), popen.pid, files.env
                )
                entry.write(record)
                made = cls(entry, record, popen)
            entry.unlock()
            return made
        except BaseException:
            if made is not None:
                made.close()
            elif entry.fd >= 0:
                entry.remove()
                entry.unlock()
                entry.close()
            raise

    def has_ended(self) -> bool:
        with self._lock:
            if self._pidfd >= 0 and not wait_readable(self._pidfd, timeout=0):
                return False
            self._see_end()
            return True

    def poll(self) -> int | None:
        return self._known_status() if self.has_ended() else None

    def wait(self, timeout: float | None) -> int:
        if self.has_ended():
            return self._known_status()
        with self._end() as end, self._waiter() as waiter:
            try:
                if not wait_readable(end, timeout=timeout):
                    assert timeout is not None
                    raise TimeoutExpired(self.runsc, timeout)
                if self.has_ended() and self.status is None:
                    self._take_answer(waiter.communicate()[0])
            finally:
                waiter.kill()
        return self._known_status()

    async def wait_async(self) -> int:
        if self.has_ended():
            return self._known_status()
        command, arguments = self._wait_command()
        with self._end() as end:
            async with await aio.create_subprocess_exec(*command, **arguments) as waiter:
                await aio.wait_for_end(end)
                if self.has_ended() and self.status is None:
                    self._take_answer((await waiter.communicate())[0])
                else:
                    waiter.kill()
        return self._known_status()

    @contextlib.contextmanager
    def _end(self) -> Iterator[int]:
        """A descriptor that can be read once the sandbox has ended, even if it is closed."""
        with self._lock:
            if self._pidfd >= 0:
                copy = fcntl.fcntl(self._pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
            else:
                copy = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield copy
        finally:
            os.close(copy)

    def _wait_command(self) -> tuple[list[str], dict[str, Any]]:
        return [*self.runsc, "wait", self.record.id], {
            "namespace": self.place(),
            "stdin": DEVNULL,
            "stdout": PIPE,
            "stderr": DEVNULL,
            "env": environment.RUNSC,
            "cwd": "/",
        }

    def _waiter(self) -> Popen[bytes]:
        command, arguments = self._wait_command()
        return Popen[bytes](command, **arguments)

    def _take_answer(self, answer: bytes) -> None:
        """Learn the exit status from what ``runsc wait`` has printed, if it knew."""
        with contextlib.suppress(LookupError, TypeError, ValueError):
            self.status = int(json.loads(answer)["exitStatus"])

    def _see_end(self) -> None:
        """Learn what there is to learn from processes that have ended."""
        if self._pidfd >= 0 and self.status is None:
            self.status = identity.collect(self._pidfd)
            if self.status is None and self._is_killed:
                self.status = 128 + signal.SIGKILL

    def _known_status(self) -> int:
        if self.status is None:
            raise RunscError(
                f"the sandbox {self.record.id} has ended, and its exit status is not known: "
                "nobody waited for it then",
                step="sandbox",
                cause="exit-status-unknown",
            )
        return self.status

    def kill(self) -> None:
        """End all that is in the sandbox, at once."""
        if not self.has_ended():
            with self._lock:
                self._is_killed = True
                if self._pidfd >= 0:
                    identity.kill(self._pidfd)

    def place(self) -> Confined | None:
        """What commands of runsc's join; ``None``: the sandbox has ended."""
        if self._inside is None or self.has_ended():
            return None
        return Confined(self._inside, hardening.for_run())

    def close(self) -> None:
        """End it, and remove what is known of it."""
        if self._entry.fd >= 0:
            self._entry.lock()
            self.kill()
            registry.end(self._pidfds)
            self._see_end()
            self._entry.remove()
            self._entry.unlock()
        self.let_go()

    def let_go(self) -> None:
        """Close our descriptors, and leave the sandbox alone."""
        with self._lock:
            self._pidfd = -1
            pidfds, self._pidfds = self._pidfds, []
            for pidfd in pidfds:
                os.close(pidfd)
        if self._inside is not None:
            self._inside.close()
        if self.popen is not None:
            close_streams(self.popen)
        self._entry.close()


@contextlib.contextmanager
def _starter(
    host: SandboxHost, files: Files, entry: registry.Entry, streams: Mapping[str, Any]
) -> Iterator[Popen[bytes]]:
    """Have a sandbox started. It stays only if the block comes to its end.

    Until then, the death of this process is the end of the sandbox, too (csrc/detach.c).
    """
    with contextlib.ExitStack() as opened:
        creator = os.pidfd_open(os.getpid())
        opened.callback(os.close, creator)
        ours, theirs = socket.socketpair()
        opened.enter_context(ours)
        numbers = [creator, theirs.fileno(), entry.fd]
        with theirs:
            popen = Popen[bytes](
                [host.prepared.detach, *map(str, numbers), entry.path, *files.command(entry.state)],
                namespace=Confined(host.namespace, host.restrictions),
                pass_fds=numbers,
                env=environment.RUNSC,
                cwd="/",
                # What a terminal sends to us is not meant for it.
                start_new_session=True,
                **streams,
            )
        try:
            wait_readable(ours.fileno(), popen.pidfd)
            if not _is_ready(ours):
                raise files.failure(popen.wait())
            yield popen
            ours.send(b"+")
            if popen.wait() != 0:
                raise files.failure(popen.returncode)
        except BaseException:
            with contextlib.suppress(OSError):
                ours.send(b"-")
            popen.wait()
            close_streams(popen)
            raise


def _is_ready(connection: socket.socket) -> bool:
    """Whether there is the byte that tells that the sandbox runs."""
    connection.setblocking(False)
    # A fork of this process may hold the other end open.
    with contextlib.suppress(BlockingIOError):
        return bool(connection.recv(1))
    return False


def _namespace_of_runsc(pid: int) -> Namespace | None:
    """The user namespace that runsc was started in: the parent of the sandbox's own.

    :returns: ``None`` if the sandbox has just ended.
    :raises NamespaceError: it can't be had.
    """
    try:
        own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        parent = fcntl.ioctl(own, _NS_GET_PARENT)
    finally:
        os.close(own)
    try:
        return Namespace.from_fd(parent)
    finally:
        os.close(parent)
