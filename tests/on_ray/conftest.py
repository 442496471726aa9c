"""A Ray cluster of three nodes on this machine, with real processes, and a check for leftovers."""

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

# The sandboxes that each node offers.
PER_NODE = 2
# The object store of a node, in bytes: the minimum that Ray accepts.
STORE_BYTES = 80 << 20
# The time limit for the start of a node, in seconds.
START_SECONDS = 120
# The beginnings of the names of a sandbox's processes.
SANDBOX_NAMES = ("exe", "runsc", "usernsctl")
# The beginnings of command lines of Ray's own processes.
RAY = ("ray::", sys.executable, f"{sysconfig.get_path('purelib')}/ray/")


def descendants() -> dict[int, str]:
    """Return the command lines of all processes below this one, the parent of their orphans."""
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
            # Process 1 of a PID namespace ends after its orphans were reaped.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(directory.name), os.WNOHANG)
    found: dict[int, str] = {}
    level = {os.getpid()}
    while level:
        level = {pid for pid, (parent, _) in parents.items() if parent in level}
        found |= {pid: parents[pid][1] for pid in level}
    return found


def sandbox_processes() -> dict[int, str]:
    """Return the command lines of all processes of sandboxes, empty for processes inside."""
    return {pid: words for pid, words in descendants().items() if not words.startswith(RAY)}


def kernels() -> list[int]:
    """Return the processes with gVisor's kernel, one for each sandbox."""
    return [pid for pid, words in sandbox_processes().items() if words.startswith("runsc-sandbox")]


class ThreeNodes:
    """A head without sandboxes, and three nodes that each offer :data:`PER_NODE` of them."""

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
                # Ray gives a node 30 seconds for its start, too few for a busy machine.
                if time.monotonic() >= deadline:
                    raise

    def kill(self, number: int) -> str:
        """Kill a node with all its processes, as by a loss of power; return its id."""
        node = self.nodes.pop(number)
        self.cluster.remove_node(node, allow_graceful=False)
        found: str = node.unique_id
        return found

    def restore(self) -> None:
        """Add nodes until there are three again."""
        while len(self.nodes) < 3:
            self.nodes.append(self.add())
        self.cluster.wait_for_nodes(START_SECONDS)

    def close(self) -> None:
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[ThreeNodes]:
    # Ray's sockets are in this directory, and the path of a socket has at most 107 characters.
    directory = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", directory)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = ThreeNodes()
        try:
            yield cluster
        finally:
            cluster.close()
            # Ray's agents of a killed node exit only if process 1 becomes their parent. Here, this
            # process does, so kill them.
            for pid in descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(directory)


@pytest.fixture
def nodes(three_nodes: ThreeNodes) -> Iterator[ThreeNodes]:
    """Yield a cluster of three nodes; fail if the test leaves anything of a sandbox behind."""
    before = set(os.listdir(tempfile.gettempdir()))
    yield three_nodes
    wait_until(lambda: not sandbox_processes(), explain=sandbox_processes)
    left = set(os.listdir(tempfile.gettempdir())) - before
    assert not {name for name in left if name.startswith("usernsctl")}
    three_nodes.restore()
