"""Attacks by a sentry (gVisor's kernel) that does not answer because the test has stopped it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import stop, wait_until_gone
from tally import Tally

import usernsctl as un
from usernsctl.gvisor.pool import pool
from usernsctl.gvisor.runsc import container

pytestmark = pytest.mark.userns_requires("runsc")

FOREVER = ["sleep", "1000"]
LIMIT = 0.5
# Maximum duration in seconds, also on a loaded host, of calls that time out after LIMIT seconds.
AT_MOST = 20


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(container, "_ANSWER_SECONDS", LIMIT)
    monkeypatch.setattr(pool, "_CLEAN_SECONDS", LIMIT)


def sentry_of(id: str) -> int:
    """Return the pid of the sentry (gVisor's kernel) of the sandbox `id`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if "boot" in words and any(word.endswith(f"/boxes/{id}") for word in words):
                return int(path.parent.name)
    raise AssertionError(f"there is no sandbox {id}")


@contextlib.contextmanager
def silent(id: str) -> Iterator[None]:
    sentry = sentry_of(id)
    pidfd = os.pidfd_open(sentry)
    try:
        stop(sentry, AT_MOST)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        os.close(pidfd)


@pytest.mark.parametrize("detach", [False, True])
def test_hostile_silence_ends_at_the_deadline(
    host: un.SandboxHost, tally: Tally, detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Callable[[un.Sandbox], object]] = [un.Sandbox.state, un.Sandbox.terminate]
    with host.start(FOREVER, detach=detach) as box:
        with silent(box.id):
            for call in calls:
                tally.tried()
                begin = time.monotonic()
                with pytest.raises(un.RunscError, match="did not answer") as told:
                    call(box)
                assert told.value.errno == errno.ETIMEDOUT
                if time.monotonic() - begin > AT_MOST:
                    tally.succeeded(f"{call} waited")
            assert wait_until_gone(f"state {box.id}", AT_MOST) == []
            assert wait_until_gone(f"kill {box.id}", AT_MOST) == []
        # silent() has resumed gVisor. Wait longer for gVisor's answer, which may take more than
        # LIMIT seconds.
        monkeypatch.setattr(container, "_ANSWER_SECONDS", AT_MOST)
        assert box.state()["status"] == "running"
        with silent(box.id):
            box.kill()
        assert box.wait() == -signal.SIGKILL


@pytest.mark.parametrize("is_idle", [False, True])
def test_hostile_silence_does_not_block_an_interpreter(
    host: un.SandboxHost, tally: Tally, is_idle: bool
) -> None:
    with host.start(None) as box, box.interpreter("/usr/bin/python3") as python:
        assert python.run("6 * 7", timeout=AT_MOST).value == 42
        with silent(box.id):
            tally.tried()
            begin = time.monotonic()
            if is_idle:
                python.close()
            else:
                assert python.run("1", timeout=LIMIT) == un.Execution("", "", reason="timeout")
            if time.monotonic() - begin > AT_MOST:
                tally.succeeded(f"{time.monotonic() - begin} seconds")


def test_hostile_silence_does_not_block_a_pool(host: un.SandboxHost, tally: Tally) -> None:
    """Check that a pool replaces sandboxes that do not answer during cleanup."""
    with host.pool(1, max_uses=2) as pool, contextlib.ExitStack() as held:
        seen = set()
        for _ in range(tally.rounds(4, 40)):
            tally.tried()
            try:
                with pool.acquire(AT_MOST) as box:
                    assert box.id not in seen
                    assert box.check_output(["echo", "works"]) == b"works\n"
                    seen.add(box.id)
                    held.enter_context(silent(box.id))
            except un.PoolError as error:
                tally.succeeded(f"nobody has another one: {error}")
        deadline = time.monotonic() + AT_MOST
        while pool.stats().failed < len(seen) and time.monotonic() < deadline:
            time.sleep(0.01)
        if pool.stats().failed < len(seen):
            tally.succeeded(f"one is cleaned for ever: {pool.stats()}")
