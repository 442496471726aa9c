"""Attacks by root in a sandbox on the agent, and by a fake agent on the sandbox's creator."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from callers import MAP_OF_SEVERAL, several_ids
from conftest import open_descriptors
from tally import Tally

import usernsctl as un
from usernsctl.gvisor.agent import commands, start

pytestmark = pytest.mark.userns_requires("runsc")

PATIENCE = 20
PYTHON = ["/usr/bin/python3", "-c"]

# Program that attacks the agent's processes and the agent's file, and prints the number of these
# processes, and each attack that succeeded.
ATTACK = """
import ctypes, os, signal, sys

libc = ctypes.CDLL(None, use_errno=True)
agents = []
for name in os.listdir("/proc"):
    if name.isdigit():
        try:
            words = open(f"/proc/{name}/cmdline").read()
        except OSError:
            continue
        if words.startswith("/.usernsctl-agent"):
            agents.append(int(name))
print(len(agents), "agents")
for pid in agents:
    for what, number in (("seize", 0x4206), ("attach", 16)):
        if libc.ptrace(number, pid, None, None) == 0:
            print(what)
    for file in ("mem", "environ", "fd", "root", "cwd"):
        try:
            if file == "fd":
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
                    print("opened", fd)
            elif file in ("root", "cwd"):
                pass
            else:
                with open(f"/proc/{pid}/{file}", "r+b" if file == "mem" else "rb") as opened:
                    if file == "mem":
                        opened.seek(0x400000)
                        print("mem", opened.write(opened.read(1)))
        except (OSError, ValueError):
            pass
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        if libc.kill(pid, number) == 0:
            print("signal", number)
try:
    with open("/.usernsctl-agent", "r+b") as file:
        file.write(b"x")
        print("file")
except OSError:
    pass
# Root inside may rename files in its root directory. The running agent must not be affected.
try:
    os.rename("/.usernsctl-agent", "/moved")
except OSError:
    pass
"""


def test_root_without_capabilities_can_not_reach_the_agent(
    host: un.SandboxHost, tally: Tally
) -> None:
    for _ in range(Tally.rounds(2, 20)):
        with host.start(["sleep", "1000"]) as box:
            for _ in range(3):
                output = box.check_output([*PYTHON, ATTACK], text=True, timeout=PATIENCE).split(
                    "\n"
                )
                assert int(output[0].split()[0]) >= 2, output
                tally.tried()
                for line in filter(None, output[1:]):
                    tally.succeeded(line)
                assert box.run(["true"], timeout=PATIENCE).returncode == 0


# Script that tries every method with which root without capabilities could replace the agent's
# program.
REPLACING = r"""
cat >/tmp/evil <<'END'
#!/bin/sh
grep CapEff /proc/self/status >/tmp/got
sleep 1000
END
chmod 755 /tmp/evil
agent=/.usernsctl-agent
mv $agent /tmp/moved
rm -f $agent
mv /tmp/evil /tmp/other; cp /tmp/other /tmp/evil; mv -f /tmp/evil $agent
cp -f /tmp/other $agent
cat /tmp/other >$agent
ln -sf /tmp/other $agent
mount --bind /tmp/other $agent
umount -l $agent
unshare -Urm sh -c "umount -l $agent; mount --bind /tmp/other $agent; sleep 1000" &
unshare -Urm sh -c "mount -t tmpfs none /; sleep 1000" &
sleep 0.2
echo done
exec sleep 1000
"""


def test_root_can_not_replace_the_agent(host: un.SandboxHost, tally: Tally, runtime: Path) -> None:
    """Check that root in the sandbox can't replace the agent's program.

    A replacement would have capabilities that commands lack.
    """
    for detach in (False, True):
        with host.start(["sh", "-c", REPLACING], stdout=un.PIPE, detach=detach) as box:
            # Wait for the attack to end: the agent starts only afterwards, at the first call of
            # run().
            assert box.stdout.readline() == b"done\n"
            tally.tried(11)
            try:
                done = box.run(["cat", "/tmp/got"], capture_output=True, timeout=PATIENCE)
            except un.UsernsError as error:
                tally.succeeded(repr(error))
            else:
                if done.returncode == 0:
                    tally.succeeded(done.stdout.decode())


@several_ids
def test_an_agent_killed_by_root_is_replaced(tally: Tally) -> None:
    """Kill or stop the agent as root in the sandbox; check that later calls do not block."""
    with un.SandboxHost(MAP_OF_SEVERAL) as host:
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            for _ in range(Tally.rounds(1, 10)):
                with host.start(["sleep", "1000"]) as box:
                    begin = time.monotonic()
                    tally.tried()
                    with contextlib.suppress(un.UsernsError, un.TimeoutExpired):
                        script = f"pkill -{int(number)} -f usernsctl-agent; sleep 1000"
                        box.run(["sh", "-c", script], timeout=2)
                        box.run(["true"], timeout=2)
                    box.close()
                    if time.monotonic() - begin > PATIENCE:
                        tally.succeeded(f"it took {time.monotonic() - begin} seconds")


# Program that allows every process to trace it, so that a tracer can delay its exit.
WILLING = """
import ctypes, time
anybody = ctypes.c_ulong(-1)
print(ctypes.CDLL(None).prctl(0x59616D61, anybody, 0, 0, 0), flush=True)
time.sleep(1000)
"""
# Program that traces a process and never waits for it.
TRACER = """
import ctypes, sys, time
print(ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None), flush=True)
time.sleep(1000)
"""
# Program that counts the SIGCONT signals it receives, and prints the count for each line of input.
STOPPED = """
import signal, sys
counted = []
signal.signal(signal.SIGCONT, lambda *_: counted.append(1))
print("begun", flush=True)
for line in sys.stdin:
    print(len(counted), flush=True)
