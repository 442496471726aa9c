"""The files of a sandbox on the host, and our ends of the pipes to its processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
from collections.abc import Iterator
from typing import Any

from usernsctl import _core
from usernsctl.commands.popen import Popen
from usernsctl.errors import NamespaceError, RunscError
from usernsctl.gvisor.agent.start import ProcessDefaults
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
from usernsctl.gvisor.sandbox.records import duplicate_id


class PopenStreams:
    """Our ends of the pipes of a process, closed once no thread communicates by them.

    Another thread may close them meanwhile: communicate() sees the end of them, since the process
    has ended, and must not find other files under their numbers.
    """

    def __init__(self) -> None:
        self._users: set[object] = set()
        self._is_let_go = False

    def communicate(
        self, popen: Popen[bytes], input: Any, timeout: float | None
    ) -> tuple[Any, Any]:
        """Call Popen.communicate().

        :raises TimeoutExpired: as that does.
        """
        user = object()
        try:
            self._users.add(user)
            return popen.communicate(input, timeout)
        finally:
            self._users.discard(user)
            if self._is_let_go:
                self.close(popen)

    def close(self, popen: Popen[bytes]) -> None:
        """Close the pipes once no thread communicates by them."""
        self._is_let_go = True
        if not self._users:
            close_streams(popen)


def close_streams(popen: Popen[bytes]) -> None:
    """Close our ends of the pipes to a command."""
    for stream in (popen.stdin, popen.stdout, popen.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


_CONSOLE = "console"


class SandboxDirectory:
    """The directory of a sandbox, named by its id, with a bundle in it."""

    def __init__(
        self, host: HostNamespace, id: str, config: bytes, image: str | None = None
    ) -> None:
        """Make the directory.

        :param config: what goes into config.json.
        :param image: the directory of a checkpoint that the sandbox goes on from, by its path
            inside.
        :raises ValueError: the host is closed.
        :raises RunscError: another sandbox of the host has that id.
        :raises NamespaceError: it can't be written.
        """
        self._host = host
        self.id = id
        #: The same for those in the mount namespace of the host.
        self.inside: str = f"{host.prepared.scratch}/{BOXES}/{id}"
        self.pid_file: str = f"{self.inside}/pid"
        self._config = config.decode()
        self._image = image
        # Of our own, so that the host may be closed meanwhile.
        self._top = host.open_directory()
        self._is_made = False
        self._console = False
        try:
            self._make(config)
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError) and not isinstance(error, RunscError):
                raise NamespaceError(
                    f"the files of the sandbox: {error.strerror}",
                    step="sandbox",
                    errno=error.errno or 0,
                ) from error
            raise

    @functools.cached_property
    def inherited(self) -> ProcessDefaults:
        """What all commands of the sandbox have in common."""
        return ProcessDefaults.of_config(json.loads(self._config))

    def _make(self, config: bytes) -> None:
        self._remove_left()
        try:
            os.mkdir(self.id, 0o700, dir_fd=self._top)
        except FileExistsError as error:
            raise duplicate_id(self.id, "in this host") from error
        self._is_made = True
        for name in ("state", "log"):
            os.mkdir(f"{self.id}/{name}", 0o700, dir_fd=self._top)
        #: Where runsc writes, by our descriptor.
        own = f"{self._here}/{self.id}/log"
        if self._host.request.debug_log is None:
            make_log_directory(f"{self.id}/log", self._top)
            self._logs = private_log_paths(own, f"{self._here}/{CRASH_DIRECTORY}/{self.id}")
        else:
            self._logs = create_debug_logs(f"{self._here}/../debug-log", own)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(f"{self.id}/config.json", flags, 0o600, dir_fd=self._top), "wb") as file:
            file.write(config)

    def command(self, state: str) -> list[str]:
        """Return the command that starts the sandbox and writes its pid to :attr:`pid_file`.

        :param state: the directory for runsc's state.
        """
        *words, bundle, id = command_line(
            self._host.runsc,
            RunOptions(
                state=state,
                bundle=self.inside,
                container_id=self.id,
                logs=seen_from(self._logs, self._here, f"{self._host.prepared.scratch}/{BOXES}"),
                network=self._host.request.network,
                platform=self._host.request.platform,
                debug=self._host.request.debug_log is not None,
                image=self._image,
            ),
        )
        console = [f"--console-socket={self.inside}/{_CONSOLE}"] if self._console else []
        return [*words, "--detach", f"--pid-file={self.pid_file}", *console, bundle, id]

    @contextlib.contextmanager
    def listening(self) -> Iterator[socket.socket]:
        """Open a socket for a block, to which runsc sends our end of the command's terminal.

        :raises OSError: it can't be made.
        """
        with socket.socket(socket.AF_UNIX) as console:
            console.bind(f"{self._here}/{self.id}/{_CONSOLE}")
            console.listen(1)
            self._console = True
            yield console

    @property
    def _here(self) -> str:
        """The directory of all sandboxes, by our descriptor."""
        return f"/proc/self/fd/{self._top}"

    def read_pid(self) -> int:
        """Read :attr:`pid_file`."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        with open(os.open(f"{self.id}/pid", flags, dir_fd=self._top)) as file:
            return int(file.read())

    def failure(self, status: int) -> RunscError:
        """Return the error that the sandbox did not start, with runsc's message.

        :param status: the exit status of who should have started it.
        """
        told = logs.read_failure(self._logs)
        if told is None and status == CRASHED:
            return _core.explain_silent_runsc(status)
        if told is None:
            return RunscError(f"runsc ended with status {status} before it started", step="runsc")
        return _core.explain_runsc(told, config=self._config)

    def remove(self) -> None:
        """Remove the directory, which frees the id.

        If no descriptors are left for that, the next sandbox does it.
        """
        if self._is_made:
            if not self._remove(self.id):
                self._host.left.add(self.id)
            self._is_made = False
        self.let_go()

    def _remove_left(self) -> None:
        """Remove directories that could not be removed before."""
        for id in list(self._host.left):
            # Nobody else does so meanwhile: there may be a new directory of that name then.
            with contextlib.suppress(KeyError):
                self._host.left.remove(id)
                if not self._remove(id):
                    self._host.left.add(id)

    def _remove(self, id: str) -> bool:
        """Remove the directory of a sandbox; return whether it is gone."""
        shutil.rmtree(id, ignore_errors=True, dir_fd=self._top)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{CRASH_DIRECTORY}/{id}", dir_fd=self._top)
        try:
            os.stat(id, dir_fd=self._top, follow_symlinks=False)
        except FileNotFoundError:
            return True
        return False

    def let_go(self) -> None:
        """Close the descriptor without removing the directory."""
        top, self._top = self._top, -1
        if top >= 0:
            os.close(top)

    def __del__(self) -> None:
        if hasattr(self, "_top"):
            self.let_go()
