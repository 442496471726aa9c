"""Minimal client of usernsctl-agent, written from the protocol's description in docs/agent.md."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

NEW_SESSION, TERMINAL, STRINGS_APART, PROGRAM, IDS, NEW_GROUP, CAPABILITIES = (
    1 << bit for bit in range(7)
)
STARTED, FAILED, ENDED, REFUSED = 1, 2, 3, 4
STRINGS, CWD, IDS_STEP, LIMITS, EXEC, FORK, TERMINAL_STEP, LOOKUP = range(1, 9)
TO_PROCESS, TO_GROUP, TO_TREE = 0, 1, 2
UNCHANGED = 0xFFFFFFFF
PATH = "PATH=/usr/bin:/bin"
#: Timeout in seconds for each message that the agent must send.
PATIENCE = 60


@dataclass(kw_only=True)
class Command:
    """Request to start a command, with the protocol's default values."""

    args: Sequence[str]
    env: Sequence[str] = (PATH,)
    cwd: str = "/"
    flags: int = 0
    ids: tuple[int, int] | None = None
    capabilities: int | None = None
    limits: Sequence[tuple[int, int, int]] = ()
    size: tuple[int, int] = (0, 0)
    stdio: dict[int, int] = field(default_factory=dict)

    def encode(self) -> tuple[bytes, bytes]:
        """Return the message of the request, and the strings to send after this message."""
        words = "".join(f"{word}\0" for word in (self.cwd, *self.args, *self.env)).encode()
        flags = self.flags
        flags |= IDS if self.ids is not None else 0
        flags |= CAPABILITIES if self.capabilities is not None else 0
        uid, gid = self.ids or (0, 0)
        header = struct.pack(
            "<4sHH8I2HQ",
            *(b"CMND", 1, flags, uid, gid, UNCHANGED, len(self.limits), len(self.args)),
            *(len(self.env), len(words), UNCHANGED, *self.size, self.capabilities or 0),
        )
        return header + b"".join(struct.pack("<IQQ", *limit) for limit in self.limits), words


class Running:
    """The client's end of a running command's socket."""

    def __init__(self, own: socket.socket, out: int | None) -> None:
        self.socket = own
        own.settimeout(PATIENCE)
        self.out = out

    def hear(self) -> tuple[int, ...] | None:
        """Receive the agent's next message; return its fields, or None at end of file."""
        answer = self.socket.recv(1000)
        if not answer:
            return None
        kind, zero, value = struct.unpack_from("<HHi", answer)
        assert zero == 0
        more = {FAILED: "<I", ENDED: "<3Q"}.get(kind, "<")
        assert len(answer) == 8 + struct.calcsize(more)
        return kind, value, *struct.unpack_from(more, answer, 8)

    def started(self) -> int:
        """Receive the message that the command has started; return the command's pid."""
        answer = self.hear()
        assert answer[0] == STARTED, answer
        return answer[1]

    def status(self) -> int:
        """Wait until the command exits; return its exit status, or -N if signal N killed it."""
        answer = self.hear()
        assert answer[0] == ENDED, answer
        return os.waitstatus_to_exitcode(answer[1])

    def tell(self, kind: int, to: int, value: int) -> None:
        self.socket.send(struct.pack("<HHi", kind, to, value))

    def signal(self, number: int, to: int = TO_PROCESS) -> None:
        self.tell(1, to, number)

    def line(self) -> bytes:
        """Read and return one line of the command's output."""
        assert self.out is not None
        text = b""
        while not text.endswith(b"\n"):
            text += self._read()
        return text

    def rest(self) -> bytes:
        """Read until all processes have closed the output pipe; return the rest of the output."""
        text = b""
        while part := self._read():
            text += part
        self.close_out()
        return text

    def _read(self) -> bytes:
        assert self.out is not None
        assert select.select([self.out], [], [], PATIENCE)[0], "neither output nor end of file"
        return os.read(self.out, 65536)

    def close_out(self) -> None:
        if self.out is not None:
            os.close(self.out)
        self.out = None

    def close(self) -> None:
        self.socket.close()
        self.close_out()


class Client:
    """The client's end of the agent's control socket."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        control.settimeout(PATIENCE)
        hello = control.recv(1000)
        magic, version, self.flags, self.pid = struct.unpack("<4sHHI", hello)
        assert (magic, version) == (b"AGNT", 1)

    def ask(self, command: Command) -> Running:
        """Start a command; return the client's end of its socket.

        By default, standard output is a pipe; standard input and standard error are /dev/null.
        """
        header, words = command.encode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out = None
        with contextlib.ExitStack() as undo:
            undo.enter_context(theirs)
            fds = [os.open(os.devnull, os.O_RDWR)] * 3
            undo.callback(os.close, fds[0])
            if 1 not in command.stdio:
                out, fds[1] = os.pipe()
                undo.callback(os.close, fds[1])
            for number, fd in command.stdio.items():
                fds[number] = fd
            fds.append(theirs.fileno())
            if command.flags & STRINGS_APART:
                fds.append(os.memfd_create("words"))
                undo.callback(os.close, fds[-1])
                os.write(fds[-1], words)
                os.lseek(fds[-1], 0, os.SEEK_SET)
                words = b""
            socket.send_fds(self.control, [header + words], fds)
        return Running(ours, out)

    @contextlib.contextmanager
    def running(self, *args: str, **options: object) -> Iterator[Running]:
        """Start a command; close the client's end of its socket after the ``with`` block."""
        one = self.ask(Command(args=args, **options))  # type: ignore[arg-type]
        with contextlib.closing(one):
            yield one

    def run(self, *args: str, **options: object) -> tuple[int, str]:
        """Run a command; return its exit status and output."""
        with self.running(*args, **options) as one:
            one.started()
            text = one.rest().decode()
            return one.status(), text

    def failure(self, *args: str, **options: object) -> tuple[int, ...]:
        """Check that a command fails to start; return the errno and the failed step's number."""
        with self.running(*args, **options) as one:
            answer = one.hear()
            assert answer[0] == FAILED, answer
            assert one.hear() is None
            return answer[1:]

    def close(self) -> None:
        self.control.close()


def kill_tree(one: Running) -> None:
    """Let the agent kill a command and its descendants; wait until the agent closes the socket."""
    one.signal(signal.SIGKILL, TO_TREE)
    while one.hear():
        pass
