"""Tests of the memory size and CPU count that a command sees in a control group with limits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from control_groups import child_of, memory_group, processor_group, within
from frozen import freeze
from processes import capture, check_output

MIB = 1 << 20
SHOW = ["sh", "-c", "head -n 1 /proc/meminfo; nproc"]
PATIENCE = 60

Command = Callable[..., list[str]]


def cause_of(errors: str) -> str:
    (found,) = re.findall(r"^  why: .* \[([a-z-]+)\]$", errors, re.MULTILINE)
    return str(found)


def parse_output(output: str) -> tuple[int, int]:
    """Return the memory in MiB and the number of CPUs from the output of SHOW."""
    memory, processors = output.splitlines()
    name, kib, unit = memory.split()
    assert (name, unit) == ("MemTotal:", "kB")
    return int(kib) >> 10, int(processors)


@pytest.fixture(params=["run", "frozen"])
def command(
    request: pytest.FixtureRequest, usernsctl: Program, prelude: Program, tmp_path: Path
) -> Command:
    """Return a function that returns the argv to start a command with `run` or with a launch file.

    The launch file is written here, outside of the control groups with limits.
    """
    if request.param == "run":
        return lambda *words: [str(usernsctl.path), "run", "--", *words]
    freeze(tmp_path / "launch")
    return lambda *words: [str(prelude.path), "--launch", str(tmp_path / "launch"), "--", *words]


@as_root
@pytest.mark.parametrize("limit", [40, 100, 512])
@pytest.mark.sampled
def test_command_sees_the_memory_limit(limit: int, command: Command) -> None:
    with memory_group(limit * MIB) as group:
        done = capture(within(group, *command(*SHOW)), timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert parse_output(done.stdout) == (limit, len(os.sched_getaffinity(0)))


@as_root
def test_command_sees_the_memory_limit_of_a_parent_group(command: Command) -> None:
    with memory_group(100 * MIB) as group, child_of(group) as child:
        done = capture(within(child, *command(*SHOW)), timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert parse_output(done.stdout)[0] == 100


@as_root
@pytest.mark.parametrize(
    ("quota", "processors"), [(10000, 1), (100000, 1), (100001, 2), (99999999, 9999)]
)
@pytest.mark.sampled
def test_command_sees_the_cpu_quota_rounded_up(
    quota: int, processors: int, command: Command
) -> None:
    with processor_group(quota, 100000) as group:
        done = capture(within(group, *command(*SHOW)), timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert parse_output(done.stdout)[1] == min(processors, len(os.sched_getaffinity(0)))


def test_command_sees_the_cpu_affinity_of_the_caller(command: Command) -> None:
    some = sorted(os.sched_getaffinity(0))[-1:]
    argv = ["taskset", "--cpu-list", ",".join(map(str, some)), *command(*SHOW)]
    assert parse_output(check_output(argv, timeout=PATIENCE))[1] == len(some)


@as_root
def test_memory_limit_below_the_needs_of_gvisor_is_refused(command: Command) -> None:
    with memory_group(23 * MIB) as group:
        done = capture(within(group, *command(*SHOW)), timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (125, "")
    message = "the control group may use 23.0 MiB of memory, and gVisor alone needs 24 MiB"
    assert message in done.stderr
    assert cause_of(done.stderr) == "memory-limit-too-low"
    # Check that the minimum named in the error message suffices.
    with memory_group(24 * MIB) as group:
        done = capture(within(group, *command("true")), timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")


@as_root
def test_host_sees_its_own_meminfo(command: Command) -> None:
    before = Path("/proc/meminfo").read_text().splitlines()[0]
    with memory_group(100 * MIB) as group:
        script = '"$@" > /dev/null; head -n 1 /proc/meminfo'
        done = capture(within(group, "sh", "-c", script, "sh", *command("true")), timeout=PATIENCE)
    assert done.stdout.splitlines() == [before]


@as_root
def test_dry_run_shows_memory_and_processors(usernsctl: Program) -> None:
    dry = [usernsctl.path, "run", "--dry-run", "--", "true"]
    processors = len(os.sched_getaffinity(0))
    with memory_group(100 * MIB) as group:
        told = capture(within(group, *dry), timeout=PATIENCE)
        as_json = capture(within(group, *dry[:3], "--json", *dry[3:]), timeout=PATIENCE)
    assert f"  100.0 MiB of memory, {processors} processors" in told.stdout.splitlines()
    assert json.loads(as_json.stdout)["limits"] == {
        "memory": 100 * MIB,
        "processors": processors,
    }
