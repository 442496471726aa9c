"""Tests that kill a program after a random delay, while the program starts a sandbox.

Afterwards, either the detached sandbox works, or no trace of the sandbox is left.
"""

from __future__ import annotations

import os
import random
import select
import signal
import time
from pathlib import Path

import pytest
from conftest import EXIT_SECONDS, files_below
from processes import wait_until_gone
from tally import Tally

import usernsctl as un

pytestmark = pytest.mark.usefixtures("runtime")

KILLS = Tally.rounds(48, 100)
AT_ONCE = 4
# Maximum random delay of a kill after the program's start, in seconds.
HOST_SECONDS = 0.4
# Maximum random delay of a kill after the creation of the program's SandboxHost, in seconds.
SANDBOX_SECONDS = 0.35
FOREVER = ["sleep", "1000"]


class Creator:
    """Forked child that creates a SandboxHost and starts a sandbox.

    :ivar host: a descriptor that becomes readable when the SandboxHost exists.
    :ivar due: the value of time.monotonic() at which to kill the child.
    """

    def __init__(self, id: str, detach: bool, moments: random.Random) -> None:
        self._after_host = moments.choice((None, moments.uniform(0, SANDBOX_SECONDS)))
        self.due = time.monotonic() + moments.uniform(0, HOST_SECONDS)
        if self._after_host is not None:
            self.due += EXIT_SECONDS
        self.host, theirs = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                with un.SandboxHost() as host:
                    os.write(theirs, b"+")
                    host.start(FOREVER, id=id, detach=detach).wait()
            finally:
                os._exit(1)
        os.close(theirs)

    def see_host(self) -> None:
        if self._after_host is not None:
            self.due = time.monotonic() + self._after_host

    def kill(self) -> None:
        os.close(self.host)
        os.kill(self.pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == -signal.SIGKILL


def kill_all(creators: list[Creator]) -> None:
    """Kill each creator when time.monotonic() reaches the creator's `due`."""
    unseen = {one.host: one for one in creators}
    while creators:
        now = time.monotonic()
        for one in [one for one in creators if one.due <= now]:
            creators.remove(one)
            unseen.pop(one.host, None)
            one.kill()
        poll = select.poll()
        for host in unseen:
            poll.register(host, select.POLLIN)
        next_due = min((one.due for one in creators), default=now)
        for host, _ in poll.poll(max(next_due - time.monotonic(), 0) * 1000):
            unseen.pop(host).see_host()


def close_if_alive(id: str) -> bool:
    """Check and close the detached sandbox `id` if it exists; return whether it existed."""
    try:
        box = un.Sandbox.attach(id)
    except un.RunscError as error:
        assert error.cause == "no-such-sandbox"
        return False
    with box:
        assert [one.id for one in un.Sandbox.list_detached()].count(id) == 1
        assert box.run(["true"]).returncode == 0
    return True


@pytest.mark.sampled(1)
@pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])
def test_killed_creator_leaves_no_sandbox_or_a_working_one(
    detach: bool,
    runtime: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    # The first detached sandbox leaves directories behind, so create them before the files are
    # compared.
    un.Sandbox(FOREVER, detach=True).close()
    before = files_below(runtime)
    lived = 0
    for batch in range(0, KILLS // 2, AT_ONCE):
        # The test searches command lines for the ids, so the ids must be unique.
        ids = [f"killed-{os.getpid()}-{batch + n}" for n in range(AT_ONCE)]
        kill_all([Creator(id, detach, moments) for id in ids])
        for id in ids:
            lived += close_if_alive(id)
            assert wait_until_gone(id, EXIT_SECONDS) == []
    print(f"{lived} were started before their creators ended")
    assert lived == 0 or detach
    assert un.Sandbox.list_detached() == []
    assert files_below(runtime) == before
    assert list(temporary.iterdir()) == []
    # Also search /tmp, where runsc creates its control socket if it can't use another directory.
    assert not [name for name in os.listdir("/tmp") if f"killed-{os.getpid()}" in name]


def test_sandbox_ends_with_its_creator_despite_a_forked_child() -> None:
    """Kill the creator of a sandbox while a forked child has copies of the creator's descriptors.

    The sandbox must end with its creator, but not with the thread that started the sandbox.
    """
    id = f"forked-{os.getpid()}"
    ours, theirs = os.pipe()
    over, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        from threading import Thread

        try:
            boxes = []
            thread = Thread(target=lambda: boxes.append(un.Sandbox(FOREVER, id=id)))
            thread.start()
            thread.join()
            assert boxes[0].state()["status"] == "running"
            if os.fork() == 0:
                os.read(over, 1)
            else:
                os.write(theirs, b"+")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(ours, 1) == b"+"
    os.kill(pid, signal.SIGKILL)
    assert wait_until_gone(id, EXIT_SECONDS) == []
    os.waitpid(pid, 0)
    # Let the creator's forked child exit.
    os.write(end, b"+")
    for fd in (ours, theirs, over, end):
        os.close(fd)
