"""Tests of `usernsctl run` with resource limits around the lowest value that suffices.

A run with a lower limit must report the cause, and a later run with a higher limit must succeed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from control_groups import process_group, within
from processes import capture, causes_in
from tally import Tally

pytestmark = pytest.mark.userns_requires("runsc")

# Command prefix that creates a user namespace in which the user's other processes don't count
# (setrlimit(2), RLIMIT_NPROC).
ALONE = ("unshare", "--user", "--map-current-user", "--pid", "--fork", "--mount-proc")


def with_descriptors(limit: int) -> contextlib.nullcontext[tuple[str, ...]]:
    return contextlib.nullcontext(("prlimit", f"--nofile={limit}"))


def with_processes(limit: int) -> contextlib.nullcontext[tuple[str, ...]]:
    return contextlib.nullcontext((*ALONE, "prlimit", f"--nproc={limit}"))


@contextlib.contextmanager
def with_tasks_of_a_group(limit: int) -> Iterator[tuple[str, ...]]:
    with process_group(limit) as group:
        yield tuple(within(group))


Limit = Callable[[int], contextlib.AbstractContextManager[tuple[str, ...]]]

#: Resource limits by name: the function that sets the limit, a value that is too low, a value that
#: suffices, and the cause that a failed run reports.
LIMITS: dict[str, tuple[Limit, int, int, str]] = {
    "RLIMIT_NOFILE": (with_descriptors, 16, 1024, "descriptor-limit"),
    "RLIMIT_NPROC": (with_processes, 8, 200, "process-limit"),
    "pids.max": (with_tasks_of_a_group, 8, 200, "process-limit"),
}


def run_with(
    limit: Limit, value: int, usernsctl: Program, directory: Path
) -> subprocess.CompletedProcess[str]:
    with limit(value) as prefix:
        command = [*prefix, usernsctl.path, "run", "--", "echo", "ran"]
        return capture(command, cwd=directory)


def works(done: subprocess.CompletedProcess[str], cause: str) -> bool:
    """Return whether a command ran in gVisor; check that a failed run reports `cause`."""
    if done.returncode == 0:
        assert (done.stdout, done.stderr) == ("ran\n", "")
        return True
    assert (done.returncode, done.stdout) == (125, ""), done
    assert causes_in(done.stderr) == [cause], done.stderr
    return False


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        "RLIMIT_NOFILE",
        # RLIMIT_NPROC does not apply to root (CAP_SYS_RESOURCE).
        pytest.param("RLIMIT_NPROC", marks=pytest.mark.unprivileged),
        pytest.param("pids.max", marks=as_root),
    ],
)
def test_run_around_the_lowest_sufficient_limit(
    name: str, usernsctl: Program, tmp_path: Path
) -> None:
    limit, low, high, cause = LIMITS[name]
    assert not works(run_with(limit, low, usernsctl, tmp_path), cause)
    assert works(run_with(limit, high, usernsctl, tmp_path), cause)
    while high - low > 1:
        middle = (low + high) // 2
        if works(run_with(limit, middle, usernsctl, tmp_path), cause):
            high = middle
        else:
            low = middle
    # With these limits, a run may succeed or fail, because the number of runsc's threads varies.
    for value in range(low - 2, high + Tally.rounds(1, 10)):
        works(run_with(limit, value, usernsctl, tmp_path), cause)
    assert works(run_with(limit, 2 * high, usernsctl, tmp_path), cause)
