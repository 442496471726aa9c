"""Fixtures: a Ray cluster of three nodes with real processes, and a check for leftovers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from processes import wait_until
from ray.cluster_utils import Cluster

# Number of sandboxes that each node offers.
PER_NODE = 2
# Size of each node's object store in bytes: the minimum that Ray accepts.
STORE_BYTES = 80 << 20
# Timeout for the start of a node, in seconds.
START_SECONDS = 120
# Prefixes of sandbox processes' names.
SANDBOX_NAMES = ("exe", "runsc", "usernsctl")
# Prefixes of Ray processes' command lines.
RAY = ("ray::", sys.executable, f"{sysconfig.get_path('purelib')}/ray/")


def descendants() -> dict[int, str]:
    """Return the command lines of this process's descendants, including reparented orphans."""
    parents: dict[int, tuple[int, str]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name, fields = (
                (directory / "stat").read_text(errors="replace").split("(", 1)[1].rsplit(") ", 1)
            )
            words = (directory / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
        state, parent = fields.split()[:2]
        if state != "Z":
            parents[int(directory.name)] = int(parent), words
        elif int(parent) == os.getpid() and name.startswith(SANDBOX_NAMES):
            # Reap a sandbox process that was reparented to this process: PID 1 of the sandbox's PID
            # namespace exits only when all other processes of the namespace have been reaped.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(directory.name), os.WNOHANG)
    found: dict[int, str] = {}
    level = {os.getpid()}
    while level:
        level = {pid for pid, (parent, _) in parents.items() if parent in level}
        found |= {pid: parents[pid][1] for pid in level}
    return found


def sandbox_processes() -> dict[int, str]:
    """Return the command lines of all sandbox processes, which are empty for gVisor's stubs."""
    return {pid: words for pid, words in descendants().items() if not words.startswith(RAY)}


def kernels() -> list[int]:
    """Return the pids of the processes that run gVisor's kernel, one per sandbox."""
    return [pid for pid, words in sandbox_processes().items() if words.startswith("runsc-sandbox")]


class ThreeNodes:
    """Cluster of a head node without sandboxes and three nodes with PER_NODE sandboxes each."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self._add_node(include_dashboard=False)
        self.nodes = [self.add() for _ in range(3)]
        self.cluster.wait_for_nodes(START_SECONDS)
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def add(self) -> Any:
        return self._add_node(resources={"sandboxes": PER_NODE})

    def _add_node(self, **options: Any) -> Any:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.cluster.add_node(
                    wait=False, num_cpus=1, object_store_memory=STORE_BYTES, **options
                )
            except Exception:
                # Retry: Ray's own timeout for a node's start, 30 seconds, is too short on a busy
                # host.
                if time.monotonic() >= deadline:
                    raise

    def kill(self, number: int) -> str:
        """Kill a node and all its processes, as a loss of power does; return the node's id."""
        node = self.nodes.pop(number)
        self.cluster.remove_node(node, allow_graceful=False)
        found: str = node.unique_id
        return found

    def restore(self) -> None:
        """Add nodes until the cluster again has three nodes with sandboxes."""
        while len(self.nodes) < 3:
            self.nodes.append(self.add())
        self.cluster.wait_for_nodes(START_SECONDS)

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[ThreeNodes]:
    # Ray creates sockets in this directory. A socket's path has at most 107 characters, so the
    # directory's path must be short.
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = ThreeNodes()
        try:
            yield cluster
        finally:
            cluster.close()
            # Ray's agents on a killed node exit only when they are reparented to PID 1. In the
            # tests, the agents are reparented to this process instead, so kill them.
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(directory)


@pytest.fixture
def nodes(three_nodes: ThreeNodes) -> Iterator[ThreeNodes]:
    """Yield a cluster of three nodes; then check that no sandbox has left anything behind."""
    before = set(os.listdir(tempfile.gettempdir()))
    yield three_nodes
    wait_until(lambda: not sandbox_processes(), explain=sandbox_processes)
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not {name for name in left if name.startswith("usernsctl")}
    three_nodes.restore()
