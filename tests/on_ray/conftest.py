"""Fixtures of a Ray cluster of three nodes with real processes, and of a check for leftovers."""

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
# Size of a node's object store in bytes, the minimum that Ray accepts.
STORE_BYTES = 80 << 20
# Timeout for the start of a node, in seconds.
START_SECONDS = 120
# Prefixes of the names of a sandbox's processes.
SANDBOX_NAMES = ("exe", "runsc", "usernsctl")
# Prefixes of the command lines of Ray's own processes.
RAY = ("ray::", sys.executable, f"{sysconfig.get_path('purelib')}/ray/")


def descendants() -> dict[int, str]:
    """Return the command lines of this process's descendants, which include reparented orphans."""
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
            # Reap an orphan of a sandbox, because PID 1 of a PID namespace exits only after all of
            # the namespace's orphans were reaped.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(directory.name), os.WNOHANG)
    found: dict[int, str] = {}
    level = {os.getpid()}
    while level:
        level = {pid for pid, (parent, _) in parents.items() if parent in level}
        found |= {pid: parents[pid][1] for pid in level}
    return found


def sandbox_processes() -> dict[int, str]:
    """Return the command lines of all processes of sandboxes (empty for gVisor's stubs)."""
    return {pid: words for pid, words in descendants().items() if not words.startswith(RAY)}


def kernels() -> list[int]:
    """Return the pids of the processes that run gVisor's kernel, one for each sandbox."""
    return [pid for pid, words in sandbox_processes().items() if words.startswith("runsc-sandbox")]


class ThreeNodes:
    """Cluster of a head node without sandboxes, and three nodes with PER_NODE sandboxes each."""

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
                # Ray's limit for the start of a node is 30 seconds, too few on a busy machine.
                if time.monotonic() >= deadline:
                    raise

    def kill(self, number: int) -> str:
        """Kill a node with all its processes, as a loss of power does; return the node's id."""
        node = self.nodes.pop(number)
        self.cluster.remove_node(node, allow_graceful=False)
        found: str = node.unique_id
        return found

    def restore(self) -> None:
        """Add nodes until the cluster has three nodes with sandboxes again."""
        while len(self.nodes) < 3:
            self.nodes.append(self.add())
        self.cluster.wait_for_nodes(START_SECONDS)

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[ThreeNodes]:
    # Ray creates sockets in this directory, so its path must be short: a socket's path has at most
    # 107 characters.
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = ThreeNodes()
        try:
            yield cluster
        finally:
            cluster.close()
            # Kill the agents of a killed node: they exit only when PID 1 becomes their parent, but
            # here this process becomes their parent.
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(directory)


@pytest.fixture
def nodes(three_nodes: ThreeNodes) -> Iterator[ThreeNodes]:
    """Yield a cluster of three nodes; check afterwards that nothing of a sandbox is left."""
    before = set(os.listdir(tempfile.gettempdir()))
    yield three_nodes
    wait_until(lambda: not sandbox_processes(), explain=sandbox_processes)
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not {name for name in left if name.startswith("usernsctl")}
    three_nodes.restore()
