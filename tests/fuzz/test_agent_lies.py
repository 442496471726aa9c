"""Tests of SandboxHost with messages of a compromised agent: no deadlock, leak or wrong result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from typing import Any

import pytest
from conftest import open_descriptors, settled_descriptors
from fake_agent import ENDED, HEADER, STARTED, agent, send_messages
from hypothesis import given, settings
from hypothesis import strategies as st

import usernsctl as un
from usernsctl._system.descriptors import socket_pair
from usernsctl.commands import aio
from usernsctl.gvisor.agent import protocol as wire
from usernsctl.gvisor.agent.commands import AgentCache
from usernsctl.gvisor.agent.popen import CommandSpec, Place, SandboxPopen
from usernsctl.gvisor.agent.protocol import (
    Agent,
    AgentClosed,
    AgentTimeout,
    AgentUnresponsive,
    receive_hello,
)

PATIENCE = 20
EXAMPLES = settings(max_examples=150)

words = st.binary(max_size=300)
# Most generated messages are almost valid.
events = st.one_of(
    words,
    st.builds(
        lambda kind, zero, value, rest: struct.pack("<HHi", kind, zero, value) + rest,
        st.integers(0, 5),
        st.sampled_from([0, 0, 0, 1, 65535]),
        st.one_of(st.integers(-5, 300), st.integers(-(2**31), 2**31 - 1)),
        st.one_of(
            st.just(b""), st.binary(min_size=4, max_size=4), st.binary(min_size=24, max_size=24)
        ),
    ),
)


@given(events)
@EXAMPLES
def test_only_possible_starts_and_ends_are_decoded(message: bytes) -> None:
    with contextlib.suppress(wire.ProtocolError):
        start = wire.read_start(message)
        if isinstance(start, wire.Started):
            assert 0 < start.pid < 2**31
        else:
            assert 0 < start.errno < 4096
    with contextlib.suppress(wire.ProtocolError):
        end = wire.read_end(message)
        assert -64 <= end.returncode <= 255
        assert len(message) == 32


def test_status_is_decoded_like_that_of_wait() -> None:
    exits = {code << 8 for code in range(256)}
    signals = {number | core for number in range(1, 65) for core in (0, 0x80)}
    for status in range(1 << 16):
        message = struct.pack("<HHiQQQ", 3, 0, status, 0, 0, 0)
        if status in exits | signals:
            assert wire.read_end(message).returncode == os.waitstatus_to_exitcode(status)
        else:
            with pytest.raises(wire.ProtocolError):
                wire.read_end(message)


commands = st.builds(
    wire.Command,
    args=st.lists(words, min_size=1, max_size=5),
    program=st.none() | words,
    cwd=words,
    env=st.lists(words, max_size=5),
    user=st.none() | st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
    groups=st.none() | st.lists(st.integers(0, 2**32 - 2), max_size=9),
    rlimits=st.lists(
        st.tuples(st.integers(0, 15), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        max_size=3,
    ),
    umask=st.integers(0, 0o777),
    flags=st.sampled_from((0, wire.NEW_SESSION, wire.NEW_GROUP | wire.TERMINAL)),
    size=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
    capabilities=st.integers(0, 2**64 - 1),
)


@given(commands)
@EXAMPLES
def test_encoded_command_can_be_decoded(command: wire.Command) -> None:
    every = [command.cwd, *([] if command.program is None else [command.program]), *command.args]
    every += command.env
    try:
        head, apart = wire.encode(command)
    except ValueError:
        assert any(b"\0" in word for word in every)
        return
    magic, version, flags, uid, gid, groups, limits, args, env, size, umask, *rest = (
        HEADER.unpack_from(head)
    )
    assert (magic.to_bytes(4, "little"), version) == (b"CMND", 1)
    assert (bool(flags & 16), (uid, gid)) == (command.user is not None, command.user or (0, 0))
    count = 0 if command.groups is None else len(command.groups)
    assert groups == (0xFFFFFFFF if command.groups is None else count)
    assert (limits, args, env) == (len(command.rlimits), len(command.args), len(command.env))
    assert (umask, *rest) == (command.umask, *command.size, command.capabilities)
    text = head[HEADER.size + 4 * count + 20 * limits :] + apart
    assert len(text) == size
    assert text.split(b"\0")[:-1] == every
    assert bool(flags & 8) == (command.program is not None)


def test_long_arguments_are_sent_apart_and_too_long_ones_raise() -> None:
    head, apart = wire.encode(wire.Command(args=[b"x" * 40_000]))
    assert len(head) == HEADER.size
    assert apart == b"/\0" + b"x" * 40_000 + b"\0"
    with pytest.raises(OSError, match="too long"):
        wire.encode(wire.Command(args=[b"x" * (2 << 20)]))


def outcome_timeout(answers: list[bytes | None], short: float) -> float:
    """Return PATIENCE if the first `answers` end a command or its start, else `short` (seconds)."""
    begin = (answers[:1], answers[:2])
    is_end = begin[0] in ([None], [b""]) or begin[1] in ([STARTED, ENDED], [STARTED, None])
    return PATIENCE if is_end else short


def outcome(answers: list[bytes | None]) -> Any:
    """Start a command whose agent sends `answers`; return exit status, exception, or "silent"."""
    with agent(send_messages(answers)) as fake:
        try:
            with fake.popen(outcome_timeout(answers, 0.2)) as process:
                try:
                    return process.wait(outcome_timeout(answers, 0.05))
                except un.TimeoutExpired:
                    process._abandon()
                    return "silent"
        except (un.CommandError, un.RunscError) as error:
            return error


@given(st.lists(st.one_of(st.none(), events, st.just(STARTED), st.just(ENDED)), max_size=4))
@settings(max_examples=60)
def test_any_answers_of_the_agent_lead_to_an_end(answers: list[bytes | None]) -> None:
    before = settled_descriptors()
    begin = time.monotonic()
    found = outcome(answers)
    assert time.monotonic() - begin < PATIENCE
    assert open_descriptors() == before
    if answers[:2] == [STARTED, ENDED]:
        assert found == 7
    elif answers[:1] == [None] or answers[:1] == [b""]:
        assert "has ended before it started" in str(found)
    elif answers[:2] == [STARTED, None]:
        assert found == -signal.SIGKILL
    elif not answers:
        assert isinstance(found, AgentUnresponsive)


INVALID_MESSAGES = {
    "another kind": struct.pack("<HHi", 9, 0, 1),
    "too short": b"abc",
    "too long": STARTED + b"x",
    "huge": b"x" * 60_000,
    "pid 0": struct.pack("<HHi", 1, 0, 0),
    "an end before the start": ENDED,
    "errno 0": struct.pack("<HHiI", 2, 0, 0, 5),
    "no such step": struct.pack("<HHiI", 2, 0, 2, 99),
    "refused": struct.pack("<HHi", 4, 0, 22),
}


@pytest.mark.parametrize("forged", INVALID_MESSAGES.values(), ids=INVALID_MESSAGES)
def test_invalid_start_message_raises(forged: bytes) -> None:
    before = settled_descriptors()
    with agent(send_messages([forged])) as fake:
        with pytest.raises(un.RunscError, match="sent an invalid message") as caught:
            fake.popen(stdout=un.PIPE, stdin=un.PIPE)
        assert (caught.value.step, caught.value.cause) == ("agent", "sandbox-agent")
    assert open_descriptors() == before


@pytest.mark.parametrize("forged", [STARTED, b"abc", b"x" * 60_000, ENDED + b"x"])
def test_invalid_end_message_raises_once(forged: bytes) -> None:
    before = settled_descriptors()
    with agent(send_messages([STARTED, forged, ENDED])) as fake:
        process = fake.popen()
        with pytest.raises(un.RunscError, match="sent an invalid message"):
            process.wait(PATIENCE)
        assert process.wait() == process.poll() == -signal.SIGKILL
        process.terminate()
    assert open_descriptors() == before


def test_failed_start_raises_the_matching_exception() -> None:
    for number, step, kind, message in (
        (2, 8, FileNotFoundError, "lookup: x"),
        (2, 5, FileNotFoundError, "exec: x"),
        (13, 5, PermissionError, "exec: x"),
        (8, 5, un.CommandError, "exec: x"),
        (2, 2, FileNotFoundError, "chdir: /"),
        (20, 2, NotADirectoryError, "chdir: /"),
        (22, 3, un.CommandError, "ids: "),
        (1, 4, un.CommandError, "rlimits: "),
        (12, 6, un.CommandError, "fork: "),
    ):
        with (
            agent(send_messages([struct.pack("<HHiI", 2, 0, number, step)])) as fake,
            pytest.raises(kind, match=message),
        ):
            fake.popen()


def test_descriptors_sent_by_the_agent_are_closed() -> None:
    before = settled_descriptors()
    many = [os.dup(0) for _ in range(20)]

    def answer(own: socket.socket) -> None:
        for message in (STARTED, ENDED):
            try:
                socket.send_fds(own, [message], many)
            except PermissionError:
                # Since Linux 6.16, sendmsg(2) fails with EPERM if the receiver accepts no
                # descriptors (SO_PASSRIGHTS), so send the message without them.
                own.send(message)

    with agent(answer) as fake, fake.popen() as process:
        fds = os.listdir("/proc/self/fd")
        for _ in range(5):
            assert process.wait() == 7
        assert len(os.listdir("/proc/self/fd")) <= len(fds)
    for fd in many:
        os.close(fd)
    assert open_descriptors() == before


def test_flood_of_messages_is_not_read() -> None:
    def answer(own: socket.socket) -> None:
        own.send(STARTED)
        own.setblocking(False)
        while True:
            own.send(ENDED)

    with agent(answer) as fake, fake.popen() as process:
        assert process.wait(PATIENCE) == 7


def send_without_end(process: Any) -> None:
    while True:
        process.send_signal(signal.SIGUSR1)


def test_agent_that_reads_no_signals_raises_agentunresponsive() -> None:
    with agent(send_messages([STARTED])) as fake:
        process = fake.popen()
        with pytest.raises(AgentUnresponsive):
            send_without_end(process)
        process.kill()
        # Although this agent does not answer, wait() reports death by SIGKILL, as it does after a
        # closed connection.
        assert process.wait(PATIENCE) == -signal.SIGKILL


def test_signals_wait_for_a_slow_agent() -> None:
    orders = 1000

    def answer(own: socket.socket) -> None:
        own.send(STARTED)
        time.sleep(0.05)  # time in which the caller fills the socket's buffer
        for _ in range(orders):
            own.recv(100)
        own.send(ENDED)

    with agent(answer) as fake:
        process = fake.popen()
        for _ in range(orders):
            process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 7


def test_agent_that_reads_nothing_raises_at_the_deadline() -> None:
    ours, theirs = socket_pair()
    holder = AgentCache(lambda deadline: Agent(ours, 2))
    get, current = holder.get, holder.current
    place = Place("box", get, current, lambda: None, lambda lost: None, lambda: None, lambda: None)
    failed = 0
    with theirs:
        for _ in range(600):
            wanted = CommandSpec(env=[b"A=" + b"x" * 20_000])
            try:
                SandboxPopen[bytes](place, wanted, ["x"], deadline=time.monotonic() + 0.001)
            except AgentUnresponsive:
                failed += 1
        holder.close()
    assert failed == 600


def test_end_of_a_command_does_not_wait_for_a_silent_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usernsctl.gvisor.agent.popen._END_SECONDS", 0.1)
    with agent(send_messages([STARTED])) as fake:
        process = fake.popen()
        process._end()
        assert process.returncode == -signal.SIGKILL


def test_closed_agent_connection_is_replaced() -> None:
    with agent(send_messages([STARTED, ENDED])) as fake:
        assert fake.popen().wait() == 7
        for connection in fake._connections:
            connection.shutdown(socket.SHUT_RDWR)
        assert fake.popen().wait() == 7
        assert len(fake._connections) == 2


def test_start_in_an_ended_sandbox_raises_that_it_has_ended() -> None:
    with (
        agent(send_messages([None]), ended=True) as fake,
        pytest.raises(ValueError, match="has ended"),
    ):
        fake.popen()


@pytest.mark.parametrize(
    ("hello", "kind"),
    [
        (b"", AgentClosed),
        (b"AGNT", wire.ProtocolError),
        (struct.pack("<4sHHI", b"AGNT", 2, 0, 5), wire.ProtocolError),
        (struct.pack("<4sHHI", b"XXXX", 1, 0, 5), wire.ProtocolError),
        (struct.pack("<4sHHI", b"AGNT", 1, 0, 5) + b"x", wire.ProtocolError),
        (None, AgentTimeout),
    ],
)
def test_invalid_or_missing_greeting_of_the_agent_raises(
    hello: bytes | None, kind: type[Exception]
) -> None:
    ours, theirs = socket_pair()
    with ours, theirs:
        if hello is not None:
            theirs.send(hello)
        if hello == b"":
            theirs.close()
        with pytest.raises(kind):
            receive_hello(ours, time.monotonic() + 0.05)


@given(st.lists(st.one_of(st.none(), events, st.just(STARTED), st.just(ENDED)), max_size=3))
@settings(max_examples=30)
def test_any_answers_lead_to_an_end_in_asyncio(answers: list[bytes | None]) -> None:
    async def main() -> Any:
        begun = {"bufsize": 0, "is_awaited": False, "outlives": False, "stdout": un.PIPE}
        popen = fake.popen(outcome_timeout(answers, 0.2), **begun)
        await popen._start_async()
        async with await aio.connected(popen, 1000, un.SandboxProcess) as process:
            return await asyncio.wait_for(process.wait(), outcome_timeout(answers, 0.1))

    before = settled_descriptors()
    with agent(send_messages(answers)) as fake:
        try:
            found: Any = asyncio.run(asyncio.wait_for(main(), PATIENCE))
        except (un.CommandError, un.RunscError, TimeoutError) as error:
            found = error
    assert open_descriptors() == before
    if answers[:2] == [STARTED, ENDED]:
        assert found == 7
    elif answers[:2] == [STARTED, None]:
        assert found == -signal.SIGKILL
