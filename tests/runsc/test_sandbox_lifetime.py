"""Tests of `ttl`, the time after which a sandbox is killed, and of the reasons in results."""

from __future__ import annotations

import os
import signal
import time
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import open_descriptors
from processes import wait_until_gone

import usernsctl as un
from usernsctl import gvisor
from usernsctl.gvisor.agent import start
from usernsctl.gvisor.agent.protocol import AgentClosed

pytestmark = pytest.mark.usefixtures("runtime")

PATIENCE = 60
FOREVER = ["sleep", "1000"]
GROW = ["python3", "-c", "held = []\nwhile True: held.append(b'x' * 10**7)"]


@pytest.mark.parametrize("detach", [False, True])
def test_ttl_ends_a_sandbox(detach: bool) -> None:
    before = open_descriptors()
    with un.SandboxHost() as host:
        started = time.monotonic()
        with host.start(FOREVER, ttl=3, detach=detach) as box:
            result = box.result(PATIENCE)
            assert 2.9 < time.monotonic() - started < PATIENCE / 2
            assert (result.returncode, result.reason, result.limit) == (-9, "timeout", 3)
            assert result.used is not None
            assert 3 <= result.used < PATIENCE
            assert box.returncode == -signal.SIGKILL
            with pytest.raises(un.RunscError) as caught:
                box.wait()
            assert caught.value.cause == "timeout"
            with pytest.raises(un.SandboxEndedError) as lost:
                box.run(["true"])
            assert lost.value.cause == "timeout"
    assert open_descriptors() == before


@pytest.mark.parametrize("args", [FOREVER, None])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("ttl", [0.001, 0.02, 0.05])
def test_ttl_may_end_a_sandbox_during_its_start(
    host: un.SandboxHost, ttl: float, detach: bool, args: list[str] | None
) -> None:
    """Regression test: the error of a detached start named neither the limit nor its cause."""
    before = open_descriptors()
    with pytest.raises(un.RunscError) as caught, host.start(args, ttl=ttl, detach=detach) as box:
        box.run(FOREVER, check=True) if args is None else box.wait()
    assert caught.value.cause == "timeout"
    assert isinstance(caught.value, (un.LimitError, un.SandboxEndedError))
    assert open_descriptors() == before


@pytest.mark.parametrize("detach", [False, True])
def test_ttl_may_end_a_sandbox_before_its_agent_answers(
    host: un.SandboxHost, detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression test: the error was that the agent ended at once (cause "sandbox-agent")."""
    monkeypatch.setattr(start, "_receive_agent", Mock(side_effect=AgentClosed))
    with pytest.raises(un.LimitError) as caught:
        host.start(None, ttl=0.3, detach=detach)
    assert (caught.value.cause, caught.value.limit) == ("timeout", 0.3)


def test_ttl_of_a_host_applies_to_each_sandbox() -> None:
    with un.SandboxHost(ttl="2s") as host:
        with host.start(None) as box:
            result = box.run(FOREVER)
            assert (result.returncode, result.reason, result.limit) == (-9, "timeout", 2)
        with host.start(["true"]) as box:
            assert (box.result(PATIENCE).reason, box.result().returncode) == ("exited", 0)
        with host.start(FOREVER, ttl=1000) as box, pytest.raises(un.TimeoutExpired):
            box.wait(3)
        result = gvisor.run(["sh", "-c", "echo begun; sleep 1000"], host=host, capture_output=True)
        assert (result.stdout, result.reason) == (b"begun\n", "timeout")
        with pytest.raises(un.RunscError) as caught:
            gvisor.run(FOREVER, host=host, check=True)
        assert caught.value.cause == "timeout"


def test_ttl_ends_a_sandbox_of_a_stopped_caller() -> None:
    word = "1000.53125"
    child = os.fork()
    if child == 0:
        try:
            box = un.Sandbox(["sleep", word], ttl=3)
            os.kill(os.getpid(), signal.SIGSTOP)
            box.close()
        finally:
            os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WSTOPPED)
        assert wait_until_gone(word, PATIENCE) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_exit_status_124_is_not_reported_as_a_timeout() -> None:
    with un.Sandbox(["sh", "-c", "exit 124"], ttl=1000) as box:
        result = box.result(PATIENCE)
        assert (result.returncode, result.reason, box.returncode) == (124, "exited", 124)


def test_result_names_the_exceeded_memory_limit() -> None:
    limit = 200 << 20
    with un.SandboxHost(memory=limit) as host:
        with host.start(GROW) as box:
            first = box.result(PATIENCE)
        for result in (first, gvisor.run(GROW, host=host)):
            assert (result.reason, result.limit) == ("memory-limit", limit)
            assert result.used is not None
            assert result.used == result.peak_memory
            assert limit / 2 < result.used < 10 * limit
        with host.start(None) as box:
            result = box.run(GROW)
            assert (result.reason, result.limit) == ("memory-limit", limit)
        with host.start(None) as box, pytest.raises(un.SandboxEndedError) as caught:
            box.run(GROW, check=True)
        assert caught.value.cause == "memory-limit"


@pytest.mark.parametrize(
    ("ttl", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("soon", ValueError),
        ("-1s", ValueError),
        (True, TypeError),
        ([1], TypeError),
    ],
)
def test_invalid_ttl_raises_before_the_start(ttl: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ttl"):
        un.SandboxHost(ttl=ttl)
    with pytest.raises(error, match="ttl"):
        un.Sandbox(["true"], ttl=ttl)