"""


def count_later(other: un.SandboxPopen[str]) -> int:
    time.sleep(1)
    print(file=other.stdin, flush=True)
    return int(other.stdout.readline())


def test_kill_tree_leaves_no_process_stopped_for_a_tracer(
    host: un.SandboxHost, tally: Tally
) -> None:
    """Check that kill_tree() does not keep other processes stopped.

    A tracer delays the exit of the killed process, for which kill_tree() waits.
    """

    def command(code: str, *words: str) -> un.SandboxPopen[str]:
        streams = {"stdin": un.PIPE, "stdout": un.PIPE}
        started = box.popen([*PYTHON, code, *words], text=True, bufsize=1, **streams)
        opened.enter_context(started)
        opened.callback(started.kill)
        return started

    for _ in range(Tally.rounds(1, 10)):
        with host.start(["sleep", "1000"]) as box, contextlib.ExitStack() as opened:
            other, victim = command(STOPPED), command(WILLING)
            assert (other.stdout.readline(), victim.stdout.readline()) == ("begun\n", "0\n")
            tracer = command(TRACER, str(victim.pid_inside))
            assert tracer.stdout.readline() == "0\n"
            tally.tried()
            pool = opened.enter_context(ThreadPoolExecutor(1))
            killing = pool.submit(victim.kill_tree, 2 * PATIENCE)
            counts = [count_later(other), count_later(other)]
            deadline = time.monotonic() + PATIENCE
            # Wait until the count stops growing: kill_tree() may stop all processes until the
            # killed process has exited.
            while counts[-2] != counts[-1] and time.monotonic() < deadline:
                counts.append(count_later(other))
            if counts[-2] != counts[-1]:
                tally.succeeded(f"it was stopped {counts} times")
            tracer.kill()
            assert victim.wait(PATIENCE) == -signal.SIGKILL
            assert killing.result()


# Fake agent. The file `mode` selects how it misbehaves.
LIAR = """#!/usr/bin/python3
import array, os, socket, struct, sys, time

mode = open("/liar/mode").read()
control = socket.socket(fileno=0)
hello = struct.pack("<4sHHI", b"AGNT", 1, 0, os.getpid())

def forever(send):
    while True:
        try:
            send()
        except OSError:
            time.sleep(0.01)

if mode == "silent":
    time.sleep(1000)
if mode == "gone":
    sys.exit(0)
if mode == "no hello":
    control.send(b"hello, here I am, the agent")
    time.sleep(1000)
control.send(hello)
if mode == "deaf":
    time.sleep(1000)
if mode == "control flood":
    forever(lambda: control.send(b"x" * 1000))

files = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(10)]
started = struct.pack("<HHi", 1, 0, 1)
ended = struct.pack("<HHiQQQ", 3, 0, 0, 0, 0, 0)

while True:
    data, parts, _, _ = control.recvmsg(65536, socket.CMSG_SPACE(32))
    fds = array.array("i")
    for part in parts:
        fds.frombytes(part[2])
    if not data:
        sys.exit(0)
    own = socket.socket(fileno=fds[3])
    if mode == "ends":
        os._exit(0)
    if mode == "lies":
        own.send(struct.pack("<HHi", 77, 0, 1))
    if mode == "long":
        own.send(b"x" * 60000)
    if mode == "started":
        own.send(started)
    if mode == "started and gone":
        own.send(started)
        os._exit(0)
    if mode == "flood":
        own.send(started)
        own.setblocking(False)
        forever(lambda: own.send(b"y" * 500))
    if mode == "rights":
        own.send(started)
        for rights in (files, list(fds)):
            try:
                socket.send_fds(own, [ended], rights)
            except OSError:
                pass
    if mode == "output flood":
        own.send(started)
        forever(lambda: os.write(fds[1], b"z" * 4096))
    keep = own
