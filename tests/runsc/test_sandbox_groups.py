"""Tests of the control groups that usernsctl creates to enforce limits of sandboxes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from conftest import Program
from control_groups import memory_group, process_group, processor_group, within
from processes import capture, causes_in, check_output, children_of

import usernsctl as un

pytestmark = as_root

MIB = 1 << 20
PATIENCE = 60
PREFIX = "usernsctl-sandbox-"

# For each limit: the option that sets it, a function that creates the control group in which
# usernsctl runs, and the values of the limit's files in cgroup v1 and v2.
LIMITS: dict[str, tuple[str, Callable[[], Any], dict[str, str]]] = {
    "memory": (
        "--memory=128M",
        lambda: memory_group(1 << 30),
        {"memory.limit_in_bytes": str(128 * MIB), "memory.max": str(128 * MIB)},
    ),
    "pids": ("--pids=90", lambda: process_group(900), {"pids.max": "90"}),
    "cpus": (
        "--cpus=0.25",
        lambda: processor_group(200000, 100000),
        {"cpu.cfs_quota_us": "25000", "cpu.max": "25000 100000"},
    ),
}


def groups_below(group: Path) -> list[Path]:
    return [path for path in group.rglob("*") if path.name.startswith(PREFIX)]


@contextmanager
def running(group: Path, command: list[str | Path], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a control group; yield the process after its first line of output."""
    with subprocess.Popen(
        within(group, *command), stdout=subprocess.PIPE, text=True, process_group=0, **how
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


WAITING = ["sh", "-c", "echo ready; sleep 1000"]


@pytest.mark.parametrize("limit", LIMITS)
def test_control_groups_have_the_limits_and_are_removed(limit: str, usernsctl: Program) -> None:
    option, make, files = LIMITS[limit]
    with make() as group:
        with running(group, [usernsctl.path, "run", option, "--", *WAITING]):
            (own,) = groups_below(group)
            # With mode 0700, other users can't open the directory, and so can't lock the control
            # group.
            assert own.stat().st_mode & 0o777 == 0o700
            names = {
                Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]
                for pid in (own / "cgroup.procs").read_text().split()
            }
            assert "runsc-sandbox" in names
            assert "runsc-gofer" in names
            there = [own / name for name in files if (own / name).exists()]
            found = {file.name: file.read_text().strip() for file in there}
        assert found
        assert found.items() <= files.items()
        assert groups_below(group) == []


@pytest.mark.parametrize("ended", ["exit", "failure"])
def test_control_groups_are_removed_after_a_run(ended: str, usernsctl: Program) -> None:
    command = {"exit": ["sh", "-c", "exit 3"], "failure": ["/missing"]}[ended]
    with memory_group(1 << 30) as group:
        run = [usernsctl.path, "run", "--memory=128M", "--", *command]
        done = capture(within(group, *run), timeout=PATIENCE)
        assert done.returncode == {"exit": 3, "failure": 127}[ended]
        assert list(group.glob("usernsctl*")) == []


def watcher_below(pid: int) -> int:
    """Return the pid of usernsctl-watch, which is the process `pid` itself or its child."""
    for one in [pid, *children_of(pid)]:
        if Path(f"/proc/{one}/cmdline").read_text().partition("\0")[0].endswith("usernsctl-watch"):
            return one
    raise AssertionError("no watcher")


def test_next_run_removes_control_groups_of_a_killed_watcher(usernsctl: Program) -> None:
    with memory_group(1 << 30) as group:
        run = [usernsctl.path, "run", "--memory=128M", "--"]
        with running(group, [*run, *WAITING]) as process:
            os.kill(watcher_below(process.pid), signal.SIGKILL)
            process.wait(PATIENCE)
            (left,) = groups_below(group)
            deadline = time.monotonic() + PATIENCE
            while (left / "cgroup.procs").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert capture(within(group, *run, "true"), timeout=PATIENCE).returncode == 0
        assert list(group.glob("usernsctl*")) == []


def test_locked_control_groups_are_not_removed(usernsctl: Program) -> None:
    """Check that a run does not remove another control group whose directory is locked."""
    import fcntl

    with memory_group(1 << 30) as group, ExitStack() as opened:
        made = group / "usernsctl" / f"{PREFIX}0123456789abcdef"
        made.mkdir(parents=True)
        fd = os.open(made, os.O_RDONLY)
        opened.callback(os.close, fd)
        opened.callback(made.parent.rmdir)
        opened.callback(made.rmdir)
        fcntl.flock(fd, fcntl.LOCK_EX)
        run = within(group, usernsctl.path, "run", "--memory=128M", "--", "true")
        assert capture(run, timeout=PATIENCE).returncode == 0
        assert made.is_dir()


