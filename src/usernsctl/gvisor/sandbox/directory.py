"""A sandbox's directory, the reason for the sandbox's end, and the pipes to its command."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from usernsctl import _core
from usernsctl._core import messages
from usernsctl._system.descriptors import Shared, pollable
from usernsctl._system.paths import make_private
from usernsctl.commands.popen import Popen
from usernsctl.errors import NamespaceError, RunscError, UsernsError
from usernsctl.gvisor.agent.start import ProcessDefaults
from usernsctl.gvisor.launch.network import words_for
from usernsctl.gvisor.launch.steps import BOXES, CRASH_DIRECTORY
from usernsctl.gvisor.runsc import logs
from usernsctl.gvisor.runsc.command import (
    CRASHED,
    RunOptions,
    command_line,
    create_debug_logs,
    make_log_directory,
    private_log_paths,
    seen_from,
)
from usernsctl.gvisor.sandbox.host_namespace import HostNamespace
from usernsctl.gvisor.sandbox.records import (
    STATE,
    SandboxEnd,
    duplicate_id,
    open_activity,
    read_report,
)


class PopenStreams:
    """The caller's ends of the pipes to a process. They are closed once no thread uses them.

    close() may be called while another thread is in communicate(). If close() closed the pipes at
    once, their descriptor numbers could be reused for other files, from which communicate() would
    read.
    """

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._is_closed = False

    def communicate(
        self, popen: Popen[bytes], input: Any, timeout: float | None
    ) -> tuple[Any, Any]:
        """Call :meth:`subprocess.Popen.communicate`, and keep the pipes open during the call.

        :raises TimeoutExpired: as :meth:`subprocess.Popen.communicate` does.
        """
        user = object()
        try:
            self._users.add(user)
            return popen.communicate(input, pollable(timeout))
        finally:
            self._users.discard(user)
            if self._is_closed:
                self.close(popen)

    def close(self, popen: Popen[bytes]) -> None:
        """Close the pipes once no thread is in :meth:`communicate`."""
        self._is_closed = True
        if not self._users:
            close_streams(popen)


def close_streams(popen: Popen[bytes]) -> None:
    """Close the caller's ends of the pipes to a command."""
    for stream in (popen.stdin, popen.stdout, popen.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class EndReport:
    """The reason why a sandbox was killed: a limit, or lack of memory.

    :ivar end: the reason why the sandbox was killed; ``None`` while the sandbox runs, or if it
        ended without such a reason.
    """

    def __init__(self, *, is_limited: bool) -> None:
        """Read the OOM kill counter; :meth:`await_end` compares later values with the first.

        :param is_limited: whether the sandbox can have limits.
        """
        self.end: SandboxEnd | None = None
        self._is_limited = is_limited
        self._kills = self._count()

    def _count(self) -> int:
        # With limits, read the OOM kill counter of the whole host instead of that of this process's
        # cgroup, because the sandbox may be in a cgroup of its own.
        return _core.oom_kills(of_machine=self._is_limited)

    def error(self) -> RunscError | None:
        """Return the error for :attr:`end`, the reason for the kill; ``None`` if `end` is None."""
        return None if self.end is None else self.end.error("sandbox")

    def await_end(self, ends_within: Callable[[float], bool], *, is_gone: bool) -> None:
        """Wait for the sandbox to end, at most `_OOM_SECONDS`, if it may have exceeded a limit.

        The watcher may kill the sandbox some time after a command in it has failed.

        :param ends_within: a function that waits for the sandbox to end; its argument is the
            timeout, in seconds.
        :param is_gone: whether the exit status of the command is unknown; the sandbox has then
            probably ended.
        """
        kills = self._count()
        if kills > self._kills or (is_gone and self._is_limited):
            self._kills = kills
            ends_within(_OOM_SECONDS)


_CONSOLE = "console"

# The timeout for a sandbox to end after an OOM kill, in seconds. The watcher reads the OOM
# kill counter twice a second (csrc/programs/shared/oom_watch.c).
_OOM_SECONDS = 2

#: The maximum size of an error report of usernsctl-init or usernsctl-detach, in bytes.
ERROR_BYTES = 1 << 14


class SandboxDirectory:
    """A sandbox's directory in the tmpfs of a SandboxHost, named by the sandbox's id."""

    def __init__(
        self, host: HostNamespace, id: str, config: bytes, image: str | None = None
    ) -> None:
        """Create the directory, with its subdirectories and config.json.

        :param config: the content of config.json.
        :param image: the path of a checkpoint to restore, in the mount namespace of the host.
        :raises ValueError: the host is closed.
        :raises RunscError: another sandbox of the host has the same id.
        :raises NamespaceError: a file can't be written.
        """
        self._host = host
        self.id = id
        #: The path of the directory in the mount namespace of the host.
        self.inside: str = f"{host.prepared.scratch}/{BOXES}/{id}"
        self.pid_file: str = f"{self.inside}/pid"
        self._config = config.decode()
        self._image = image
        # Open a descriptor that stays open even if the SandboxHost is closed while the sandbox
        # runs.
        self._top = host.open_directory()
        self._exists = False
        self._console = False
        try:
            self._make(config)
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError) and not isinstance(error, UsernsError):
                what = f"can't create the files of the sandbox {id}"
                raise NamespaceError.from_os_error(error, what, step="sandbox") from error
            raise

    @functools.cached_property
    def inherited(self) -> ProcessDefaults:
        """The settings that all commands of the sandbox share."""
        return ProcessDefaults.of_config(json.loads(self._config))

    def _make(self, config: bytes) -> None:
        self._remove_leftovers()
        try:
            make_private(self.id, self._top.fd)
        except FileExistsError as error:
            raise duplicate_id(f"sandbox {self.id!r} of this host") from error
        except BaseException:
            # A signal handler may have raised an exception just after mkdir(2). rmdir(2) removes
            # only an empty directory, and a directory in use is not empty.
            with contextlib.suppress(OSError):
                os.rmdir(self.id, dir_fd=self._top.fd)
            raise
        self._exists = True
        for name in ("state", "log"):
            make_private(f"{self.id}/{name}", self._top.fd)
        # The path, below /proc/self/fd, of the directory for runsc's logs.
        own = f"{self._here}/{self.id}/log"
        debug_log = self._host.request.debug_log
        if debug_log is None:
            make_log_directory(f"{self.id}/log", self._top.fd)
            self._logs = private_log_paths(own, f"{self._here}/{CRASH_DIRECTORY}/{self.id}")
        else:
            with NamespaceError.instead(debug_log, step="sandbox"):
                self._logs = create_debug_logs(f"{self._here}/../debug-log", own)
        # open() calls an opener from C, so no signal handler runs before the file object owns the
        # descriptor.
        opener = functools.partial(os.open, mode=0o600, dir_fd=self._top.fd)
        with open(f"{self.id}/config.json", "xb", opener=opener) as file:
            # Set the mode explicitly, because the umask may have removed runsc's read permission.
            os.fchmod(file.fileno(), 0o600)
            file.write(config)

    def command(self, state: str, disk: str | None = None, ports: Sequence[str] = ()) -> list[str]:
        """Return the argv that starts the sandbox and writes its pid to :attr:`pid_file`.

        :param state: the directory for runsc's state.
        :param disk: the directory in which gVisor stores writes to the root filesystem, or ``None``
            for memory.
        :param ports: the options of usernsctl-network for published ports.
        """
        network, words = self._host.network_with(ports)
        *arguments, bundle, id = command_line(
            self._host.runsc,
            RunOptions(
                state=state,
                bundle=self.inside,
                container_id=self.id,
                logs=seen_from(self._logs, self._here, f"{self._host.prepared.scratch}/{BOXES}"),
                network=network,
                platform=self._host.request.platform,
                debug=self._host.request.debug_log is not None,
                disk=disk,
                image=self._image,
            ),
        )
        console = [f"--console-socket={self.inside}/{_CONSOLE}"] if self._console else []
        made = words_for(words, f"{self._host.prepared.scratch}/programs") if words else []
        return [*made, *arguments, "--detach", f"--pid-file={self.pid_file}", *console, bundle, id]

    @contextlib.contextmanager
    def listening(self) -> Iterator[socket.socket]:
        """Listen on a Unix socket, to which runsc will send the master of the pseudoterminal.

        :raises OSError: the socket can't be created.
        """
        with socket.socket(socket.AF_UNIX) as console:
            console.bind(f"{self._here}/{self.id}/{_CONSOLE}")
            # Set the mode explicitly: connect(2) needs write permission (unix(7)), which the umask
            # may have removed.
            os.chmod(f"{self.id}/{_CONSOLE}", 0o600, dir_fd=self._top.fd)
            console.listen(1)
            self._console = True
            yield console

    @property
    def _here(self) -> str:
        """The path, in /proc/self/fd, of the directory that contains all sandboxes' directories."""
        return f"/proc/self/fd/{self._top.fd}"

    def read_pid(self) -> int:
        """Read the sandbox's pid from :attr:`pid_file`, to which runsc has written it."""
        with open(f"{self.id}/pid", opener=functools.partial(os.open, dir_fd=self._top.fd)) as file:
            return int(file.read())

    def read_end(self) -> SandboxEnd | None:
        """Return why the watcher (the enforcer of limits) killed the sandbox, or ``None``."""
        return SandboxEnd.parse(read_report(f"{self.id}/end", self._top.fd))

    def open_activity(self) -> Shared | None:
        """Open the sandbox's activity file; return None if the sandbox has no idle timeout."""
        return open_activity(f"{self.id}/activity", self._top.fd)

    def failure(
        self,
        status: int,
        answer: bytes = b"",
        end: SandboxEnd | None = None,
        entry: str | None = None,
    ) -> UsernsError:
        """Return the error for a sandbox that could not be started, with runsc's message.

        :param status: the exit status of usernsctl-init or usernsctl-detach.
        :param answer: the fields of an error that occurred before the start of runsc, or empty.
        :param end: why the watcher killed a detached sandbox, or ``None``.
        :param entry: the path of the entry of a detached sandbox in the state directory. runsc's
            message names its working directory, and this error the entry's directory ``state``.
        """
        fields = answer.split(b"\0")[:-1]
        if len(fields) == _core.FAILURE_FIELDS:
            return _core.failure(fields)
        if end is None:
            end = self.read_end()
        if end is not None:
            return end.error("runsc")
        message = logs.read_failure(self._logs)
        if message is None and status == CRASHED:
            return messages.explain_silent_runsc(status)
        if message is None:
            return RunscError(
                f"runsc ended with status {status} before the sandbox started", step="runsc"
            )
        if entry is not None:
            message = message.replace("/proc/self/cwd/", f"{entry}/{STATE}/")
        return messages.explain_runsc(message, config=self._config)

    def remove(self) -> None:
        """Remove the directory, so that the sandbox's id can be reused.

        If the removal fails, for example with EMFILE, it is repeated when the SandboxHost starts
        its next sandbox.
        """
        if self._exists:
            if not self._remove(self.id):
                self._host.unremoved.add(self.id)
            self._exists = False
        self.release()

    def _remove_leftovers(self) -> None:
        """Remove the directories that could not be removed when their sandboxes ended."""
        for id in list(self._host.unremoved):
            # Take the id out of the set first, so that only one thread removes the directory. If
            # two threads did, the second could remove the directory of a new sandbox with this id.
            with contextlib.suppress(KeyError):
                self._host.unremoved.remove(id)
                if not self._remove(id):
                    self._host.unremoved.add(id)

    def _remove(self, id: str) -> bool:
        """Remove the directory of the sandbox `id`; return whether it no longer exists."""
        shutil.rmtree(id, ignore_errors=True, dir_fd=self._top.fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{CRASH_DIRECTORY}/{id}", dir_fd=self._top.fd)
        try:
            os.stat(id, dir_fd=self._top.fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def release(self) -> None:
        """Close the descriptor without removing the sandbox's directory."""
        self._top.close()
