"""Control groups with limits, which only root can create."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOUNTS = Path("/sys/fs/cgroup")
_PATIENCE = 30
_numbers = itertools.count()

# Name of the control file with the memory limit, by cgroup version.
_MEMORY = {1: "memory.limit_in_bytes", 2: "memory.max"}


def _make(controller: str) -> tuple[int, Path]:
    """Create a control group for `controller`; return the cgroup version and the group's path."""
    name = f"usernsctl-test-{os.getpid()}-{next(_numbers)}"
    for version, top in ((1, _MOUNTS / controller), (2, _MOUNTS)):
        listed = top / "cgroup.subtree_control"
        if (top / "cgroup.procs").exists() and (
            version == 1 or controller in listed.read_text().split()
        ):
            (top / name).mkdir()
            return version, top / name
    pytest.skip(f"control groups have no controller {controller} here")


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Remove the control group `path` after the ``with`` block."""
    try:
        yield
    finally:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                path.rmdir()
                break
            except OSError:
                # A zombie stays in the control group until PID 1 reaps it, so retry until a
                # deadline.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


@contextlib.contextmanager
def _group(controller: str) -> Iterator[tuple[int, Path]]:
    version, path = _make(controller)
    with _removed(path):
        yield version, path


@contextlib.contextmanager
def child_of(group: Path) -> Iterator[Path]:
    """Create a child control group without limits for the ``with`` block."""
    path = group / "child"
    path.mkdir()
    with _removed(path):
        yield path


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Create a control group with a memory limit in bytes for the ``with`` block."""
    with _group("memory") as (version, path):
        (path / _MEMORY[version]).write_text(str(limit))
        yield path


@contextlib.contextmanager
def process_group(limit: int) -> Iterator[Path]:
    """Create a control group with a limit on tasks (threads) for the ``with`` block."""
    with _group("pids") as (_, path):
        (path / "pids.max").write_text(str(limit))
        yield path


@contextlib.contextmanager
def processor_group(quota: int, period: int) -> Iterator[Path]:
    """Create a control group with `quota` of CPU time per `period`, both in microseconds."""
    with _group("cpu") as (version, path):
        if version == 1:
            (path / "cpu.cfs_period_us").write_text(str(period))
            (path / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (path / "cpu.max").write_text(f"{quota} {period}")
        yield path


def within(group: Path, *command: str | Path) -> list[str]:
    """Return the argv that runs `command` in a control group."""
    script = 'echo $$ > "$0" && exec "$@"'
    return ["sh", "-c", script, str(group / "cgroup.procs"), *map(str, command)]
