"""Tests of sandboxes on hosts where a file of /proc is overmounted, as in a container.

The kernel then denies new mounts of proc, so usernsctl-init runs in its caller's PID namespace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gvisor
import pytest
from conftest import EXIT_SECONDS
from processes import processes_with, wait_until_gone

import usernsctl as un

pytestmark = pytest.mark.userns(mount=True)

FOREVER = ["sleep", "1000"]
PATIENCE = 60

# Program that starts a sandbox, and waits until a signal kills the program or usernsctl-init.
CREATOR = """
import sys
import usernsctl as un
with un.Sandbox(["sleep", "1000"], id=sys.argv[1]) as box:
    print(box.init.pid, flush=True)
    box.wait()
"""


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def cover() -> None:
    """As root of the test's namespace, mount over a file of /proc, as container engines do."""
    subprocess.run(["mount", "--bind", "/dev/null", "/proc/uptime"], check=True)


def covered_host() -> un.SandboxHost:
    cover()
    return un.SandboxHost()


def id_of(name: str) -> str:
    """Return a sandbox id that no other test uses, because tests search command lines for it."""
    return f"covered-{name}-{os.getpid()}"


def namespace_of(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def shown_version(box: un.Sandbox) -> str:
    return str(box.check_output(["cat", "/proc/version"], text=True))


def test_a_sandbox_runs_without_a_pid_namespace() -> None:
    id = id_of("run")
    with covered_host() as host:
        with host.start(["sh", "-c", "read word; exit 7"], id=id, stdin=un.PIPE) as box:
            assert namespace_of(box.init.pid, "pid") == namespace_of(os.getpid(), "pid")
            # runsc may leave a mount behind, so each sandbox needs a separate mount namespace.
            with host.start(FOREVER) as other:
                assert namespace_of(box.init.pid, "mnt") != namespace_of(other.init.pid, "mnt")
            assert gvisor.is_version(shown_version(box))
            box.communicate(b"end\n", PATIENCE)
            assert box.returncode == 7
        with host.start(FOREVER, id=id) as box:
            assert box.state()["status"] == "running"
            box.terminate()
            assert box.wait(PATIENCE) == -signal.SIGTERM
        with host.start(FOREVER, id=id) as box:
            box.kill()
            assert box.wait(PATIENCE) == -signal.SIGKILL
        host.start(FOREVER, id=id).close()
        assert processes_with(id) == []
    done = un.gvisor.run(["cat", "/proc/version"], capture_output=True, text=True)
    assert gvisor.is_version(done.stdout)


def test_pools_templates_and_detached_sandboxes_work() -> None:
    with covered_host() as host:
        with host.pool(2) as pool:
            for _ in range(4):
                with pool.acquire(PATIENCE) as box:
                    assert gvisor.is_version(shown_version(box))
        with host.template() as template, template.start() as box:
            assert gvisor.is_version(shown_version(box))
        id = id_of("detached")
        host.start(FOREVER, id=id, detach=True).release()
    with un.Sandbox.attach(id) as box:
        assert gvisor.is_version(shown_version(box))
    assert processes_with(id) == []


def start_creator(id: str) -> tuple[subprocess.Popen[str], int]:
    """Start a sandbox's creator in a new session; return the creator and usernsctl-init's pid."""
    cover()
    creator = subprocess.Popen(
        [sys.executable, "-c", CREATOR, id],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert creator.stdout is not None
    return creator, int(creator.stdout.readline())


def test_the_sandbox_ends_with_its_creator() -> None:
    """Kill the process group of the sandbox's creator; check that all sandbox processes exit.

    usernsctl-init is not in this process group.
    """
    id = id_of("creator")
    creator, _ = start_creator(id)
    with creator:
        os.killpg(creator.pid, signal.SIGKILL)
    assert wait_until_gone(id, EXIT_SECONDS) == []


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_sandbox_ends_when_usernsctl_init_is_killed(sig: signal.Signals) -> None:
    """Kill usernsctl-init; check that all sandbox processes exit."""
    id = id_of(f"init-{sig}")
    creator, init = start_creator(id)
    with creator:
        os.kill(init, sig)
        assert creator.wait(PATIENCE) == 0
    # At SIGTERM, usernsctl-init kills all processes and waits for them before it exits. After
    # SIGKILL, the creator has to kill them, which takes longer.
    assert wait_until_gone(id, EXIT_SECONDS if sig == signal.SIGKILL else 0) == []


@pytest.mark.parametrize("end", ["exit 1", "sleep 1000"])
def test_a_failed_start_leaves_no_process(
    end: str, stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    """Check that usernsctl-init adopts and kills the orphans of a runsc that fails or times out."""
    started = tmp_path / "started"
    stand_in(f"""#!/bin/sh
case "$*" in *--version*) echo "runsc version release-20240729.0"; exit;; esac
echo >{started}
sleep 123456{os.getpid()} &
{end}
""")
    cover()
    with un.SandboxHost() as host, pytest.raises((un.RunscError, un.TimeoutExpired)):
        host.start(FOREVER, timeout=5)
    assert started.exists()
    assert processes_with(f"sleep 123456{os.getpid()}") == []
