"""Tests of `idle_timeout`, and of `ttl` for templates and for leases of a pool."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import pytest
from conftest import settled_descriptors

import usernsctl as un
from usernsctl import _core, gvisor
from usernsctl.gvisor.agent.activity import Activity
from usernsctl.gvisor.sandbox import detached

pytestmark = pytest.mark.usefixtures("runtime")

PATIENCE = 60
FOREVER = ["sleep", "1000"]


def check_idle_end(box: un.Sandbox, limit: float) -> None:
    """Check that a sandbox is killed at its idle timeout, with "idle-timeout" as the reason."""
    result = box.result(PATIENCE)
    assert (result.returncode, result.reason, result.limit) == (-9, "idle-timeout", limit)
    assert result.used is not None
    assert limit <= result.used < PATIENCE
    with pytest.raises(un.LimitError) as caught:
        box.wait()
    assert caught.value.cause == "idle-timeout"
    with pytest.raises(un.SandboxEndedError) as lost:
        box.run(["true"])
    assert lost.value.cause == "idle-timeout"


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.sampled(1)
def test_idle_timeout_ends_a_sandbox_without_a_command(detach: bool) -> None:
    before = settled_descriptors()
    with un.SandboxHost() as host, host.start(None, idle_timeout=2, detach=detach) as box:
        # Check that a running command suspends the idle timeout, which restarts when the command
        # exits.
        assert box.run(["sleep", "4"]).reason == "exited"
        with box.popen(FOREVER) as process:
            with pytest.raises(un.TimeoutExpired):
                box.wait(3)
            ended = time.monotonic()
            process.kill()
            process.wait()
        check_idle_end(box, 2)
        assert 1.9 < time.monotonic() - ended < PATIENCE / 2
    assert settled_descriptors() == before


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.sampled(1)
def test_the_search_for_an_oom_kill_is_no_idle_time(
    detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the idle timeout begins only after wait() has searched for an OOM kill.

    After the simulated OOM kill, wait() checks for 2 s whether the sandbox ends because of it: the
    host's OOM kill counter doesn't say which process was killed.
    """
    with un.SandboxHost() as host, host.start(None, idle_timeout=2, detach=detach) as box:
        process = box.popen(FOREVER)
        monkeypatch.setattr(_core, "oom_kills", lambda **_: 1 << 40)
        begun = time.monotonic()
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert time.monotonic() - begun > 1.9
        assert box.run(["true"]).returncode == 0
        check_idle_end(box, 2)


def test_each_command_restarts_the_idle_timeout() -> None:
    with un.SandboxHost(idle_timeout="3s") as host, host.start(None) as box:
        begun = time.monotonic()
        while time.monotonic() - begun < 6:
            assert box.run(["true"]).returncode == 0
            box.write_file("/tmp/file", b"text")
            time.sleep(0.5)
        check_idle_end(box, 3)


@pytest.mark.parametrize("detach", [False, True])
def test_run_in_a_closed_sandbox_raises(detach: bool) -> None:
    with un.SandboxHost() as host:
        box = host.start(None, idle_timeout=PATIENCE, detach=detach)
        box.close()
        with pytest.raises(un.SandboxEndedError):
            box.run(["true"])


def test_run_raises_when_another_thread_releases_the_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that run() raises if the sandbox is released before run() opens the activity file.

    Another thread could release the sandbox at this time.
    """
    open_file = detached.open_activity

    def release_first(path: str, directory: int) -> Any:
        box.release()
        opened.append(open_file(path, directory))
        return opened[0]

    opened: list[Any] = []
    with un.SandboxHost() as host:
        box = host.start(None, idle_timeout=PATIENCE, detach=True)
        with monkeypatch.context() as patch:
            patch.setattr(detached, "open_activity", release_first)
            with pytest.raises(ValueError, match="was released"):
                box.run(["true"])
        assert opened[0] is not None
        un.Sandbox.attach(box.id).close()


def test_an_interrupted_wait_does_not_stop_the_idle_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with un.SandboxHost() as host, host.start(None, idle_timeout=2) as box:
        process = box.popen(["true"])
        with monkeypatch.context() as patch:
            patch.setattr(Activity, "end", interrupt)
            with pytest.raises(KeyboardInterrupt):
                process.wait()
        assert process.wait() == 0
        check_idle_end(box, 2)


def interrupt(_: object) -> None:
    raise KeyboardInterrupt


def start_client(id: str) -> int:
    """Fork a child that runs a command in a sandbox; return the child's pid."""
    child = os.fork()
    if child == 0:
        try:
            un.Sandbox.attach(id).popen(FOREVER)
            time.sleep(PATIENCE)
        finally:
            os._exit(0)
    return child


@pytest.mark.thorough
def test_commands_of_other_processes_prevent_idle_timeout() -> None:
    with un.SandboxHost() as host, host.start(None, idle_timeout=2, detach=True) as box:
        child = start_client(box.id)
        try:
            with pytest.raises(un.TimeoutExpired):
                box.wait(5)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        check_idle_end(box, 2)


def test_idle_timeout_starts_when_a_client_process_dies() -> None:
    with un.SandboxHost() as host, host.start(None, idle_timeout=4, detach=True) as box:
        child = start_client(box.id)
        with pytest.raises(un.TimeoutExpired):
            box.wait(7)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        died = time.monotonic()
        check_idle_end(box, 4)
        assert time.monotonic() - died > 3


