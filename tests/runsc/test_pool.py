"""Tests of pools of sandboxes: leases, isolation between leases, cleanup, and errors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gvisor
import pytest
from conftest import EXIT_SECONDS, children, left_children
from processes import check_output, children_of, stop, wait_until

import usernsctl as un
from usernsctl.gvisor.pool import leftovers
from usernsctl.gvisor.pool import pool as pool_module
from usernsctl.gvisor.pool.pool import SandboxMaker

pytestmark = pytest.mark.usefixtures("runtime")

PATIENCE = 60
STEPS = 12


@pytest.fixture
def host() -> Iterator[un.SandboxHost]:
    with un.SandboxHost() as made:
        yield made


def output(box: un.Sandbox, *command: str) -> str:
    return str(box.check_output(command, text=True, stderr=un.DEVNULL))


def command_lines(box: un.Sandbox) -> list[str]:
    """Return the arguments of all processes in the sandbox."""
    lines = output(box, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; true")
    return [word for word in lines.split() if word]


def test_leases_share_no_files_or_processes(host: un.SandboxHost) -> None:
    with host.pool(1) as pool:
        with pool.acquire(PATIENCE) as one:
            assert gvisor.BUILD in output(one, "cat", "/proc/version")
            one.run(["touch", "/tmp/mine"], check=True)
            left = one.popen(["sleep", "1000"])
        assert left.wait(PATIENCE) == -signal.SIGKILL
        with pytest.raises((un.CommandError, ValueError)):
            one.run(["true"])
        with pool.acquire(PATIENCE) as other:
            assert other.id != one.id
            assert output(other, "ls", "/tmp") == ""
        assert pool.stats().acquired == 2
    assert repr(pool).endswith("closed>")


@pytest.mark.thorough
def test_asyncio_tasks_acquire_different_sandboxes(host: un.SandboxHost) -> None:
    async def use(pool: un.SandboxPool) -> str:
        async with pool.acquire_async(PATIENCE) as box:
            process = await box.create_subprocess_exec("uname", "-s", stdout=un.PIPE)
            told, _ = await process.communicate()
            return f"{box.id} {told.decode()}"

    async def main() -> None:
        async with host.pool(2) as pool:
            told = await asyncio.gather(*(use(pool) for _ in range(5)))
        assert {line.split()[1] for line in told} == {"Linux"}
        assert len(set(told)) == 5

    asyncio.run(main())


def test_reused_sandbox_keeps_files_but_no_processes(host: un.SandboxHost) -> None:
    script = "touch /tmp/stays; setsid sh -c 'sleep 4321 & sleep 4321' & sleep 4321 & exec true"
    with host.pool(1, limit=1, max_uses=3) as pool:
        with pool.acquire(PATIENCE) as one:
            one.run(["sh", "-c", script], check=True)
            left = one.popen(["sh", "-c", "trap '' TERM HUP; sleep 4321; sleep 4321"])
            assert "4321" in command_lines(one)
        with pool.acquire(PATIENCE) as again:
            assert again is one
            assert "4321" not in command_lines(again)
            assert output(again, "ls", "/tmp") == "stays\n"
        assert left.wait(PATIENCE) == -signal.SIGKILL
        with pool.acquire(PATIENCE) as again:
            assert again is one
        with pool.acquire(PATIENCE) as other:
            assert other is not one
        assert pool.stats().failed == 0


SETTING = "/proc/sys/net/ipv4/tcp_sack"


@pytest.mark.parametrize("has_command", [False, True])
@pytest.mark.sampled(1)
def test_sandbox_with_changed_sysctl_is_not_reused(host: un.SandboxHost, has_command: bool) -> None:
    template = Template(host) if has_command else None
    stdin = un.PIPE if has_command else un.DEVNULL
    with host.pool(1, limit=1, max_uses=9, template=template, stdin=stdin) as pool:
        with pool.acquire(PATIENCE) as one:
            one.run(["sh", "-c", f"echo 0 >{SETTING}"], check=True)
        with pool.acquire(PATIENCE) as other:
            assert other is not one
            assert output(other, "cat", SETTING) == "1\n"
            other.run(["sh", "-c", f"echo 0 >{SETTING}; echo 1 >{SETTING}"], check=True)
        with pool.acquire(PATIENCE) as again:
            assert again is other
        assert pool.stats().failed == 1
        assert SETTING in str(pool.stats().last_failure)


def test_sandbox_with_unreadable_sysctls_is_not_reused(
    host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_COMMAND", ("false",))
    with host.pool(1, limit=1, max_uses=9) as pool:
        with pool.acquire(PATIENCE) as one:
            pass
        with pool.acquire(PATIENCE) as other:
            assert other is not one
        assert "can't be read" in str(pool.stats().last_failure)


# Python program for sandboxes that sends "answer" to every client on port 5000.
SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", 5000)) as server:
    while True:
        server.accept()[0].sendall(b"answer")
"""
# Python program for sandboxes that prints the answer of SERVER.
CLIENT = 'import socket; print(socket.create_connection(("127.0.0.1", 5000)).recv(9).decode())'


