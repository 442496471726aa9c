"""Tests of detached sandboxes, Sandbox(..., detach=True), which outlive their creator."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from callers import MAP_OF_SEVERAL, several_ids, unprivileged
from conftest import EXIT_SECONDS, open_descriptors
from processes import kill_and_wait, processes_with, status_of, umask, wait_until_gone

import usernsctl as un
from usernsctl._system import processes
from usernsctl._system.processes import ProcessIdentity
from usernsctl.gvisor.sandbox import detached, records

pytestmark = pytest.mark.usefixtures("detached_state")

PATIENCE = 20
FOREVER = ["sleep", "1000"]
TRAP = ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"]


@pytest.fixture
def marker() -> str:
    """Return a sandbox id that no other test uses."""
    return f"detached-{os.getpid()}-{time.monotonic_ns()}"


def create(id: str, script: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run `script` in a new Python process, where `host` is a SandboxHost; return the result."""
    begin = f"import os, usernsctl as un\nhost = un.SandboxHost()\nid = {id!r}\n"
    return subprocess.run(
        [sys.executable, "-c", begin + script], **{"capture_output": True, "text": True} | streams
    )


@pytest.mark.also_root
@pytest.mark.usefixtures("let_init_reap")
def test_detached_sandbox_outlives_its_killed_creator(marker: str, detached_state: Path) -> None:
    script = f"un.Sandbox({TRAP}, host=host, id=id, detach=True)\nos.kill(os.getpid(), 9)"
    killed = create(marker, script)
    # subprocess.run() has read end of file from its pipe, so the sandbox has not inherited the
    # pipe.
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = [line.split()[0] for line in processes_with(marker)]
    assert sorted(map(os.path.basename, names)) == [
        "runsc-gofer",
        "runsc-sandbox",
        "usernsctl-detach",
    ]

    with un.Sandbox.attach(marker) as box:
        assert (box.id, box.args, box.detached) == (marker, tuple(TRAP), True)
        assert [box.stdin, box.stdout, box.stderr] == [None, None, None]
        assert box.state()["status"] == "running"
        # ls has not been executed before, so its start shows that the root filesystem is still
        # mounted.
        done = box.run(["sh", "-c", "ls /etc/passwd; exit 3"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (3, "/etc/passwd\n")
        assert box.poll() is None
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(box.wait, PATIENCE)
            box.terminate()
            assert waiting.result() == 9
        assert box.poll() == box.returncode == 9
        assert box.state() == {"id": marker, "status": "stopped"}
        box.terminate()
        with pytest.raises(un.CommandError, match="has ended"):
            box.run(["true"])
    assert processes_with(marker) == []
    assert os.listdir(detached_state) == []


def test_failed_start_sends_the_caller_no_sigpipe(stand_in: Callable[[str], None]) -> None:
    """Check that a start fails with an error where SIGPIPE has its default action.

    usernsctl-detach has exited, and closed its end of the connection, before the caller sends the
    last message.
    """
    real = shutil.which("runsc")
    stand_in(f'#!/bin/sh\ncase " $* " in *" run "*) exit 3 ;; esac\nexec {real} "$@"\n')
    signals: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: signals.append(number))
    try:
        with un.SandboxHost() as host, pytest.raises(un.RunscError):
            host.start(FOREVER, detach=True)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert signals == []


def test_timeout_expired_has_the_timeout_of_the_caller(host: un.SandboxHost) -> None:
    with host.start(FOREVER, detach=True) as box:
        for call in (box.wait, lambda seconds: box.communicate(timeout=seconds)):
            with pytest.raises(un.TimeoutExpired) as caught:
                call(0.25)
            assert caught.value.timeout == 0.25


@pytest.mark.also_root
def test_creator_uses_and_closes_a_detached_sandbox(
    host: un.SandboxHost, marker: str, detached_state: Path
) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    with host.start(FOREVER, id=marker, detach=True) as box:
        assert [one.id for one in un.Sandbox.list_detached()] == [marker]
        assert box.run(["true"]).returncode == 0
        with pytest.raises(un.TimeoutExpired):
            box.wait(0.05)
        with pytest.raises(ValueError, match="the sandbox is detached: "):
            _ = box.init
    assert box.returncode == -signal.SIGKILL
    assert (open_descriptors(), os.listdir(host.directory)) == before
    assert (processes_with(marker), os.listdir(detached_state)) == ([], [])


def test_released_sandbox_keeps_running(host: un.SandboxHost, marker: str) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    with host.start(FOREVER, id=marker, detach=True) as box:
        box.release()
        with pytest.raises(ValueError, match="released"):
            box.run(["true"])
    box.close()
    assert (open_descriptors(), os.listdir(host.directory)) == before
    with un.Sandbox.attach(marker) as again, un.Sandbox.attach(marker) as third:
        third.release()
        assert again.state()["status"] == "running"
    with host.start(FOREVER) as held, pytest.raises(ValueError, match="not detached"):
        held.release()


def test_duplicate_id_raises_and_keeps_the_first_sandbox(host: un.SandboxHost, marker: str) -> None:
    def start(_: int) -> un.Sandbox | None:
        try:
            return un.Sandbox(FOREVER, id=marker, detach=True)
        except un.RunscError as error:
            assert error.cause == "duplicate-id"
            return None

    with ThreadPoolExecutor(3) as pool:
        won = [box for box in pool.map(start, range(3)) if box is not None]
    assert len(won) == 1
    with won[0] as box:
        assert start(0) is None
        # Ids of attached sandboxes are unique only within a host. So an attached sandbox may have
        # the id of a detached sandbox.
        with host.start(FOREVER, id=marker):
            assert box.run(["true"]).returncode == 0
    with un.Sandbox(FOREVER, id=marker, detach=True):
        box.close()
        assert [one.id for one in un.Sandbox.list_detached()] == [marker]


@pytest.mark.sampled(4)
@pytest.mark.also_root
@pytest.mark.parametrize("look", ["attach", "list", "start", "close"])
def test_record_of_a_dead_sandbox_is_removed(
    host: un.SandboxHost, marker: str, detached_state: Path, look: str
) -> None:
    box = host.start(FOREVER, id=marker, detach=True)
    kill_and_wait(un.Sandbox.list_detached()[0].pid)
    if look == "attach":
        with pytest.raises(un.RunscError, match="has ended") as caught:
            un.Sandbox.attach(marker)
        assert caught.value.cause == "no-such-sandbox"
    elif look == "list":
        assert un.Sandbox.list_detached() == []
    elif look == "start":
        host.start(FOREVER, id=f"{marker}-2", detach=True).close()
        un.Sandbox(FOREVER, id=marker, detach=True).close()
    assert box.state() == {"id": marker, "status": "stopped"}
    box.close()
    assert os.listdir(detached_state) == []


@unprivileged
def test_sandbox_with_an_unremovable_record_is_closed(
    host: un.SandboxHost, marker: str, detached_state: Path
) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    box = host.start(FOREVER, id=marker, detach=True)
    (detached_state / marker).chmod(0o500)
    with pytest.raises(un.NamespaceError, match="Permission denied"):
        box.close()
    assert (open_descriptors(), os.listdir(host.directory)) == before
    assert wait_until_gone(marker, EXIT_SECONDS) == []
    (detached_state / marker).chmod(0o700)
    host.start(FOREVER, id=marker, detach=True).close()
    box.close()
    assert os.listdir(detached_state) == []


@pytest.mark.parametrize(
    "patched", [(un.DetachedRecord, "open_processes"), (detached, "open_runsc_state")]
)
def test_failed_attach_leaks_no_descriptor(
    host: un.SandboxHost,
    marker: str,
    monkeypatch: pytest.MonkeyPatch,
    patched: tuple[object, str],
) -> None:
    def fail(_: object) -> None:
        raise un.RunscError("made up", step="sandbox")

    with host.start(FOREVER, id=marker, detach=True), monkeypatch.context() as patch:
        before = open_descriptors()
        patch.setattr(*patched, fail)
        with pytest.raises(un.RunscError, match="made up") as caught:
            un.Sandbox.attach(marker)
        # Check that the descriptors are closed although the error and its traceback still exist.
        assert open_descriptors() == before
        assert caught.value.step == "sandbox"


def test_process_that_survives_sigkill_blocks_no_caller(
    host: un.SandboxHost, marker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that calls raise, instead of blocking, if a sandbox's process survives SIGKILL.

    A process can survive SIGKILL in an uninterruptible FUSE request; here, SIGKILL is not sent.
    """
    with host.start(FOREVER, id=marker, detach=True), monkeypatch.context() as patch:
        for module in (records, processes):
            patch.setattr(module, "kill", lambda pidfd: None)
        patch.setattr(records, "_END_SECONDS", 0.1)
        with pytest.raises(un.NamespaceError, match="was killed, and has not ended"):
            un.Sandbox.attach(marker).close()
        # Simulate that the sandbox's main process has exited, while another process survives.
        patch.setattr(un.DetachedRecord, "is_alive", lambda self: False)
        assert un.Sandbox.list_detached() == []
        with pytest.raises(un.NamespaceError, match="was killed, and has not ended"):
            un.Sandbox.attach(marker)


@pytest.mark.usefixtures("let_init_reap")
@pytest.mark.parametrize("keeper_dies", [False, True])
def test_exit_status_is_known_only_while_the_watcher_lives(
    host: un.SandboxHost, marker: str, keeper_dies: bool
) -> None:
    command = ["sh", "-c", "read line; exit 7"]
    with (
        host.start(command, id=marker, detach=True, stdin=un.PIPE) as box,
        un.Sandbox.attach(marker) as other,
    ):
        if keeper_dies:
            (record,) = un.Sandbox.list_detached()
            kill_and_wait(int(status_of(record.pid)["PPid"]))
        box.stdin.write(b"end\n")
        box.stdin.flush()
        assert wait_until_gone(marker, PATIENCE) == []
        if not keeper_dies:
            assert (other.wait(), box.poll(), asyncio.run(box.wait_async())) == (7, 7, 7)
            return
        # Call wait() first: wait_until_gone() searches command lines, and an exiting process loses
        # its command line before it has exited.
        for look in (other.wait, box.poll, lambda: asyncio.run(box.wait_async())):
            with pytest.raises(un.RunscError, match="not known") as caught:
                look()
            assert caught.value.cause == "exit-status-unknown"
        assert box.returncode is None


def test_exit_status_is_known_once_a_slow_watcher_has_written_it(
    host: un.SandboxHost, marker: str
) -> None:
    command = ["sh", "-c", "read line; exit 7"]
    with host.start(command, id=marker, detach=True, stdin=un.PIPE) as box:
        (record,) = un.Sandbox.list_detached()
        watcher = int(status_of(record.pid)["PPid"])
        os.kill(watcher, signal.SIGSTOP)
        try:
            box.stdin.write(b"end\n")
            box.stdin.flush()
            with pytest.raises(un.RunscError, match="not known"):
                box.wait()
        finally:
            os.kill(watcher, signal.SIGCONT)
        assert wait_until_gone(marker, PATIENCE) == []
        assert (box.wait(), box.poll()) == (7, 7)


def test_exit_status_is_known_with_umask_0777(host: un.SandboxHost, marker: str) -> None:
    command = ["sh", "-c", "read line; exit 7"]
    with (
        umask(0o777),
        host.start(command, id=marker, detach=True, stdin=un.PIPE) as box,
        un.Sandbox.attach(marker) as other,
    ):
        box.stdin.close()
        assert (box.wait(PATIENCE), other.wait(PATIENCE)) == (7, 7)


def test_exit_status_outlives_the_record(host: un.SandboxHost, marker: str) -> None:
    """Check that the exit status is known although list_detached() has removed the record.

    `usernsctl ps` calls list_detached().
    """
    command = ["sh", "-c", "read line; exit 7"]
    with (
        host.start(command, id=marker, detach=True, stdin=un.PIPE) as box,
        un.Sandbox.attach(marker) as other,
    ):
        box.stdin.write(b"end\n")
        box.stdin.flush()
        assert wait_until_gone(marker, PATIENCE) == []
        assert un.Sandbox.list_detached() == []
        assert (other.wait(), box.poll(), asyncio.run(box.wait_async())) == (7, 7, 7)


def test_reason_of_the_end_outlives_the_record(marker: str) -> None:
    with un.Sandbox(FOREVER, id=marker, detach=True, ttl=3) as box:
        assert wait_until_gone(marker, PATIENCE) == []
        assert un.Sandbox.list_detached() == []
        with pytest.raises(un.SandboxEndedError) as caught:
            box.run(["true"])
        assert caught.value.cause == "timeout"
        assert box.poll() == -signal.SIGKILL


@pytest.mark.usefixtures("let_init_reap")
def test_wait_async_returns_the_exit_status(host: un.SandboxHost, marker: str) -> None:
    async def main() -> int:
        async with await host.start_async(TRAP, id=marker, detach=True, stdout=un.PIPE) as box:
            assert box.stdout.readline() == b"ready\n"
            waiting = asyncio.create_task(box.wait_async())
            cancelled = asyncio.create_task(box.wait_async())
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            box.terminate()
            return await waiting

    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == 9


@pytest.mark.also_root
def test_output_is_appended_to_files(host: un.SandboxHost, marker: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("before\n")
    with target.open("a") as file:
        box = host.start(["sh", "-c", "echo more; exec sleep 1000"], id=marker, detach=True,
                         stdout=file, stderr=file)  # fmt: skip
    with box:
        deadline = time.monotonic() + PATIENCE
        while target.read_text() != "before\nmore\n":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_pipes_close_when_the_creator_exits(marker: str) -> None:
    """Check that the exit of the creator closes the pipes of the command.

    The command must read end of file, and then fail to write its output.
    """
    script = "echo ready; cat; trap '' PIPE; while echo more; do :; done; exec sleep 1000"
    command = ["sh", "-c", script]
    script = (
        f"box = un.Sandbox({command}, host=host, id=id, detach=True, stdin=un.PIPE, "
        "stdout=un.PIPE)\nassert box.stdout.readline() == b'ready\\n'\nos._exit(0)"
    )
    done = create(marker, script)
    assert done.returncode == 0, done.stderr
    with un.Sandbox.attach(marker) as box:
        deadline = time.monotonic() + PATIENCE
        while "sleep" not in box.run(["ps", "-e"], capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline


@pytest.mark.also_root
@several_ids
def test_detached_sandbox_maps_several_ids(marker: str) -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as many:
        many.start(FOREVER, id=marker, user=(5, 6), detach=True).release()
    with un.Sandbox.attach(marker) as box:
        for user, told in ((None, "5:6"), ((7, 8), "7:8")):
            done = box.run(["sh", "-c", "echo $(id -u):$(id -g)"],
                           user=user or (5, 6), capture_output=True, text=True)  # fmt: skip
            assert done.stdout == f"{told}\n", done.stderr


@pytest.mark.parametrize("record", ["", "{", "[]", '{"id": "x", "processes": []}', None])
def test_invalid_records_are_removed(detached_state: Path, record: str | None) -> None:
    (detached_state / "odd").mkdir(parents=True)
    detached_state.parent.chmod(0o700)
    if record is not None:
        (detached_state / "odd" / "record.json").write_text(record)
    assert un.Sandbox.list_detached() == []
    assert os.listdir(detached_state) == []


def test_record_of_another_pid_namespace_is_kept(
    host: un.SandboxHost, marker: str, detached_state: Path
) -> None:
    with host.start(FOREVER, id=marker, detach=True):
        file = detached_state / marker / "record.json"
        record = json.loads(file.read_text())
        elsewhere = {"pid": 1, "start_time": 0, "pid_namespace": 1}
        record["processes"] = [one | elsewhere for one in record["processes"]]
        file.write_text(json.dumps(record))
        assert un.Sandbox.list_detached() == []
        with pytest.raises(
            un.RunscError, match="in this PID namespace: the sandbox is in another one"
        ):
            un.Sandbox.attach(marker)
        with pytest.raises(un.RunscError, match="already"):
            host.start(FOREVER, id=marker, detach=True)
        assert file.exists()


def test_invalid_arguments_raise_and_leak_nothing(
    host: un.SandboxHost, marker: str, detached_state: Path
) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    with pytest.raises(un.RunscError, match="/proc/no"):
        host.start(["true"], id=marker, detach=True, cwd="/proc/no/such")
    assert os.listdir(detached_state) == []
    for id in ("../x", "", "a" * 65):
        with pytest.raises(ValueError, match="can't be the id"):
            un.Sandbox.attach(id)
    with pytest.raises(un.RunscError, match="there is no detached sandbox") as caught:
        un.Sandbox.attach(marker)
    assert caught.value.cause == "no-such-sandbox"
    detached_state.parent.chmod(0o755)
    with pytest.raises(un.NamespaceError, match="is not private"):
        host.start(FOREVER, id=marker, detach=True)
    detached_state.parent.chmod(0o700)
    assert (open_descriptors(), os.listdir(host.directory)) == before
    assert processes_with(marker) == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [(socket, "socketpair"), (ProcessIdentity, "of"), (detached, "_namespace_of_runsc")],
)
def test_interrupted_start_leaks_nothing(
    host: un.SandboxHost,
    marker: str,
    detached_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    before = open_descriptors(), os.listdir(host.directory)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            host.start(FOREVER, id=marker, detach=True)
    assert (open_descriptors(), os.listdir(host.directory)) == before
    assert wait_until_gone(marker, EXIT_SECONDS) == []
    assert os.listdir(detached_state) == []


def test_close_in_a_forked_child_keeps_the_sandbox(host: un.SandboxHost, marker: str) -> None:
    for detach in (False, True):
        with host.start(FOREVER, id=marker, detach=detach) as box:
            pid = os.fork()
            if pid == 0:
                box.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert box.run(["true"]).returncode == 0
            assert box.state()["status"] == "running"


def test_start_at_the_descriptor_limit_leaks_nothing(
    host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start detached sandboxes with only a few free descriptors; check that nothing leaks.

    $XDG_RUNTIME_DIR must be a short path, because opening a path needs a descriptor for each
    component. With a long path, every start would fail at that step.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        run_out_of_descriptors(host)


def run_out_of_descriptors(host: un.SandboxHost) -> None:
    un.Sandbox.list_detached()
    before = open_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures = 0
    lowest = os.dup(0)
    os.close(lowest)
    for room in range(24):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, limits[1]))
        try:
            host.start(FOREVER, detach=True).close()
        except un.UsernsError as error:
            assert error.errno == errno.EMFILE
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert open_descriptors() == before
        # The failed start has left the sandbox's files, but not their lock, so list_detached()
        # removes them.
        assert un.Sandbox.list_detached() == []
    assert failures