@pytest.mark.thorough
def test_asyncio_commands_prevent_idle_timeout() -> None:
    async def main() -> None:
        async with await un.Sandbox.create_async(None, idle_timeout=2) as box:
            assert (await box.run_async(["sleep", "4"])).reason == "exited"
            process = await box.create_subprocess_exec("sleep", "3")
            assert await process.wait() == 0
            result = await box.result_async()
            assert (result.reason, result.limit) == ("idle-timeout", 2)

    asyncio.run(main())


def test_a_forked_child_does_not_prevent_idle_timeout() -> None:
    with un.SandboxHost() as host, host.start(None, idle_timeout=2) as box:
        process = box.popen(["sleep", "1"])
        child = os.fork()
        if child == 0:
            try:
                time.sleep(PATIENCE)
            finally:
                os._exit(0)
        try:
            assert process.wait() == 0
            check_idle_end(box, 2)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_idle_timeout_with_a_first_command_raises() -> None:
    with un.SandboxHost(idle_timeout=1) as host:
        result = gvisor.run(["sleep", "3"], host=host)
        assert result.reason == "exited"
        with pytest.raises(ValueError, match="idle_timeout"):
            host.start(FOREVER, idle_timeout=1)
    with pytest.raises(ValueError, match="idle_timeout"):
        un.Sandbox(FOREVER, idle_timeout=1)


@pytest.mark.parametrize(
    ("given", "error"),
    [(0, ValueError), (-1, ValueError), ("soon", ValueError), (True, TypeError), ([1], TypeError)],
)
def test_invalid_timeouts_raise_before_the_start(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="idle_timeout"):
        un.SandboxHost(idle_timeout=given)
    with un.SandboxHost() as host, host.pool(1) as pool:
        with pytest.raises(error, match="idle_timeout"):
            host.start(None, idle_timeout=given)
        with pytest.raises(error, match="ttl"):
            pool.acquire(ttl=given)


@pytest.mark.thorough
def test_ttl_and_idle_timeout_apply_to_templates() -> None:
    with un.SandboxHost() as host:
        with host.template(None) as template:
            with template.start(ttl=2) as box:
                result = box.run(FOREVER)
                assert (result.reason, result.limit) == ("timeout", 2)
            with template.start(idle_timeout="2s") as box:
                assert box.run(["true"]).returncode == 0
                check_idle_end(box, 2)
        with host.template(["sh", "-c", "echo ready; exec cat"], ready="ready") as template:
            with template.start(ttl=2, stdin=un.PIPE) as box:
                result = box.result(PATIENCE)
                assert (result.returncode, result.reason, result.limit) == (-9, "timeout", 2)
            with pytest.raises(ValueError, match="idle_timeout"):
                template.start(idle_timeout=2)


@pytest.mark.thorough
def test_ttl_applies_to_python_templates() -> None:
    with un.SandboxHost() as host, host.python_template() as template:
        with template.start(["-c", "import time; time.sleep(1000)"], ttl=2) as box:
            assert box.result(PATIENCE).reason == "timeout"
        with pytest.raises(ValueError, match="idle_timeout"):
            template.start(["-c", ""], idle_timeout=2)


@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.sampled(1)
def test_ttl_ends_a_lease(uses: int) -> None:
    with un.SandboxHost() as host, host.pool(1, max_uses=uses) as pool:
        with pool.acquire(PATIENCE, ttl="1.5s") as box:
            result = box.run(FOREVER)
            assert (result.returncode, result.reason, result.limit) == (-9, "timeout", 1.5)
            assert result.used is not None
            assert 1.5 <= result.used < PATIENCE
            with pytest.raises(un.SandboxEndedError) as lost:
                box.run(["true"])
            assert lost.value.cause == "timeout"
        # The next lease has no `ttl`, so it gets another sandbox.
        with pool.acquire(PATIENCE) as box:
            assert box.run(["sleep", "3"]).reason == "exited"


def test_ttl_ends_an_asyncio_lease() -> None:
    async def main() -> None:
        async with host.pool(1) as pool, pool.acquire_async(PATIENCE, ttl=3) as box:
            assert (await box.run_async(FOREVER)).reason == "timeout"

    with un.SandboxHost() as host:
        asyncio.run(main())


@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.sampled(1)
def test_idle_timeout_applies_only_to_leased_sandboxes(uses: int) -> None:
    with un.SandboxHost(idle_timeout=2) as host, host.pool(1, max_uses=uses) as pool:
        for _ in range(uses):
            with pool.acquire(PATIENCE):
                pass
        with pool.acquire(PATIENCE) as box:
            pass
        time.sleep(4)
        assert pool.stats().failed == 0
        with pool.acquire(PATIENCE) as box:
            assert box.run(["true"]).returncode == 0
            check_idle_end(box, 2)


def test_idle_timeout_does_not_apply_to_an_interrupted_lease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that a sandbox does not end in a lease that follows an interrupted acquire().

    acquire() is interrupted after its check of the sandbox.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with un.SandboxHost(idle_timeout=2) as host, host.pool(1) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(pool._keeper, "begin", interrupt)
            with pytest.raises(KeyboardInterrupt), pool.acquire(PATIENCE):
                pass
        time.sleep(4)
        assert (pool.stats().failed, pool.stats().idle) == (0, 1)
        with pool.acquire(PATIENCE) as box:
            check_idle_end(box, 2)