@pytest.mark.thorough
def test_each_lease_connects_to_servers_in_its_sandbox(host: un.SandboxHost) -> None:
    """Check that the client of each lease reaches the server in its own sandbox.

    The server comes from the template or is started by the lease.
    """
    python = ("/usr/bin/python3", "-c")

    def ask(box: un.Sandbox) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(un.CalledProcessError):
                return output(box, *python, CLIENT)
        raise AssertionError

    with host.pool(1, limit=1, max_uses=3, template=Template(host, *python, SERVER)) as pool:
        for _ in range(3):
            with pool.acquire(PATIENCE) as box:
                assert ask(box) == "answer\n"
    with host.pool(1, limit=1, max_uses=3) as pool:
        for _ in range(3):
            with pool.acquire(PATIENCE) as box:
                with pytest.raises(un.CalledProcessError):
                    output(box, *python, CLIENT)
                with box.popen([*python, SERVER]) as server:
                    assert ask(box) == "answer\n"
                    server.kill()


# Root in the sandbox kills the agent with SIGKILL, or stops the agent with SIGSTOP.
@pytest.mark.parametrize("sig", ["KILL", "STOP"])
def test_processes_that_stop_the_agent_do_not_reach_the_next_lease(
    host: un.SandboxHost, sig: str
) -> None:
    script = f"""
    read go
    setsid sh -c 'trap "" TERM HUP; while :; do sleep 0.1; done' mark-4321 >/dev/null &
    for path in /proc/[0-9]*; do
        [ $path != /proc/$$ ] || continue
        case $(cat $path/cmdline) in *usernsctl-agent*) kill -{sig} ${{path#/proc/}} ;; esac
    done
    echo done
    sleep 1000
    """
    with host.pool(1, limit=1, max_uses=9) as pool:
        with pool.acquire(PATIENCE) as one:
            attack = one.popen(["sh", "-c", script], stdin=un.PIPE, stdout=un.PIPE)
            attack.stdin.close()
            # End of file is allowed, because the script may kill its own keeper (a process of the
            # agent), and so itself, before it prints the line "done".
            assert attack.stdout.readline() in (b"done\n", b"")
        with pool.acquire(PATIENCE) as next_one:
            assert "mark-4321" not in command_lines(next_one)
        assert attack.wait(PATIENCE) == -signal.SIGKILL
        attack.stdout.close()


def test_dead_idle_sandbox_is_replaced(host: un.SandboxHost) -> None:
    with host.pool(1) as pool:
        wait_until(lambda: pool.stats().idle == 1)
        (init,) = [pid for pid, name in children().items() if name == "usernsctl-init"]
        os.kill(init, signal.SIGKILL)
        wait_until(lambda: pool.stats().failed == 1)
        assert "has ended" in str(pool.stats().last_failure)
        with pool.acquire(PATIENCE) as box:
            assert output(box, "echo", "works") == "works\n"


