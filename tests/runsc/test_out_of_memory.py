"""Tests of sandboxes in which the kernel's OOM killer kills a process of gVisor."""

from __future__ import annotations

import re
import subprocess

import pytest
from callers import as_root
from conftest import Program
from control_groups import memory_group, within
from processes import capture, causes_in

pytestmark = as_root

MIB = 1 << 20
PATIENCE = 60
# Time in seconds after which the watcher has certainly finished looking for an OOM kill in its
# sandbox.
OBSERVED_SECONDS = 3

GROW = {
    "python": ["python3", "-c", "held = []\nwhile True: held.append(b'x' * 10**7)"],
    "sh": ["sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"],
}


def check_report(errors: str, limit: int) -> None:
    """Check that `errors` reports an OOM kill once, with the limit, used memory and cause."""
    (used,) = re.findall(
        r"^usernsctl: the kernel killed a process of gVisor, since memory ran out; "
        rf"the limit of the control group is {limit}\.0 MiB, of which ([0-9.]+) MiB were used$",
        errors,
        re.MULTILINE,
    )
    assert limit / 2 < float(used) <= limit
    assert causes_in(errors) == ["out-of-memory"]


@pytest.mark.parametrize("limit", [100, 200, 400])
@pytest.mark.parametrize("program", GROW)
@pytest.mark.sampled
def test_oom_kill_of_a_growing_program_is_reported(
    program: str, limit: int, usernsctl: Program
) -> None:
    with memory_group(limit * MIB) as group:
        command = [usernsctl.path, "run", "--", *GROW[program]]
        done = capture(within(group, *command), timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (137, "")
    check_report(done.stderr, limit)


def test_oom_kill_of_a_child_ends_the_sandbox(usernsctl: Program) -> None:
    """Check that the sandbox ends if the OOM killer kills a child of the command.

    gVisor alone would not report this.
    """
    script = '"$@"; sleep 1000'
    with memory_group(200 * MIB) as group:
        run = [usernsctl.path, "run", "--", "sh", "-c", script, "sh"]
        command = within(group, *run, *GROW["python"])
        done = capture(command, timeout=PATIENCE)
    assert done.returncode == 137
    check_report(done.stderr, 200)


@pytest.mark.thorough
def test_other_sandboxes_of_the_control_group_continue(usernsctl: Program) -> None:
    script = "ls / > /dev/null; echo started; read -r line; sh -c 'exit 3'"
    with memory_group(300 * MIB) as group:
        command = within(group, usernsctl.path, "run", "--", "sh", "-c", script)
        others = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(3)
        ]
        try:
            for other in others:
                assert other.stdout is not None
                assert other.stdout.readline() == b"started\n"
            grow = [usernsctl.path, "run", "--", *GROW["python"]]
            done = capture(within(group, *grow), timeout=PATIENCE)
            with pytest.raises(subprocess.TimeoutExpired):
                others[0].wait(OBSERVED_SECONDS)
            ends = [(*other.communicate(b"\n", PATIENCE), other.returncode) for other in others]
        finally:
            for other in others:
                other.kill()
                other.wait()
    assert done.returncode == 137
    check_report(done.stderr, 300)
    assert ends == [(b"", b"", 3)] * 3


def test_oom_kill_of_another_process_ends_no_sandbox(usernsctl: Program) -> None:
    """Check that the sandbox continues if an OOM kill hits another process in its control group."""
    script = "ls / > /dev/null; echo started; read -r line; exit 3"
    with memory_group(200 * MIB) as group:
        command = within(group, usernsctl.path, "run", "--", "sh", "-c", script)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            try:
                assert run.stdout.readline() == b"started\n"
                grown = capture(within(group, *GROW["python"]), timeout=PATIENCE)
                assert grown.returncode == -9
                with pytest.raises(subprocess.TimeoutExpired):
                    run.wait(OBSERVED_SECONDS)
                run.communicate(b"\n", PATIENCE)
            finally:
                run.kill()
    assert run.returncode == 3


def test_oom_kill_elsewhere_on_the_host_ends_no_sandbox(usernsctl: Program) -> None:
    """Check that the sandbox continues if an OOM kill hits a process elsewhere on the host.

    The test hides the control group's files, so that the watcher reads the host's OOM kill counter.
    """
    script = "ls / > /dev/null; echo started; read -r line; exit 3"
    cover = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    run_covered = ["unshare", "--mount", "sh", "-c", cover, "sh", usernsctl.path, "run", "--"]
    with (
        memory_group(200 * MIB) as group,
        subprocess.Popen(
            [*run_covered, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as run,
    ):
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == b"started\n"
            assert capture(within(group, *GROW["python"]), timeout=PATIENCE).returncode == -9
            output = run.communicate(b"\n", PATIENCE)
        finally:
            run.kill()
    assert (run.returncode, *output) == (3, b"", b"")
