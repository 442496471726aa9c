"""Tests of detached sandboxes in gVisor that reach only allowed names."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import open_descriptors
from network_world import PUBLIC, World, made
from processes import children_of, kill_and_wait, status_of, wait_until_gone
from proxied import FETCH, Server

import usernsctl as un
from usernsctl._system.descriptors import wait_readable
from usernsctl.gvisor.sandbox import detached

pytestmark = pytest.mark.usefixtures("detached_state")

PATIENCE = 30
FOREVER = ["sleep", "1000"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("world"), {"good.example": [PUBLIC]}) as world:
        yield world


@pytest.fixture
def marker(request: pytest.FixtureRequest) -> str:
    """Return a sandbox id that no other test uses."""
    return f"allow-{os.getpid()}-{abs(hash(request.node.nodeid))}"


KILLED = """
import os, usernsctl as un
host = un.SandboxHost(allow=["good.example"])
box = un.Sandbox(None, host=host, id="box", detach=True)
os.kill(os.getpid(), 9)
"""

ATTACHED = f"""
import json, usernsctl as un
fetch = ["/usr/bin/python3", "-c", {FETCH!r}]
with un.Sandbox.attach("box") as box:
    good = box.run([*fetch, "http://good.example/"], capture_output=True, text=True)
    evil = box.run([*fetch, "http://evil.example/"], capture_output=True, text=True)
    again = un.Sandbox.attach("box")
    listed = [[each.text, each.count] for each in again.refusals()]
    again.release()
    box.kill()
    result = box.result().denied
print(json.dumps([good.stdout, good.denied, evil.stdout, evil.denied, listed, result, box.denied]))
"""


def test_proxy_serves_a_sandbox_whose_creator_was_killed(world: World, tmp_path: Path) -> None:
    environment = {"XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
    with Server(world) as server:
        killed = world.run("machine", sys.executable, "-c", KILLED, **environment)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        done = world.run("machine", sys.executable, "-c", ATTACHED, **environment)
    assert done.returncode == 0, done.stderr
    reason = "no --allow option allows this host and port"
    assert json.loads(done.stdout) == [
        "200 ok\n",
        0,
        f"403 usernsctl: {reason}\n",
        1,
        [[f"evil.example:80: {reason}", 1]],
        1,
        1,
    ]
    assert len(server.received) == 1


def proxy_of(id: str) -> int:
    """Return a pidfd of a detached sandbox's proxy."""
    (record,) = [one for one in un.Sandbox.list_detached() if one.id == id]
    assert record.proxy is not None
    return os.pidfd_open(record.proxy.pid)


def keeper_of(id: str) -> int:
    (record,) = [one for one in un.Sandbox.list_detached() if one.id == id]
    return int(status_of(record.pid)["PPid"])


def network_of(id: str) -> int:
    """Return the pid of usernsctl-network, whose process name the kernel has truncated."""
    names = {status_of(pid)["Name"]: pid for pid in children_of(keeper_of(id))}
    return names["usernsctl-netwo"]


def terminate(id: str) -> None:
    with un.Sandbox.attach(id) as box:
        box.terminate()
        box.release()