"""
MODES = [
    *("silent", "gone", "no hello", "deaf", "control flood", "ends", "lies", "long", "started"),
    *("started and gone", "flood", "rights", "output flood"),
]


@pytest.fixture
def liar(tmp_path: Path) -> Path:
    script = tmp_path / "agent"
    script.write_text(LIAR)
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return script


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.sampled(5)
def test_a_false_agent_is_not_waited_for(
    mode: str, liar: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "AGENT_INSIDE", "/liar/agent")
    (liar.parent / "mode").write_text(mode)
    before = open_descriptors()
    with un.SandboxHost(binds=[f"{liar.parent}:/liar"]) as host:
        begin = time.monotonic()
        host.start(["sleep", "1000"]).close()
        at_most = max(PATIENCE, 10 * (time.monotonic() - begin))
        with host.start(["sleep", "1000"]) as box:
            for _ in range(Tally.rounds(1, 10)):
                begin = time.monotonic()
                tally.tried()
                try:
                    box.run(["true"], timeout=1.5, stdin=un.DEVNULL, stderr=un.DEVNULL,
                            stdout=un.DEVNULL)  # fmt: skip
                except (un.RunscError, un.TimeoutExpired):
                    pass
                except BaseException as error:
                    tally.succeeded(repr(error))
                if time.monotonic() - begin > PATIENCE:
                    tally.succeeded(f"{mode}: {time.monotonic() - begin} seconds")
            asyncio.run(asyncio.wait_for(from_asyncio(box), PATIENCE))
            begin = time.monotonic()
        if time.monotonic() - begin > at_most:
            tally.succeeded(f"{mode}: close took {time.monotonic() - begin} seconds")
    if open_descriptors() != before:
        tally.succeeded(f"descriptors: {os.listdir('/proc/self/fd')}")


@pytest.mark.parametrize("mode", ["started", "flood"])
def test_kill_tree_ends_the_sandbox_of_an_idle_agent(
    mode: str, liar: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "AGENT_INSIDE", "/liar/agent")
    (liar.parent / "mode").write_text(mode)
    with (
        un.SandboxHost(binds=[f"{liar.parent}:/liar"]) as host,
        host.start(["sleep", "1000"]) as box,
    ):
        process = box.popen(["true"])
        tally.tried()
        if process.kill_tree(timeout=0.3):
            tally.succeeded("the agent is believed to have killed all")
        assert box.wait(PATIENCE) == -signal.SIGKILL
        with contextlib.suppress(un.RunscError):
            process.wait(PATIENCE)


@several_ids
def test_kill_tree_ends_a_sandbox_with_a_stopped_keeper(tally: Tally) -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as host, host.start(None) as box:
        process = box.popen(["sleep", "1000"])
        stopping = f"kill -STOP $(ps -o ppid= {process.pid_inside})"
        box.run(["sh", "-c", stopping], check=True, timeout=PATIENCE)
        tally.tried()
        if process.kill_tree(timeout=0.3):
            tally.succeeded("all is believed to have been killed")
        assert box.wait(PATIENCE) == -signal.SIGKILL
        assert process.wait(PATIENCE) == -signal.SIGKILL


async def from_asyncio(box: un.Sandbox) -> None:
    async def one() -> None:
        process = await box.create_subprocess_exec("true", stdin=un.DEVNULL, stdout=un.DEVNULL)
        async with process:
            await process.wait()

    with contextlib.suppress(un.RunscError, TimeoutError):
        await asyncio.wait_for(one(), 1)


def test_a_stopped_agent_does_not_block_the_event_loop(
    liar: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that an agent that never answers does not block the event loop.

    Root in the sandbox could stop the agent. Here, a fake agent does not answer.
    """
    monkeypatch.setattr(start, "AGENT_INSIDE", "/liar/agent")
    monkeypatch.setattr(commands, "START_SECONDS", 2)
    (liar.parent / "mode").write_text("deaf")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask() -> None:
        # The socket's buffer has space for only a few messages of this size, so some calls must
        # wait.
        await box.create_subprocess_exec("true", env={"A": "x" * 20_000}, stdin=un.DEVNULL)

    async def main() -> None:
        with pytest.raises(un.RunscError, match="does not answer"):
            await ask()
        asked = [asyncio.create_task(ask()) for _ in range(30)]
        other = asyncio.create_task(others())
        before = turns
        for result in await asyncio.gather(*asked, return_exceptions=True):
            assert "does not answer" in str(result)
        tally.tried(len(asked))
        if turns - before < 20:
            tally.succeeded(f"the others had {turns - before} turns")
        other.cancel()

    before = open_descriptors()
    binds = [f"{liar.parent}:/liar"]
    with un.SandboxHost(binds=binds) as host, host.start(["sleep", "1000"]) as box:
        asyncio.run(main())
    assert open_descriptors() == before
