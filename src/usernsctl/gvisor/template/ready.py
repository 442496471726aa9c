"""When a command is ready to be saved."""

from __future__ import annotations

import os
import re
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from usernsctl._records import dataclass
from usernsctl._system.descriptors import wait_readable
from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.errors import CommandError, CommandNotADirectoryError, CommandNotFoundError
from usernsctl.gvisor.agent import seconds_left
from usernsctl.gvisor.agent_popen import SandboxPopen
from usernsctl.gvisor.decide import AGENT_INSIDE
from usernsctl.gvisor.sandbox import Sandbox
from usernsctl.gvisor.template.errors import not_ready

# How often it is looked whether it is, in seconds.
_LOOK_SECONDS = 0.02

# What is kept of an output to look for a line in, and to tell what went wrong.
_TAIL_BYTES = 1 << 16

# A listening socket in /proc/net/tcp (proc(5)): the local port, and the state.
_LISTENING = re.compile(rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ", re.MULTILINE)

# More than there is of any sandbox's sockets.
_SHOWN_MAX = 16 << 20

#: What tells that a command is ready.
AnyReady: TypeAlias = str | Callable[[Sandbox], object]


@dataclass(frozen=True, slots=True)
class Ready:
    """What tells that a command is ready.

    :ivar kind: ``"line"``, ``"file"``, ``"port"`` or ``"call"``.
    :ivar what: the line, the path, the port or what is to be called.
    """

    kind: str
    what: Any

    @classmethod
    def of(cls, given: Any) -> Ready:
        """Read what a caller says.

        :raises TypeError: it is something else.
        :raises ValueError: likewise.
        """
        if callable(given):
            return cls("call", given)
        if not isinstance(given, str):
            raise TypeError(f"ready must be text, or something to call, not {given!r}")
        kind, colon, what = given.partition(":")
        if kind not in ("line", "file", "port") or not colon:
            kind, what = ("file" if given.startswith("/") else "line"), given
        if kind == "port":
            if not re.fullmatch(r"[0-9]{1,5}", what) or not 0 < int(what) < 1 << 16:
                raise ValueError(f"ready: {what!r} is no port: 1 to 65535 are")
            return cls(kind, int(what))
        if kind == "file" and not what.startswith("/"):
            raise ValueError(f"ready: {what!r} is no absolute path")
        if not what or "\n" in what or "\0" in what:
            raise ValueError(f"ready: {what!r} can't be {'a path' if kind == 'file' else 'a line'}")
        return cls(kind, what)

    def wait(self, box: Sandbox, told: Told, deadline: float | None) -> None:
        """Wait until the command is ready.

        :param deadline: until when, by the monotonic clock.
        :raises RunscError: it ended before.
        :raises TimeoutExpired: it was not ready in time.
        :raises BaseException: what is called raises.
        """
        if self.kind == "call":
            self.what(box)
        else:
            while not self._is_reached(box, told, deadline):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutExpired(box.args, 0)
                if box.poll() is not None and not self._is_reached(box, told, deadline):
                    raise self._ended(box, told)
                told.news.wait(_LOOK_SECONDS)
        if box.poll() is not None:
            raise self._ended(box, told)

    def _is_reached(self, box: Sandbox, told: Told, deadline: float | None) -> bool:
        try:
            if self.kind == "line":
                return told.has_line(os.fsencode(self.what))
            if self.kind == "file":
                return _has_file(box, self.what)
            return _listens(box, self.what, deadline)
        except CommandError:
            if box.poll() is None:
                raise
            return False

    def _ended(self, box: Sandbox, told: Told) -> Exception:
        status = box.wait()
        said = told.last_line()
        why = f"the command of the template ended with status {status} before it was ready"
        return not_ready(f"{why}: {said}" if said else why)


def _has_file(box: Sandbox, path: str) -> bool:
    """Whether there is a file inside, without any program of the root filesystem's."""
    try:
        # There is no such program: a file has nothing in it.
        box.run([f"{AGENT_INSIDE}/"], cwd=path)
    except (CommandNotFoundError, CommandNotADirectoryError) as error:
        return error.filename != path or isinstance(error, CommandNotADirectoryError)
    return True


def _listens(box: Sandbox, port: int, deadline: float | None) -> bool:
    files = ["/proc/net/tcp", "/proc/net/tcp6"]
    try:
        cat = box.popen(["cat", *files], stdout=PIPE, stderr=DEVNULL)
    except CommandNotFoundError as error:
        raise not_ready(
            "the ports that are listened on are read by cat(1), and the root filesystem has none",
            "let ready be a line, a file, or something to call",
        ) from error
    with cat:
        try:
            shown = _read(cat, deadline)
        finally:
            cat.kill_tree()
    return any(int(found, 16) == port for found in _LISTENING.findall(shown))


def _read(cat: SandboxPopen[bytes], deadline: float | None) -> bytes:
    """What cat(1) writes: whatever the root filesystem has by that name, there is an end to it."""
    assert cat.stdout is not None
    fd, shown = cat.stdout.fileno(), bytearray()
    while wait_readable(fd, timeout=seconds_left(deadline)):
        data = os.read(fd, _TAIL_BYTES)
        if not data:
            return bytes(shown)
        shown += data
        if len(shown) > _SHOWN_MAX:
            raise not_ready(
                "cat(1) of the root filesystem shows no list of ports, but writes without an end",
                "let ready be a line, a file, or something to call",
            )
    raise TimeoutExpired(cat.args, 0)


class Told:
    """What a command writes to its standard output and error, read in a thread of its own.

    Somebody has to read it, or the command would wait.

    :ivar news: is set for a moment whenever there is more.
    """

    def __init__(self, box: Sandbox) -> None:
        """Begin to read."""
        self.news = threading.Event()
        self._tails = {"stdout": b"\n", "stderr": b"\n"}
        self._streams = {name: getattr(box, name) for name in self._tails}
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._read, name="usernsctl-template")
        self._thread.start()

    def _read(self) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self._stop, selectors.EVENT_READ)
            for name, stream in self._streams.items():
                selector.register(stream, selectors.EVENT_READ, name)
            while len(selector.get_map()) > 1:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    data = os.read(key.fd, _TAIL_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    self._tails[key.data] = (self._tails[key.data] + data)[-_TAIL_BYTES:]
                    self.news.set()
                    self.news.clear()

    def has_line(self, line: bytes) -> bool:
        """Whether a line was written to standard output."""
        return b"\n" + line + b"\n" in self._tails["stdout"].replace(b"\r\n", b"\n")

    def last_line(self) -> str:
        """The last line that was written to standard error, or else to standard output."""
        self._thread.join(_LOOK_SECONDS * 50)
        for name in ("stderr", "stdout"):
            if text := self._tails[name].decode(errors="replace").strip():
                return text.rpartition("\n")[2][-200:]
        return ""

    def close(self) -> None:
        """Read no more."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
