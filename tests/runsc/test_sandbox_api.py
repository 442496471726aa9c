"""Tests of usernsctl.Sandbox and SandboxHost as long-running programs use them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gvisor
import pytest
from callers import MAP_OF_SEVERAL, several_ids
from conftest import Program, children, open_descriptors
from processes import check_output, children_of, processes_with, status_of

import usernsctl as un

# Timeout of each wait, in seconds.
PATIENCE = 20
FOREVER = ["sleep", "1000"]
# Bit mask of CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN and CAP_SETFCAP
# (linux/capability.h).
NEEDED = sum(1 << number for number in (6, 7, 18, 21, 31))
TRAP = ["sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"]


@pytest.mark.also_root
def test_start_runs_a_command_with_pipes(host: un.SandboxHost) -> None:
    script = ["sh", "-c", "cat /proc/version; cat; echo err >&2; exit 5"]
    pipes = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}
    with host.start(script, **pipes) as box:
        out, err = box.communicate(b"input", timeout=PATIENCE)
        assert gvisor.is_version(out.removesuffix(b"input").decode())
        assert err == b"err\n"
        assert box.wait(PATIENCE) == 5
        assert box.poll() == box.returncode == 5
        assert box.state() == {"id": box.id, "status": "stopped"}


def test_output_is_appended_to_a_file(host: un.SandboxHost, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_text("before\n")
    with target.open("a") as file, host.start(["echo", "more"], stdout=file, stderr=file) as box:
        assert box.wait(PATIENCE) == 0
    assert target.read_text() == "before\nmore\n"


def test_start_sets_environment_and_cwd(host: un.SandboxHost) -> None:
    script = ["sh", "-c", "echo $GIVEN; pwd; cat /proc/self/environ | tr '\\0' '\\n'"]
    options = {"env": {"GIVEN": "yes"}, "cwd": "/usr/bin", "stdout": un.PIPE}
    with host.start(script, **options) as box:
        out = box.stdout.read().decode().split("\n")
    assert out[:2] == ["yes", "/usr/bin"]
    names = {line.partition("=")[0] for line in out[2:]} - {"", "PWD"}
    assert names <= {"GIVEN", "HOME", "PATH", "LANG", "TERM"}


@pytest.mark.also_root
def test_signals_reach_the_command(host: un.SandboxHost) -> None:
    with host.start(TRAP, stdout=un.PIPE) as box:
        assert box.stdout.readline() == b"ready\n"
        box.terminate()
        assert box.wait(PATIENCE) == 9
        box.terminate()
    with host.start(FOREVER) as box:
        box.send_signal(signal.SIGTERM)
        assert box.wait(PATIENCE) == -signal.SIGTERM
    with host.start(FOREVER) as box:
        box.kill()
        assert box.wait(PATIENCE) == -signal.SIGKILL


@pytest.mark.parametrize("program", ["id", Path("/usr/bin/id"), b"id"])
def test_command_may_be_a_single_string_path_or_bytes(host: un.SandboxHost, program: Any) -> None:
    with host.start(program, stdout=un.PIPE, cwd=Path("/usr")) as box:
        assert box.stdout.read().startswith(b"uid=0")
    with host.start(FOREVER) as box:
        done = box.run(program, capture_output=True, cwd=Path("/usr"))
        assert done.stdout.startswith(b"uid=0")
        with pytest.raises(ValueError, match="empty"):
            box.run([])


def test_wait_raises_after_its_timeout(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        with pytest.raises(un.TimeoutExpired) as caught:
            box.wait(0.05)
        assert caught.value.cmd == tuple(FOREVER)
        assert box.poll() is None
        assert box.state()["status"] == "running"


@pytest.mark.also_root
def test_further_commands_run_in_the_sandbox(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        done = box.run(["sh", "-c", "echo $A; pwd; id -u; exit 3"],
                       env={"A": "b"}, cwd="/usr", capture_output=True, text=True)  # fmt: skip
        assert (done.returncode, done.stdout) == (3, "b\n/usr\n0\n")
        with box.popen(["cat"], stdin=un.PIPE, stdout=un.PIPE) as cat:
            assert cat.communicate(b"hi") == (b"hi", None)
    with pytest.raises(un.CommandError, match="has ended"):
        box.run(["true"])


def test_sandbox_creates_its_own_host() -> None:
    with un.Sandbox(["id", "-u"], stdout=un.PIPE) as box:
        assert box.stdout.read() == b"0\n"
        assert box.wait() == 0


# Program that starts sandboxes and templates although the module prctl can't be imported.
WITHOUT_PRCTL = """
import sys
sys.modules["prctl"] = None
import usernsctl as un

