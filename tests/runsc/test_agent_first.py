"""Tests of sandboxes without a first command, in which the agent is PID 1."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import EXIT_SECONDS, children, open_descriptors
from processes import processes_with

import usernsctl as un
from usernsctl._core import values
from usernsctl._core.values import _DIRECTORY, program_path
from usernsctl.gvisor import oci
from usernsctl.gvisor.sandbox import host_namespace

pytestmark = pytest.mark.usefixtures("runtime")

PATIENCE = 20
FOREVER = ["sleep", "1000"]
CAPABILITIES = ["grep", "-E", "Cap|NoNewPrivs|Groups", "/proc/self/status"]


def output_of(box: un.Sandbox, *command: str, **options: Any) -> str:
    return box.check_output(command, text=True, stderr=un.STDOUT, **options)


def processes(box: un.Sandbox) -> list[str]:
    lines = output_of(box, "ps", "-eo", "pid,args").splitlines()
    return [line for line in lines[1:] if "ps -eo" not in line]


def test_process_1_is_the_only_agent(host: un.SandboxHost) -> None:
    before = open_descriptors(), children()
    with host.start(None, env={"A": "of all"}) as box:
        assert box.run(["sh", "-c", "exit 7"]).returncode == 7
        # Check that only the agent and its keepers, the parents of commands, run: all of them
        # execute the same file.
        assert {line.split()[1] for line in processes(box)} == {"/.usernsctl-agent"}
        assert processes(box)[0].split()[0] == "1"
        assert output_of(box, "printenv", "A") == "of all\n"
        # cat(1) may fail: in newer releases of runsc, commands can't even read /proc/1/environ.
        seen = box.run(["cat", "/proc/1/environ"], stdout=un.PIPE, stderr=un.DEVNULL)
        assert b"of all" not in seen.stdout
        with box.popen(FOREVER) as process:
            process.terminate()
            assert process.wait(PATIENCE) == -signal.SIGTERM
        assert box.poll() is None
        assert box.state()["status"] == "running"
    assert box.returncode == -signal.SIGKILL
    assert (open_descriptors(), children()) == before


def test_commands_have_the_usual_capabilities(host: un.SandboxHost) -> None:
    with host.start(FOREVER) as other:
        wanted = other.check_output(CAPABILITIES)
    with host.start(None) as box:
        assert box.check_output(CAPABILITIES) == wanted


def test_orphans_are_reaped(host: un.SandboxHost) -> None:
    with host.start(None) as box:
        box.run(["sh", "-c", "setsid sh -c 'sleep 0.2 & exit 0' & exit 0"], check=True)
        deadline = time.monotonic() + EXIT_SECONDS
        while any("sleep" in line or "defunct" in line for line in processes(box)):
            assert time.monotonic() < deadline, processes(box)


def test_sigterm_to_the_sandbox_reaches_commands(host: un.SandboxHost) -> None:
    with host.start(None) as box:
        script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
        with box.popen(["sh", "-c", script], stdout=un.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            box.terminate()
            assert process.stdout.read() == b"asked\n"
            assert process.wait(PATIENCE) == 3
        assert box.wait(PATIENCE) == -signal.SIGTERM
        with pytest.raises(un.CommandError, match="has ended"):
            box.run(["true"])


def test_rlimits_apply_to_commands_not_to_the_agent() -> None:
    show = ["sh", "-c", "ulimit -n; ulimit -Hn"]
    with un.SandboxHost(rlimits=["nofile=9:20"]) as host, host.start(None) as box:
        started = [box.popen(FOREVER) for _ in range(30)]
        assert output_of(box, *show) == "9\n20\n"
        for process in started:
            process.kill()
            process.wait(PATIENCE)


def test_a_detached_sandbox_can_be_attached(host: un.SandboxHost) -> None:
    with un.SandboxHost(rlimits=["nofile=90:200"]) as limited:
        box = limited.start(None, detach=True, env={"A": "of all"})
        started = box.popen(["sleep", "1001"])
        wanted = box.check_output(CAPABILITIES)
        box.release()
    assert started.wait(PATIENCE) == -signal.SIGKILL
    with un.Sandbox.attach(box.id) as found:
        assert output_of(found, "printenv", "A") == "of all\n"
        assert output_of(found, "sh", "-c", "ulimit -n; ulimit -Hn") == "90\n200\n"
        assert found.check_output(CAPABILITIES) == wanted
        assert not any("sleep" in line for line in processes(found))
        found.terminate()
        assert found.wait(PATIENCE) == -signal.SIGTERM


def test_start_none_ignores_the_command_of_a_bundle(tmp_path: Path) -> None:
    one = [un.Extent(0, 0, 1)]
    options = oci.BuildOptions(
        args=["/bin/false"], rootfs="/", uid_map=one, gid_map=one, env={"PATH": "/bin", "B": "b"}
    )
    bundle = tmp_path / "bundle"
    config = oci.build(options)
    # start(None) must ignore the bundle's command, and so must not parse this invalid annotation.
    config["annotations"] = {"usernsctl.commands": "no JSON"}
    oci.create(bundle, config)
    with un.SandboxHost(bundle=bundle, trust=True) as host:
        with host.start(None) as box:
            assert output_of(box, "printenv", "B") == "b\n"
            assert box.poll() is None
        with host.start() as box:
            assert box.wait(PATIENCE) == 1


@pytest.mark.parametrize("kind", ["fifo", "link to a file", "link to nothing", "socket"])
def test_special_files_at_the_path_of_the_agent_are_refused(tmp_path: Path, kind: str) -> None:
    """Check that links and special files at the agent's path in a root filesystem are rejected.

    If the file were a FIFO, runsc would block forever on opening it.
    """
    rootfs = tmp_path / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "bin" / "sh").touch(mode=0o755)
    place = rootfs / ".usernsctl-agent"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        os.mknod(place, stat.S_IFSOCK | 0o755)
    else:
        place.symlink_to("/bin/sh" if kind == "link to a file" else "/missing/file")
    before = open_descriptors()
    with pytest.raises(un.BindError, match=r"not a regular file|is a (FIFO|socket)") as caught:
        un.SandboxHost(rootfs=str(rootfs))
    assert caught.value.remedy == "remove /.usernsctl-agent from the root filesystem"
    assert open_descriptors() == before


def test_start_after_an_upgrade_of_the_agent_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.listdir(_DIRECTORY):
        shutil.copy2(program_path(name), tmp_path)
    monkeypatch.setattr(values, "_DIRECTORY", str(tmp_path))
    with un.SandboxHost() as host:
        (tmp_path / "new").write_text("another one")
        with host.start(FOREVER) as box:
            (tmp_path / "new").rename(tmp_path / "usernsctl-agent")
            assert box.run(["sh", "-c", "exit 7"]).returncode == 7
            with pytest.raises(
                un.NamespaceError, match="was replaced after this SandboxHost"
            ) as caught:
                host.start(None)
            assert caught.value.remedy == "create a new SandboxHost"


def test_streams_without_a_first_command_are_refused(host: un.SandboxHost) -> None:
    wrong: dict[str, Any] = {
        "terminal": True,
        "stdin": un.PIPE,
        "stdout": un.PIPE,
        "stderr": un.STDOUT,
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} needs a first command"):
            host.start(None, **{name: value})
    with pytest.raises(ValueError, match="args is empty"):
        host.start([])


SHOW = ["sh", "-c", "echo $(pwd) $(id -u) $(id -g) $(id -G)"]


def test_commands_and_files_use_user_and_cwd_of_the_sandbox(host: un.SandboxHost) -> None:
    with host.start(None, cwd="/tmp", user=(7, 8), groups=[9]) as box:
        assert output_of(box, *SHOW) == "/tmp 7 8 8 9\n"
        box.run(["mkdir", "below"], check=True)
        assert output_of(box, *SHOW, cwd="below", user=(0, 0)) == "/tmp/below 0 0 0\n"
        assert output_of(box, *SHOW, cwd=Path("/usr"), groups=[]) == "/usr 7 8 8\n"
        box.write_file("below/file", b"content")
        assert box.read_file(b"/tmp/below/file") == b"content"
        assert output_of(box, "stat", "-c", "%u %g", "below/file") == "7 8\n"
        assert [entry.name for entry in box.list_dir("below")] == ["file"]
        box.write_file("secret", b"", 0, user=(0, 0))
        with pytest.raises(PermissionError):
            box.read_file("secret")
        with pytest.raises(FileNotFoundError):
            box.run(["true"], cwd="missing")
        for wrong, error in ((5, TypeError), ("", ValueError), ("a\0", ValueError)):
            with pytest.raises(error):
                box.run(["true"], cwd=wrong)


def test_start_looks_up_the_default_user_by_name(host: un.SandboxHost) -> None:
    with host.start(None, user="games") as box:
        shown = output_of(box, "sh", "-c", "id -un; echo $HOME; echo $A", env={"A": "1"})
        assert shown == "games\n/usr/games\n1\n"
        box.write_file("/tmp/file", b"")
        assert output_of(box, "stat", "-c", "%U", "/tmp/file") == "games\n"
        with pytest.raises(ValueError, match="not an absolute path"):
            box.read_file("tmp/file")
    before = open_descriptors(), children()
    with pytest.raises(un.UserUnknownError) as caught:
        host.start(None, user="missing")
    assert caught.value.cause == "user-unknown"
    with pytest.raises(FileNotFoundError):
        host.start(None, cwd="/missing")
    assert (open_descriptors(), children()) == before


def test_asyncio_calls_use_user_and_cwd_of_the_sandbox(host: un.SandboxHost) -> None:
    async def main() -> None:
        async with await host.start_async(None, cwd="/tmp", user="games") as box:
            done = await box.run_async(["id", "-un"], capture_output=True)
            assert done.stdout == b"games\n"
            await box.write_file_async("file", b"content")
            process = await box.create_subprocess_exec("cat", "file", stdout=un.PIPE)
            assert await process.communicate() == (b"content", None)

    asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))


def test_start_async_does_not_block_the_event_loop(host: un.SandboxHost) -> None:
    async def main() -> None:
        async with await host.start_async(None) as box:
            process = await box.create_subprocess_exec("sh", "-c", "exit 5")
            assert await process.wait() == 5
        async with host.start(None) as box:
            assert (await (await box.create_subprocess_exec("true")).wait()) == 0

    before = open_descriptors()
    asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))
    assert open_descriptors() == before


@pytest.mark.parametrize("program", ["/usr/bin/true", "/usr/bin/sleep"])
def test_a_wrong_agent_program_fails_and_leaks_nothing(
    host: un.SandboxHost, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace_agent(config: dict[str, Any], *argv: str) -> None:
        config["process"] |= {"args": [program, "1000"], "env": ["PATH=/usr/bin"]}

    monkeypatch.setattr(host_namespace, "set_agent_as_init", replace_agent)
    before = open_descriptors()
    for detach in (False, True):
        is_silent = program.endswith("sleep")
        seconds = 3 if is_silent else PATIENCE
        with pytest.raises(un.TimeoutExpired if is_silent else un.RunscError):
            host.start(None, id=f"none-{os.getpid()}", detach=detach, timeout=seconds)
    assert open_descriptors() == before
    assert not processes_with(f"none-{os.getpid()}")