def test_sandbox_with_an_unresponsive_agent_is_replaced(
    host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first health check times out after 0.2 s, but later checks only after PATIENCE.
    limits = itertools.chain([0.2], itertools.repeat(PATIENCE))
    look = SandboxMaker.check

    def check(boxes: SandboxMaker, box: un.Sandbox) -> None:
        monkeypatch.setattr(pool_module, "CHECK_SECONDS", next(limits))
        look(boxes, box)

    monkeypatch.setattr(SandboxMaker, "check", check)
    with host.pool(1) as pool:
        wait_until(lambda: pool.stats().idle == 1)
        stop_runsc_processes()
        with pool.acquire(PATIENCE) as box:
            assert output(box, "echo", "works") == "works\n"
        assert pool.stats().failed == 1
        assert isinstance(pool.stats().last_failure, un.TimeoutExpired)


def stop_runsc_processes() -> None:
    """Stop runsc's processes on the host, which are children of the sandbox's usernsctl-init."""
    (init,) = [pid for pid, name in children().items() if name == "usernsctl-init"]
    for pid in children_of(init):
        stop(pid, PATIENCE)


def make_fake_runsc(does: str) -> str:
    """Return the script of a fake runsc, which runs `does`, or the real runsc for --version."""
    real = shutil.which("runsc")
    return f'#!/bin/sh\ncase " $* " in *--version*) exec {real} "$@" ;; esac\n{does}\n'


def test_failed_starts_raise_and_are_retried_with_delays(
    stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    stand_in(make_fake_runsc(f"echo >>{count}; exit 128"))
    begin = time.monotonic()
    with un.SandboxHost() as host, host.pool(4, starts=1) as pool:
        with (
            pytest.raises(un.PoolError, match="no sandbox could be started") as told,
            pool.acquire(),
        ):
            pass
        assert isinstance(told.value.__cause__, un.RunscError)
        assert told.value.cause == told.value.__cause__.cause
        with pytest.raises(un.PoolTimeoutError, match="the last failure"):
            pool.acquire(0).__enter__()
        pool.close()
        tries = len(count.read_text().splitlines())
        # The pool waits at least 0.1, 0.2, 0.4 s and so on before it retries a failed start.
        assert time.monotonic() - begin >= 0.1 * (2 ** (tries - 2) - 1)


def test_close_does_not_wait_for_a_hung_start(stand_in: Callable[[str], None]) -> None:
    stand_in(make_fake_runsc("exec sleep 1000"))
    with un.SandboxHost() as host, host.pool(2, start_timeout=5) as pool:
        wait_until(lambda: pool.stats().starting > 0)
        with pytest.raises(un.PoolTimeoutError, match="0 leased"), pool.acquire(0):
            pass
        pool.close()


def test_a_pool_without_a_template_or_an_open_host_is_refused_at_once(
    host: un.SandboxHost,
) -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="template must have a method start, not 5"):
        host.pool(1, template=wrong)
    host.close()
    with pytest.raises(ValueError, match="the SandboxHost is closed"):
        host.pool(1)


def test_close_kills_leased_sandboxes(host: un.SandboxHost) -> None:
    with host.pool(2) as pool, pool.acquire(PATIENCE) as box:
        process = box.popen(["sleep", "1000"])
        threading.Timer(0.1, pool.close).start()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        wait_until(lambda: pool.stats().leased == 0)
        with pytest.raises(ValueError, match="the pool is closed"), pool.acquire():
            pass


def test_sandbox_closed_during_its_lease_is_replaced(host: un.SandboxHost) -> None:
    with host.pool(1, max_uses=5) as pool:
        with pool.acquire(PATIENCE) as box:
            box.close()
        with pool.acquire(PATIENCE) as other:
            assert other is not box
            assert output(other, "echo", "works") == "works\n"


def test_exit_without_close_leaves_no_process() -> None:
    """Exit a program without closing its pool. The exit must neither block nor leave processes."""
    program = (
        "import usernsctl as un\n"
        "host = un.SandboxHost(); pool = host.pool(2)\n"
        "with pool.acquire(60) as box: print(box.check_output(['echo', 'works'], text=True))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    before = children()
    assert check_output(command, timeout=PATIENCE) == "works\n\n"
    assert left_children(before, EXIT_SECONDS) == {}


# Ignore the ResourceWarning of a SandboxPopen that is dropped because its start was interrupted.
# Popen objects of subprocess emit this warning, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_interrupted_leases_leak_nothing(host: un.SandboxHost) -> None:
    interrupt_at_each_step(host)
    # The leak checks run after the test, so first collect the pool's reference cycles.
    gc.collect()


def interrupt_at_each_step(host: un.SandboxHost) -> None:
    """Interrupt leases of `host`'s pool again and again, each after a longer delay."""
    with host.pool(1, limit=2) as pool:
        wait_until(lambda: pool.stats().idle == 1)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for step in range(STEPS):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0002 + step * 0.002)
                    with pool.acquire() as box:
                        box.run(["true"])
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        wait_until(lambda: pool.stats().leased == 0 and pool.stats().idle == 1)
        assert pool.stats().queued == 0


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"size": 0}, "size must be 1 or more, not 0"),
        ({"size": "3"}, "size must be a whole number, not '3'"),
        ({"size": 2, "limit": 1}, r"limit=1 must be at least size=2"),
        ({"size": 1, "max_uses": 0}, "max_uses must be 1 or more"),
        ({"size": 1, "starts": True}, "starts must be a whole number"),
        ({"size": 1, "idle_timeout": 0}, "idle_timeout must be more than 0 seconds, not 0"),
        ({"size": 1, "start_timeout": "soon"}, "start_timeout must be a number of seconds"),
        ({"size": 1, "stdout": "path"}, "stdout must be an open file"),
        ({"size": 1, "stdin": un.PIPE}, "stdin needs a template: "),
        ({"size": 1, "nonsense": 1}, "nonsense"),
    ],
)
def test_invalid_arguments_raise(
    host: un.SandboxHost, arguments: dict[str, Any], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        host.pool(**arguments)


def test_env_with_a_template_raises(host: un.SandboxHost) -> None:
    with pytest.raises(ValueError, match="env and template exclude each other"):
        host.pool(1, template=Template(host), env={"A": "b"})


class Template:
    """Fake template that starts sandboxes with a given command."""

    def __init__(self, host: un.SandboxHost, *command: str) -> None:
        self.host = host
        self.command = command or ("cat",)

    def start(self, **options: Any) -> un.Sandbox:
        return self.host.start(self.command, **options)


def test_sandboxes_of_a_template_have_pipes(host: un.SandboxHost) -> None:
    streams = {"stdin": un.PIPE, "stdout": un.PIPE}
    with (
        host.pool(1, template=Template(host), **streams) as pool,
        pool.acquire(PATIENCE) as box,
    ):
        assert box.communicate(b"hello")[0] == b"hello"


class DetachingTemplate:
    """Fake template whose detached sandboxes outlive the process that created the pool."""

    def __init__(self, host: un.SandboxHost) -> None:
        self.host = host

    def start(self, **how: Any) -> un.Sandbox:
        return self.host.start(None, detach=True, in_cgroup=how["in_cgroup"])


def test_detached_sandbox_of_a_template_is_refused(host: un.SandboxHost) -> None:
    with host.pool(1, template=DetachingTemplate(host)) as pool:
        for _ in range(2):
            with pytest.raises(un.PoolError, match="detached") as caught, pool.acquire(PATIENCE):
                pass
            assert "detach=True" in (caught.value.remedy or "")
        assert pool.stats().failed >= 2
    assert un.Sandbox.list_detached() == []


def test_leases_continue_a_command_from_its_checkpoint(host: un.SandboxHost) -> None:
    script = "echo saved >/tmp/file; echo READY; read line; cat /tmp/file; echo $line"
    streams = {"stdin": un.PIPE, "stdout": un.PIPE}
    with (
        host.template(["sh", "-c", script], ready="READY") as made,
        host.pool(1, template=made, **streams) as pool,
    ):
        for word in (b"one\n", b"two\n"):
            with pool.acquire(PATIENCE) as box:
                assert box.communicate(word, PATIENCE)[0] == b"saved\n" + word


@pytest.mark.sampled(1)
@pytest.mark.parametrize("uses", [1, 3])
def test_leases_start_from_a_prepared_template(host: un.SandboxHost, uses: int) -> None:
    def prepare(box: un.Sandbox) -> None:
        box.run(["sh", "-c", "echo prepared >/tmp/file"], check=True)

    seen = []
    with (
        host.template(ready=prepare) as made,
        host.pool(1, template=made, max_uses=uses, limit=1) as pool,
    ):
        for _ in range(3):
            with pool.acquire(PATIENCE) as box:
                assert output(box, "cat", "/tmp/file") == "prepared\n"
                box.run(["sh", "-c", "sleep 1000 &"], check=True)
                seen.append(box.id)
        assert pool.stats().failed == 0
    assert len(set(seen)) == 3 // uses


def test_env_of_the_pool_applies_to_all_leases(host: un.SandboxHost) -> None:
    with host.pool(1, env={"WORD": "set"}) as pool, pool.acquire(PATIENCE) as box:
        assert output(box, "sh", "-c", "echo $WORD") == "set\n"