def test_memory_limit_of_the_caller_has_its_own_cause(usernsctl: Program) -> None:
    hog = ["python3", "-c", "held = []\nwhile True: held.append(b'x' * 10**6)"]
    with memory_group(100 * MIB) as group:
        run = [usernsctl.path, "run", "--memory=500M", "--limits=best-effort", "--", *hog]
        done = capture(within(group, *run), timeout=PATIENCE)
    assert done.returncode in (125, 137)
    (cause,) = causes_in(done.stderr)
    # A limit above that of the caller's own control group may be rejected before the start.
    # Otherwise the caller's limit is exceeded first.
    assert cause in ("limit-out-of-range", "out-of-memory")


def memory_group_of(pid: int) -> Path:
    """Return the control group that contains a process and can limit its memory."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if "memory" in names.split(","):
            return Path("/sys/fs/cgroup/memory", path.lstrip("/"))
    return Path("/sys/fs/cgroup", path.lstrip("/"))


def sentry_below(pid: int) -> int:
    for child in children_of(pid):
        name = Path(f"/proc/{child}/cmdline").read_text().partition("\0")[0]
        if name == "runsc-sandbox":
            return child
        with_children = children_of(child) and sentry_below(child)
        if with_children:
            return with_children
    return 0


@pytest.mark.parametrize("how", ["close", "kill", "command"])
def test_sandboxes_of_a_host_have_control_groups(how: str) -> None:
    with un.SandboxHost(memory="200M", pids=100, cpus=0.5) as host:
        args = ["sleep", "2"] if how == "command" else None
        with host.start(args) as box:
            assert all(part.means == "a control group, version 1" for part in box.limits)
            group = memory_group_of(sentry_below(box.init.pid))
            assert group.name.startswith(PREFIX)
            assert (group / "memory.limit_in_bytes").read_text().strip() == str(200 * MIB)
            if how == "command":
                assert box.wait(PATIENCE) == 0
                assert not group.exists()
            elif how == "kill":
                box.kill()
        assert not group.exists()


def test_detached_sandbox_has_control_groups() -> None:
    with un.SandboxHost(memory="200M") as host:
        box = host.start(None, detach=True)
        try:
            used = subprocess.run(
                ["sh", "-c", f"grep -l {box.id} /proc/[0-9]*/cmdline"],
                capture_output=True,
                text=True,
                check=False,
            )
            groups = {
                memory_group_of(int(path.split("/")[2]))
                for path in used.stdout.split()
                if Path(path).exists()
            }
            (group,) = {group for group in groups if group.name.startswith(PREFIX)}
        finally:
            box.kill()
            box.wait(PATIENCE)
            box.close()
        deadline = time.monotonic() + PATIENCE
        while group.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_in_cgroup_with_limits_raises(tmp_path: Path) -> None:
    with (
        un.SandboxHost(memory="200M", cpus=0.5) as host,
        pytest.raises(un.RunscError, match="only a control group") as error,
    ):
        host.start(None, in_cgroup=tmp_path)
    assert error.value.cause == "limit-unenforceable"


COVER = 'mount -t tmpfs cover /sys/fs/cgroup && exec "$@"'


def test_pids_limit_of_root_needs_control_groups(usernsctl: Program) -> None:
    """Check that root can't set a pids limit without control groups (RLIMIT_NPROC exempts root)."""
    covered = ["unshare", "-m", "sh", "-c", COVER, "sh", usernsctl.path, "run"]
    done = capture([*covered, "--pids=100", "--", "echo", "x"], timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (125, "")
    assert "RLIMIT_NPROC does not limit the processes of root" in done.stderr
    assert "[limit-unenforceable]" in done.stderr
    tried = [*covered, "--pids=100", "--memory=128M", "--limits=best-effort", "--", "echo", "x"]
    assert check_output(tried, timeout=PATIENCE) == "x\n"


def test_control_groups_are_created_below_that_of_the_caller(usernsctl: Program) -> None:
    """Check that control groups are created below the caller's, also in a cgroup namespace."""
    with memory_group(1 << 30) as group:
        run = [usernsctl.path, "run", "--memory=128M", "--", *WAITING]
        with running(group, ["unshare", "--cgroup", *run]) as process:
            children = children_of(watcher_below(process.pid))
            assert children
            for pid in children:
                assert memory_group_of(pid).is_relative_to(group)
