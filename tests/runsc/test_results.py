"""Tests of the results of commands in sandboxes: exit status and reason."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import usernsctl as un
from usernsctl import gvisor

PATIENCE = 60
FOREVER = ["sleep", "1000"]
SPIN = ["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]

# Shell scripts by name, with the return code and the reason of each result.
ENDS = {
    "true": (0, "exited"),
    "exit 7": (7, "exited"),
    "exit 255": (255, "exited"),
    "exit 125": (125, "exited"),
    "kill -TERM $$": (-15, "signalled"),
    "kill -SEGV $$": (-11, "signalled"),
    "kill -KILL $$": (-9, "signalled"),
}


@pytest.mark.parametrize("script", ENDS)
def test_run_returns_exit_status_and_reason(box: un.Sandbox, script: str) -> None:
    result = box.run(["sh", "-c", script], capture_output=True, text=True)
    assert isinstance(result, un.Result)
    assert (result.returncode, result.reason) == ENDS[script]
    status = result.returncode
    assert result.exit_status == (status if status >= 0 else 128 - status)
    assert (result.args, result.stdout, result.stderr) == (["sh", "-c", script], "", "")
    assert (result.limit, result.used, result.peak_memory) == (None, None, None)
    assert result.rusage is not None


@pytest.mark.sampled(3)
@pytest.mark.parametrize("script", ENDS)
def test_result_has_exit_status_and_reason(host: un.SandboxHost, script: str) -> None:
    with host.start(["sh", "-c", script]) as box:
        result = box.result(PATIENCE)
        assert (result.returncode, result.reason) == ENDS[script]
        assert (box.wait(), box.poll(), box.returncode) == (result.returncode,) * 3
        assert result.args == ("sh", "-c", script)
        assert (result.stdout, result.stderr) == (None, None)
    assert box.result().returncode == result.returncode


def test_gvisor_run_returns_exit_status_reason_and_output(host: un.SandboxHost) -> None:
    options = {"host": host, "capture_output": True}
    result = gvisor.run(["sh", "-c", "echo out; kill -9 $$"], host=host, capture_output=True)
    assert (result.returncode, result.reason, result.stdout) == (-9, "signalled", b"out\n")
    text = gvisor.run(["sh", "-c", "echo e >&2; exit 3"], text=True, **options)
    assert (text.returncode, text.reason, text.stdout, text.stderr) == (3, "exited", "", "e\n")
    with pytest.raises(un.CalledProcessError) as caught:
        gvisor.run(["sh", "-c", "exit 3"], check=True, **options)
    assert caught.value.returncode == 3


def test_result_of_a_killed_sandbox_has_reason_killed(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        box.kill()
        result = box.result(PATIENCE)
        assert (result.returncode, result.reason) == (-signal.SIGKILL, "killed")
    with host.start(FOREVER) as box:
        pass
    assert (box.result().returncode, box.result().reason) == (-signal.SIGKILL, "killed")
    with host.start(FOREVER, detach=True) as detached:
        detached.kill()
        assert detached.result(PATIENCE).reason == "killed"
        assert detached.result().rusage is None


def test_result_raises_after_its_timeout(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        with pytest.raises(un.TimeoutExpired):
            box.result(0.1)
        assert box.poll() is None
        for wrong in ("1", float("nan")):
            with pytest.raises((TypeError, ValueError), match="timeout"):
                box.result(wrong)  # type: ignore[arg-type]


def test_result_async_returns_exit_status_and_reason(host: un.SandboxHost) -> None:
    async def main() -> None:
        async with await host.start_async(["sh", "-c", "kill -TERM $$; exit 5"]) as box:
            result = await box.result_async()
            assert (result.returncode, result.reason) == (-signal.SIGTERM, "signalled")

    asyncio.run(main())


def test_results_count_processor_time(host: un.SandboxHost, box: un.Sandbox) -> None:
    inside = box.run(SPIN)
    assert inside.rusage is not None
    assert 0.01 < inside.rusage.utime < 60
    with host.start(SPIN) as box:
        usage = box.result(PATIENCE).rusage
    assert usage is not None
    assert 0.01 < usage.utime + usage.stime < 60
    assert usage.maxrss > 1000


@contextlib.contextmanager
def when_started(do: Callable[..., object], *args: object) -> Iterator[dict[str, Any]]:
    """Call `do` in a thread once the caller of the command STARTED has learned that it runs.

    Yield the arguments of run() for the command: the caller sends the input after the start, and
    the command sends it to the thread.
    """
    reader, output = os.pipe()

    def wait_and_do() -> None:
        os.read(reader, 1)
        do(*args)

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    try:
        yield {"input": b"\n", "stdout": output}
    finally:
        os.close(output)
        thread.join()
        os.close(reader)


STARTED = ["sh", "-c", "read line; echo; exec sleep 1000"]


def test_result_in_a_killed_sandbox_has_reason_sandbox_ended(host: un.SandboxHost) -> None:
    with host.start(None) as box:
        with when_started(box.kill) as streams:
            result = box.run(STARTED, **streams)
        assert (result.returncode, result.reason) == (-signal.SIGKILL, "sandbox-ended")
        with pytest.raises(un.SandboxEndedError, match="has ended"):
            box.run(["true"])
    with (
        host.start(None) as box,
        when_started(box.close) as streams,
        pytest.raises(un.SandboxEndedError) as caught,
    ):
        box.run(STARTED, check=True, **streams)
    assert isinstance(caught.value, un.CommandError)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    with pytest.raises(un.SandboxEndedError):
        box.popen(["true"])


def test_commands_of_an_agent_that_ends_are_killed(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        started = time.monotonic()
        with when_started(box._end_others, PATIENCE) as streams:
            result = box.run(STARTED, **streams)
        assert (result.returncode, result.reason) == (-signal.SIGKILL, "killed")
        assert time.monotonic() - started < PATIENCE
        assert box.run(["true"]).returncode == 0


def test_results_have_a_repr_and_can_be_pickled(box: un.Sandbox) -> None:
    result = box.run(["sh", "-c", "kill -9 $$"])
    assert repr(result).endswith("returncode=-9, reason='signalled')")
    assert repr(box.run(["true"])) == "Result(args=['true'], returncode=0)"
    copy = pickle.loads(pickle.dumps(result))
    assert (copy.returncode, copy.reason, copy.rusage) == (-9, "signalled", result.rusage)
    with pytest.raises(un.CalledProcessError):
        result.check_returncode()
