"""How the processes of a container stand that run its command: tests/posture_table.py."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import pytest
from posture import Caller, Family, differences, family_of
from posture_table import RUN_IN_CONTAINER

from docker.conftest import PRELUDE
from docker.engine import Engine
from docker.matrix import NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP

SECRET = "what the container was told"
SETTLING = 20


@contextlib.contextmanager
def container(engine: Engine, *options: str) -> Iterator[tuple[int, int]]:
    """One with a command that waits: the ids of its process 1, and of one that it lets in."""
    name = f"posture-{time.monotonic_ns()}"
    command = ["run", "--", "sh", "-c", "echo ready; read line"]
    run = ["run", "--rm", "--interactive", f"--name={name}", "--env", f"TOKEN={SECRET}", *options]
    process = subprocess.Popen(
        engine.command(*run, PRELUDE, *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=engine.environ,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        engine.must("exec", "--detach", name, "sleep", "1000")
        first = int(engine.must("inspect", "--format={{.State.Pid}}", name))
        beside = [line.split() for line in engine.must("top", name, "-eo", "pid,args").splitlines()]
        yield first, next(int(words[0]) for words in beside if words[1:] == ["sleep", "1000"])
    finally:
        engine("kill", name)
        process.communicate(timeout=SETTLING)


@pytest.mark.parametrize("engine", ["plain", "remapped"], indirect=True)
def test_posture(engine: Engine) -> None:
    with container(engine, NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP) as (first, beside):
        streams = ("stdin", "stdout", "stderr")
        given = {name: f"/proc/{first}/fd/{number}" for number, name in enumerate(streams)}
        caller = Caller(given, {"TOKEN": SECRET}, pid=beside)
        deadline = time.monotonic() + SETTLING
        while found := differences(RUN_IN_CONTAINER, Family(caller, family_of(first))):
            assert time.monotonic() < deadline, "\n".join(["", *found])
