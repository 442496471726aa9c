"""Tests of runsc in a kept namespace: a usernsctl.Namespace that was created in advance.

All subcommands of runsc work in this namespace, even those that runsc rejects with --rootless. Only
the creation of the namespace runs newuidmap and newgidmap.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gvisor
import pytest
from callers import unprivileged
from conftest import children
from sampling import tries

import usernsctl as un
from usernsctl.namespaces.namespace import Namespace
from usernsctl.pytest_plugin.needs import Needs

pytestmark = pytest.mark.each_user

PATIENCE = 30
OWN_ROOT = [{"containerID": 0, "hostID": 0, "size": 1}]
CONFIG = {
    "ociVersion": "1.0.2",
    "process": {"args": ["/bin/sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "root": {"path": "/", "readonly": True},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {
        "namespaces": [{"type": "user"}],
        "uidMappings": OWN_ROOT,
        "gidMappings": OWN_ROOT,
    },
}


def global_options(directory: Path) -> list[str]:
    runsc = shutil.which(os.environ.get("USERNSCTL_RUNSC", "runsc"))
    assert runsc is not None
    return [runsc, f"--root={directory}/state", "--network=none", "--ignore-cgroups"]


@dataclass
class Containers:
    """Containers that share a bundle and a namespace."""

    namespace: Namespace
    directory: Path

    @property
    def bundle(self) -> str:
        return f"--bundle={self.directory}/bundle"

    def runsc(self, *args: str, status: int = 0) -> str:
        """Run a subcommand of runsc; return its output.

        The output goes to a file: the container inherits the descriptor and would keep a pipe open.
        """
        with open(self.directory / f"output-{args[0]}-{args[-1]}", "w+b", buffering=0) as output:
            done = self.namespace.run(
                [*global_options(self.directory), *args],
                stdin=un.DEVNULL,
                stdout=output,
                stderr=un.STDOUT,
            )
            output.seek(0)
            told = output.read().decode()
        assert done.returncode == status, told
        return told

    def exec(self, name: str, *command: str) -> str:
        output = self.directory / f"output-of-{name}"
        with output.open("wb") as stdout:
            self.namespace.run(
                [*global_options(self.directory), "exec", name, *command],
                stdin=un.DEVNULL,
                stdout=stdout,
                stderr=un.STDOUT,
                check=True,
            )
        return output.read_text()

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.runsc("state", name))
        return state

    @contextlib.contextmanager
    def stopping(self, name: str) -> Iterator[None]:
        """After the ``with`` block, wait until the container is stopped and its process is reaped.

        Until then, one runsc command may report the container as stopped, and the next as running.
        """
        path = Path(f"/proc/{self.state(name)['pid']}")
        yield
        deadline = time.monotonic() + PATIENCE
        while path.exists() or self.state(name)["status"] != "stopped":
            assert time.monotonic() < deadline, f"{name} does not stop"
            time.sleep(0.02)

    def remove(self, name: str) -> None:
        with self.stopping(name):
            self.runsc("kill", name, "KILL")
        self.runsc("delete", name)


@pytest.fixture(autouse=True)
def reap_orphans() -> Iterator[None]:
    """Reap orphans of runsc, such as sandboxes and gofers, as an init process does.

    runsc considers a process running until it has been reaped.
    """
    over = threading.Event()

    def collect() -> None:
        while not over.wait(0.02):
            for pid, who in children().items():
                # Reap only runsc's processes: their name is "exe", since they executed
                # /proc/self/exe, or "gvisor_sentry" in newer releases.
                if who in ("exe (zombie)", "gvisor_sentry (zombie)"):
                    os.waitpid(pid, 0)

    collector = threading.Thread(target=collect)
    collector.start()
    yield
    over.set()
    collector.join()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture(params=["one id", "all ranges"])
def containers(
    request: pytest.FixtureRequest, directory: Path, userns_requires: Needs
) -> Iterator[Containers]:
    if request.param == "all ranges":
        if os.geteuid() == 0:
            pytest.skip("root writes any map by itself")
        userns_requires("subid")
    idmap = un.IdMap.root() if request.param == "one id" else un.IdMap.auto()
    with Namespace.create(idmap, mount=True) as namespace:
        yield Containers(namespace, directory)
    assert not list((directory / "state").glob("*.state")), "a container was left"


def check_all_states(containers: Containers, name: str) -> None:
    """Take a container through all its states; restore a second container from a checkpoint."""
    containers.runsc("create", containers.bundle, name)
    assert containers.state(name)["status"] == "created"
    containers.runsc("start", name)
    assert containers.state(name)["status"] == "running"
    assert gvisor.is_version(containers.exec(name, "/bin/cat", "/proc/version"))
    with containers.stopping(name):
        containers.runsc("checkpoint", f"--image-path={containers.directory}/image-{name}", name)
    containers.runsc("delete", name)

    image = f"--image-path={containers.directory}/image-{name}"
    containers.runsc("restore", "--detach", image, containers.bundle, f"{name}-again")
    assert containers.state(f"{name}-again")["status"] == "running"
    assert gvisor.is_version(containers.exec(f"{name}-again", "/bin/cat", "/proc/version"))
    containers.remove(f"{name}-again")


@pytest.mark.sampled(1)
def test_a_container_passes_all_states_from_create_to_restore(containers: Containers) -> None:
    check_all_states(containers, "one")


def test_a_detached_container_outlives_runsc(containers: Containers) -> None:
    containers.runsc("run", "--detach", containers.bundle, "one")
    assert containers.state("one")["status"] == "running"
    assert containers.exec("one", "/usr/bin/id", "-u") == "0\n"
    containers.remove("one")


def test_the_exit_status_of_runsc_is_returned(containers: Containers) -> None:
    assert "not exist" in containers.runsc("start", "nobody", status=128)


def put_counting_helpers(directory: Path) -> Path:
    """Write fakes of newuidmap and newgidmap that log each call and fail; return the log's path."""
    log = directory / "helper-calls"
    for name in ("newuidmap", "newgidmap"):
        helper = directory / "helpers" / name
        helper.parent.mkdir(exist_ok=True)
        helper.write_text(f"#!/bin/sh\necho {name} >>{log}\nexit 1\n")
        helper.chmod(0o755)
    return log


@unprivileged
@pytest.mark.userns_requires("subid")
@tries(2, 8)
def test_containers_in_a_namespace_call_no_newuidmap(
    directory: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    log = put_counting_helpers(directory)
    with Namespace.create(un.IdMap.auto(), mount=True) as namespace:
        monkeypatch.setenv("PATH", f"{directory}/helpers:{os.environ['PATH']}")
        containers = Containers(namespace, directory)
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(
                lambda number: check_all_states(containers, f"c{number}"), range(count)
            ):
                pass
    assert not log.exists()
    assert not list((directory / "state").glob("*.state"))

    # Show that the fake helpers log their runs: outside the namespace, runsc itself runs newuidmap.
    done = subprocess.run(
        [*global_options(directory), "run", containers.bundle, "alone"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    assert done.returncode != 0
    assert "newuidmap" in log.read_text()