with un.SandboxHost() as host:
    with host.start(["sleep", "1000"]) as box:
        print(box.check_output(["echo", "in it"], text=True), end="")
    with host.python_template(preload=["decimal"], cwd="/") as template:
        words = ["-c", "import decimal; print(decimal.Decimal(1) / 4)"]
        with template.start(words, stdout=un.PIPE) as box:
            print(box.communicate()[0].decode(), end="")
"""


def test_sandboxes_and_templates_need_no_python_prctl() -> None:
    assert check_output([sys.executable, "-c", WITHOUT_PRCTL], timeout=100) == "in it\n0.25\n"


@pytest.mark.also_root
def test_host_runs_a_bundle(tmp_path: Path, usernsctl: Program) -> None:
    made = usernsctl("bundle", "init", tmp_path / "b", "--rootfs", "/", "--", "sh", "-c", "exit 6")
    assert made.returncode == 0, made.stderr
    with un.SandboxHost(bundle=str(tmp_path / "b"), trust=True) as bundle:
        with bundle.start() as box:
            assert box.wait(PATIENCE) == 6
        with bundle.start(["sh", "-c", "exit 7"]) as box:
            assert box.wait(PATIENCE) == 7


@pytest.mark.also_root
def test_bind_mounts_are_visible_inside(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shown")
    bind = un.Bind(str(tmp_path), "/shown", read_only=False)
    script = ["sh", "-c", "cat /shown/file; echo new >/shown/new"]
    with un.Sandbox(script, stdout=un.PIPE, binds=[bind]) as box:
        assert box.stdout.read() == b"shown"
        assert box.wait(PATIENCE) == 0
    assert (tmp_path / "new").read_text() == "new\n"


@pytest.mark.also_root
def test_duplicate_id_raises_and_keeps_the_first_sandbox(host: un.SandboxHost) -> None:
    with host.start(FOREVER, id="mine") as box:
        with pytest.raises(un.RunscError) as caught:
            host.start(["true"], id="mine")
        assert caught.value.cause == "duplicate-id"
        assert box.run(["true"]).returncode == 0
        box.close()
        # The id of a closed sandbox may be used again. A second close() must not affect the new
        # sandbox with that id.
        with host.start(FOREVER, id="mine") as second:
            box.close()
            assert second.state()["status"] == "running"


def test_only_one_of_four_threads_gets_an_id(host: un.SandboxHost) -> None:
    def start(_: int) -> un.Sandbox | None:
        try:
            return host.start(FOREVER, id="wanted")
        except un.RunscError as error:
            assert error.cause == "duplicate-id"
            return None

    with ThreadPoolExecutor(4) as pool:
        won = [box for box in pool.map(start, range(4)) if box is not None]
    assert len(won) == 1
    assert won[0].state()["status"] == "running"
    won[0].close()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"args": []}, ValueError),
        ({"args": [1]}, TypeError),
        ({"args": ["true"], "id": "../x"}, ValueError),
        ({"args": ["true"], "user": "no-such-user"}, un.CommandError),
        ({"args": ["true"], "network": "none"}, ValueError),
        ({"args": ["true"], "env": {"A=B": "c"}}, ValueError),
    ],
)
def test_invalid_arguments_raise_and_leak_nothing(
    host: un.SandboxHost, options: dict[str, Any], kind: type[Exception]
) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    with pytest.raises(kind):
        host.start(**options)
    assert (open_descriptors(), os.listdir(host.directory)) == before


@pytest.mark.also_root
def test_message_of_a_failed_runsc_is_in_the_error(host: un.SandboxHost) -> None:
    before = os.listdir(host.directory)
    with pytest.raises(un.RunscError) as caught:
        host.start(["true"], cwd="/proc/no/such")
    assert "/proc/no" in str(caught.value)
    assert os.listdir(host.directory) == before


def test_start_of_a_closed_host_raises() -> None:
    closed = un.SandboxHost()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.start(["true"])


@pytest.mark.parametrize(
    "options",
    [
        {"network": "magic"},
        {"platform": "magic"},
        {"bundle": "/b", "rootfs": "/r"},
        {"rootfs": "/no/such/rootfs"},
        {"bundle": "/no/such/bundle"},
        {"idmap": un.IdMap()},
    ],
)
def test_invalid_host_options_raise_and_leak_nothing(options: dict[str, Any]) -> None:
    before = open_descriptors(), children()
    with pytest.raises((ValueError, un.PlanError, un.BindError)):
        un.SandboxHost(**options)
    assert (open_descriptors(), children()) == before


@pytest.mark.also_root
def test_close_leaves_no_process_or_file(host: un.SandboxHost) -> None:
    before = open_descriptors(), children(), os.listdir(host.directory)
    for _ in range(3):
        box = host.start(FOREVER)
        box.close()
        assert processes_with(box.id) == []
    assert (open_descriptors(), children(), os.listdir(host.directory)) == before


@pytest.mark.also_root
def test_attached_sandbox_has_no_waiting_runsc(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as box:
        names = [line.split()[0].rpartition("/")[2] for line in processes_with(box.id)]
        assert sorted(names) == ["runsc-gofer", "runsc-sandbox", "usernsctl-init"]


def test_command_that_exits_immediately_has_its_status(
    host: un.SandboxHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_pid = un.Namespace.from_pid

    def late(pid: int) -> un.Namespace:
        pidfd = os.pidfd_open(pid)
        select.select([pidfd], [], [])
        os.close(pidfd)
        return from_pid(pid)

    monkeypatch.setattr(un.Namespace, "from_pid", late)
    with host.start(["sh", "-c", "exit 5"]) as box:
        assert box.wait() == 5
        assert box.state()["status"] == "stopped"
        box.terminate()


@pytest.mark.thorough
def test_eight_sandboxes_start_from_asyncio(host: un.SandboxHost) -> None:
    async def one(number: int, slots: asyncio.Semaphore) -> int:
        async with slots, await host.start_async(["sh", "-c", f"exit {number}"]) as box:
            statuses = await asyncio.gather(box.wait_async(), box.wait_async())
            assert statuses[0] == statuses[1]
            return statuses[0]

    async def main() -> list[int]:
        slots = asyncio.Semaphore(4)
        return await asyncio.gather(*(one(number, slots) for number in range(8)))

    assert asyncio.run(main()) == list(range(8))


def test_further_commands_run_from_asyncio(host: un.SandboxHost) -> None:
    async def main() -> None:
        async with await host.start_async(FOREVER) as box:
            process = await box.create_subprocess_exec("echo", "hi", stdout=un.PIPE)
            assert await process.communicate() == (b"hi\n", None)

    asyncio.run(main())


def test_a_cancelled_start_leaves_no_sandbox(host: un.SandboxHost) -> None:
    marker = f"cancelled-{os.getpid()}"

    async def is_cancelled() -> bool:
        starting = asyncio.create_task(host.start_async(FOREVER, id=marker))
        while marker not in os.listdir(host.directory):
            await asyncio.sleep(0.001)
        starting.cancel()
        (started,) = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(started, un.Sandbox):
            await started.close_async()
        while marker in os.listdir(host.directory):
            await asyncio.sleep(0.001)
        return isinstance(started, asyncio.CancelledError)

    async def main() -> None:
        # Retry: on a busy host, the sandbox may have started before starting.cancel().
        while not await is_cancelled():
            pass

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert processes_with(marker) == []


@pytest.mark.also_root
@several_ids
def test_runsc_keeps_five_more_capabilities_with_several_ids() -> None:
    with un.SandboxHost(MAP_OF_SEVERAL) as many, many.start(FOREVER) as box:
        # The additional capabilities are the lowest five, CAP_CHOWN to CAP_FSETID, which allow
        # access to other ids' files.
        assert int(status_of(box.init.pid)["CapBnd"], 16) == NEEDED | 0b11111


@pytest.mark.also_root
@pytest.mark.parametrize("detach", [False, True])
def test_runsc_keeps_only_needed_capabilities(
    host: un.SandboxHost, detach: bool, runtime: Path
) -> None:
    with host.start(FOREVER, detach=detach) as box:
        if detach:
            runsc = [one.pid for one in box.list_detached()[0].processes]
            (keeper,) = [pid for pid in runsc if set(children_of(pid)) & {*runsc}]
            assert int(status_of(keeper)["CapBnd"], 16) == NEEDED
            runsc.remove(keeper)
        else:
            runsc = children_of(box.init.pid)
            assert int(status_of(box.init.pid)["CapBnd"], 16) == NEEDED
        # The bounding set is full in a new user namespace, so check NoNewPrivs of runsc's processes
        # instead.
        assert len(runsc) == 2
        assert {status_of(pid)["NoNewPrivs"] for pid in runsc} == {"1"}


@pytest.mark.parametrize("detach", [False, True])
def test_four_threads_may_close_one_sandbox(
    host: un.SandboxHost, detach: bool, runtime: Path
) -> None:
    before = open_descriptors(), os.listdir(host.directory)
    box = host.start(FOREVER, stdout=un.PIPE, detach=detach)
    with ThreadPoolExecutor(5) as pool:
        waiting = pool.submit(box.wait)
        for _ in pool.map(lambda _: box.close(), range(4)):
            pass
        assert waiting.result() == -signal.SIGKILL
    assert box.state() == {"id": box.id, "status": "stopped"}
    assert (open_descriptors(), os.listdir(host.directory)) == before


def test_sandbox_outlives_its_closed_host() -> None:
    closed = un.SandboxHost()
    box = closed.start(FOREVER)
    closed.close()
    assert box.run(["true"]).returncode == 0
    box.close()
    assert processes_with(box.id) == []


@pytest.mark.parametrize("detach", [False, True])
def test_descriptors_above_1023_work(host: un.SandboxHost, detach: bool, runtime: Path) -> None:
    """Check that sandboxes work if all new descriptors are above 1023, unsupported by select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("there can't be as many")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    try:
        with contextlib.ExitStack() as opened:
            for _ in range(1100):
                opened.enter_context(open(os.devnull))
            with host.start(FOREVER, detach=detach) as box:
                assert box.run(["true"]).returncode == 0
                box.kill()
                assert box.wait(PATIENCE) == -signal.SIGKILL
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_dropped_sandbox_is_closed_with_a_warning(host: un.SandboxHost) -> None:
    boxes = [host.start(["sleep", "1000"])]
    pid = boxes[0].init.pid
    with pytest.warns(ResourceWarning, match="a sandbox was not closed: call close"):
        boxes.clear()
    assert not Path(f"/proc/{pid}").exists()


def test_dropped_sandbox_host_is_closed_with_a_warning() -> None:
    hosts = [un.SandboxHost()]
    with pytest.warns(ResourceWarning, match="a SandboxHost was not closed: call close"):
        hosts.clear()
