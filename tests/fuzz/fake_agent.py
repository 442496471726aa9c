"""Fake agent: a thread of the test that answers with given messages."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from usernsctl._system.descriptors import socket_pair
from usernsctl.gvisor.agent.commands import AgentCache
from usernsctl.gvisor.agent.popen import CommandSpec, Place, SandboxPopen
from usernsctl.gvisor.agent.protocol import Agent

HEADER = struct.Struct("<IHH8IHHQ")
STARTED = struct.pack("<HHi", 1, 0, 4711)
ENDED = struct.pack("<HHiQQQ", 3, 0, 7 << 8, 1, 2, 3)

# Messages that the fake agent sends to a command's socket, in order. None closes the socket.
Answers = list[bytes | None]


@dataclass
class ReceivedMessage:
    """A received message, and the descriptors that came with it."""

    message: bytes
    fds: list[int]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def receive(connection: socket.socket) -> ReceivedMessage | None:
    data, parts, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(64))
    fds = array.array("i")
    for _, _, content in parts:
        fds.frombytes(content)
    if not data:
        return None
    return ReceivedMessage(data, list(fds))


class FakeAgent:
    """Fake agent that handles each command's socket with the function `answer`.

    :ivar place: the object to pass to SandboxPopen(), so that this agent runs the command.
    """

    def __init__(self, answer: Callable[[socket.socket], object], *, ended: bool = False) -> None:
        self._answer = answer
        self.asked: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        error = ValueError("the sandbox has ended") if ended else None
        self.holder = AgentCache(self._start)
        get, current = self.holder.get, self.holder.current
        self.place = Place(
            "box", get, current, lambda: error, lambda lost: None, lambda: None, lambda: None
        )

    def _start(self, deadline: float) -> Agent:
        ours, theirs = socket_pair()
        self._connections.append(theirs)
        thread = threading.Thread(target=self._serve, args=[theirs])
        self._threads.append(thread)
        thread.start()
        return Agent(ours, 2)

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.ExitStack() as held:
            while True:
                try:
                    asked = receive(connection)
                except OSError:
                    return
                if asked is None:
                    return
                self.asked.append(asked.message)
                own = socket.socket(fileno=asked.fds.pop(3))
                held.enter_context(own)
                asked.close()
                with contextlib.suppress(OSError):
                    self._answer(own)

    def popen(self, seconds: float = 20, **arguments: Any) -> SandboxPopen[Any]:
        wanted = CommandSpec(env=[b"A=b"])
        deadline = time.monotonic() + seconds
        return SandboxPopen[Any](self.place, wanted, ["x"], deadline=deadline, **arguments)

    def close(self) -> None:
        self.holder.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


@contextlib.contextmanager
def agent(answer: Callable[[socket.socket], object], **options: Any) -> Iterator[FakeAgent]:
    fake = FakeAgent(answer, **options)
    try:
        yield fake
    finally:
        fake.close()


def send_messages(answers: Answers) -> Callable[[socket.socket], None]:
    """Return the argument `answer` of :class:`FakeAgent` to send `answers` without blocking."""

    def answer(own: socket.socket) -> None:
        own.setblocking(False)
        for one in answers:
            if one is None:
                own.close()
                return
            own.send(one)

    return answer