ENDS = {
    "the sandbox": lambda id: os.kill(un.Sandbox.list_detached()[0].pid, signal.SIGKILL),
    "the keeper": lambda id: os.kill(keeper_of(id), signal.SIGKILL),
    "the network": lambda id: os.kill(network_of(id), signal.SIGKILL),
    "SIGTERM to the keeper": lambda id: os.kill(keeper_of(id), signal.SIGTERM),
    "the command": terminate,
    "close": lambda id: un.Sandbox.attach(id).close(),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_proxy_ends_with_its_detached_sandbox(end: object, marker: str) -> None:
    assert callable(end)
    command = ["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"]
    with un.Sandbox(command, allow=["good.example"], id=marker, detach=True) as box:
        pidfd = proxy_of(marker)
        try:
            end(marker)
            assert wait_readable(pidfd, timeout=PATIENCE)
        finally:
            os.close(pidfd)
    assert box.denied == 0
    assert wait_until_gone(marker, PATIENCE) == []


def test_stopped_proxy_delays_no_exit_status(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with un.Sandbox(FOREVER, allow=["good.example"], id=marker, detach=True) as box:
        pidfd = proxy_of(marker)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            box.kill()
            results: list[bool] = []

            def wait(*fds: int, timeout: float | None = None) -> bool:
                results.append(wait_readable(*fds, timeout=timeout))
                return results[-1]

            with monkeypatch.context() as patched:
                patched.setattr(detached, "wait_readable", wait)
                assert box.wait(PATIENCE) == -signal.SIGKILL
            # Check that no wait for the exit status timed out, although the proxy is still running.
            assert results.count(False) == 0
            assert not wait_readable(pidfd, timeout=0)
        finally:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def test_killed_proxy_of_a_detached_sandbox_is_not_replaced(world: World, tmp_path: Path) -> None:
    code = (
        "import os, signal, usernsctl as un\n"
        "with un.Sandbox(None, allow=['good.example'], id='box', detach=True) as box:\n"
        "    os.kill(un.Sandbox.list_detached()[0].proxy.pid, signal.SIGKILL)\n"
        f"    print(box.run(['/usr/bin/python3', '-c', {FETCH!r}, 'http://good.example/'],\n"
        "        capture_output=True, text=True).stdout)\n"
    )
    with Server(world) as server:
        environment = {"XDG_RUNTIME_DIR": str(tmp_path / "runtime")}
        done = world.run("machine", sys.executable, "-c", code, **environment)
    assert "refused" in done.stdout, done.stderr
    assert server.received == []


FORKING = """
import os, signal, sys, usernsctl as un
from usernsctl.gvisor.sandbox import attached, detached

start = detached.start_within

def fork_first(*arguments, **options):
    # The forked child has a copy of the proxy's Unix socket.
    fork = os.fork()
    if fork == 0:
        os.close(1)
        signal.pause()
    print(fork, flush=True)
    if sys.argv[1] == "before":
        signal.pause()
    return start(*arguments, **options)

attached.start_within = detached.start_within = fork_first
is_detached = sys.argv[2] == "detached"
box = un.Sandbox(["sleep", "1000"], allow=["good.example"], id=sys.argv[3], detach=is_detached)
print("started", flush=True)
signal.pause()
"""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["attached", "detached"])
def test_fork_of_a_killed_creator_does_not_keep_the_proxy(
    kind: str, moment: str, marker: str
) -> None:
    command = [sys.executable, "-c", FORKING, moment, kind, marker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as creator:
        assert creator.stdout is not None
        fork = int(creator.stdout.readline())
        try:
            if moment == "after":
                assert creator.stdout.readline() == "started\n"
            (proxy,) = [pid for pid in children_of(creator.pid) if is_proxy(pid)]
            pidfd = os.pidfd_open(proxy)
            creator.kill()
            if (kind, moment) == ("detached", "after"):
                assert not wait_readable(pidfd, timeout=1)
                terminate(marker)
            assert wait_readable(pidfd, timeout=PATIENCE)
            os.close(pidfd)
        finally:
            kill_and_wait(fork)
    # The sandbox was not started, so list_detached() removes its unfinished record.
    assert un.Sandbox.list_detached() == []


def is_proxy(pid: int) -> bool:
    return b"proxy_child" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_failed_start_ends_the_proxy(marker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise un.RunscError("made up", step="sandbox")

    with un.SandboxHost(allow=["good.example"]) as host:
        for name in ("hand_over", "start_within", "describe_detached"):
            before = (open_descriptors(), children_of(os.getpid()))
            with monkeypatch.context() as patched:
                patched.setattr(detached, name, fail)
                with pytest.raises(un.RunscError, match="made up") as caught:
                    host.start(FOREVER, id=marker, detach=True)
            assert (open_descriptors(), children_of(os.getpid())) == before
            del caught
        with pytest.raises(un.CommandError):
            host.start(["/missing"], id=marker, detach=True)
        assert wait_until_gone(marker, PATIENCE) == []


def test_creator_of_a_detached_sandbox_with_a_proxy_exits_without_a_warning(marker: str) -> None:
    code = (
        "import sys, usernsctl as un\n"
        "with un.SandboxHost(allow=['good.example']) as host:\n"
        "    host.start(['sleep', '1000'], id=sys.argv[1], detach=True).release()\n"
    )
    command = [sys.executable, "-X", "dev", "-c", code, marker]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    un.Sandbox.attach(marker).close()
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("let_init_reap")
def test_released_proxy_is_reaped_without_a_warning(marker: str) -> None:
    with un.SandboxHost(allow=["good.example"]) as host:
        before = open_descriptors(), children_of(os.getpid())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            host.start(FOREVER, id=marker, detach=True).release()
            gc.collect()
        assert open_descriptors() == before[0]
        pidfd = proxy_of(marker)
        os.kill(keeper_of(marker), signal.SIGTERM)
        assert wait_readable(pidfd, timeout=PATIENCE)
        os.close(pidfd)
        assert wait_until_gone(marker, PATIENCE) == []
        # Call subprocess.run() only because it first reaps exited children of earlier Popen
        # objects.
        subprocess.run(["true"], check=True)
        assert un.Sandbox.list_detached() == []
        assert (open_descriptors(), children_of(os.getpid())) == before
