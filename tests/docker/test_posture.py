"""Tests of the security attributes of a container's processes (tests/posture_table.py)."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping

import pytest
from posture import Caller, Family, Posture, family_of, kind_of, lasting_differences
from posture_table import (
    LAUNCH_IN_CONTAINER,
    LAUNCH_IN_REMAPPED,
    RUN_IN_CONTAINER,
    RUN_IN_REMAPPED,
)

from docker.conftest import PRELUDE, PRELUDE_PYTHON
from docker.engine import Engine
from docker.matrix import NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP

SECRET = "what the container was told"
SETTLING = 20


# Script that starts a process outside the sandbox, and then a command in gVisor. `docker exec`
# could not start that process in the container's mount namespace, because PID 1 has left this
# namespace.
SCRIPT = "sleep 1000 & exec {} -- sh -c 'echo ready; read line'"
# Programs that start a command in gVisor, by image.
STARTS = {
    PRELUDE_PYTHON: "usernsctl run",
    PRELUDE: "usernsctl-exec --launch /etc/usernsctl/launch.no-network",
}


@contextlib.contextmanager
def container(engine: Engine, image: str, *options: str) -> Iterator[tuple[int, int]]:
    """Start a container; yield the pids of its PID 1 and of a process outside the sandbox."""
    name = f"posture-{time.monotonic_ns()}"
    run = ["run", "--rm", "--interactive", f"--name={name}", "--env", f"TOKEN={SECRET}", *options]
    process = subprocess.Popen(
        engine.command(*run, "--entrypoint=sh", image, "-c", SCRIPT.format(STARTS[image])),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=engine.environ,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        first = int(engine.must("inspect", "--format={{.State.Pid}}", name))
        (beside,) = (pid for pid in family_of(first) if kind_of(pid) == "sleep")
        yield first, beside
    finally:
        engine("kill", name)
        process.communicate(timeout=SETTLING)


@pytest.mark.parametrize(
    ("image", "engine", "expected"),
    [
        (PRELUDE_PYTHON, "plain", RUN_IN_CONTAINER),
        (PRELUDE_PYTHON, "remapped", RUN_IN_REMAPPED),
        (PRELUDE, "plain", LAUNCH_IN_CONTAINER),
        (PRELUDE, "remapped", LAUNCH_IN_REMAPPED),
    ],
    indirect=["engine"],
    ids=["plain", "remapped", "launch-plain", "launch-remapped"],
)
def test_posture(image: str, engine: Engine, expected: Mapping[str, Posture]) -> None:
    with container(engine, image, NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP) as (first, beside):
        streams = ("stdin", "stdout", "stderr")
        given = {name: f"/proc/{first}/fd/{number}" for number, name in enumerate(streams)}
        caller = Caller(given, {"TOKEN": SECRET}, pid=beside)

        # With userns-remap, PID 1 stays outside the sandbox's user namespace, so don't count PID 1
        # as a part of the sandbox.
        others = {beside}
        if expected in (RUN_IN_REMAPPED, LAUNCH_IN_REMAPPED):
            assert kind_of(first) in ("usernsctl", "usernsctl-exec")
            others.add(first)

        def look() -> Family:
            return Family(caller, (pid for pid in family_of(first) if pid not in others))

        found = lasting_differences(expected, look, SETTLING)
        assert not found, "\n".join(["", *found])
