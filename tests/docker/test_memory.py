"""Tests of containers with memory and CPU limits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from docker.conftest import CONNECTOR, PRELUDE
from docker.engine import Engine
from docker.matrix import IN_GVISOR, NO_NEW_PRIVILEGES, NONE_LEFT, SECCOMP, cause_of

PROTECTED = ["run", "--rm", NONE_LEFT, NO_NEW_PRIVILEGES, SECCOMP, IN_GVISOR]

GROW = {
    "node": ["node", "-e", "const held = []; for (;;) held.push(Buffer.alloc(1 << 24, 1))"],
    "python": ["python3", "-c", "held = []\nwhile True: held.append(b'x' * 10**7)"],
    "sh": ["sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"],
}


def node_volumes() -> list[str]:
    """Return docker options that mount the host's Node.js and its libraries."""
    node = shutil.which("node")
    assert node is not None, "nodejs is in docker/packages.apt"
    told = subprocess.run(["ldd", node], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"=> (/\S+)", told)
    return [
        f"--volume={node}:/usr/local/bin/node:ro",
        *(f"--volume={library}:{library}:ro" for library in libraries),
    ]


@pytest.mark.parametrize("limit", [150, 250, 400])
@pytest.mark.parametrize("program", GROW)
@pytest.mark.sampled
def test_oom_kill_ends_the_container_with_the_cause(
    program: str, limit: int, plain: Engine
) -> None:
    volumes = node_volumes() if program == "node" else []
    limits = [f"--memory={limit}m", f"--memory-swap={limit}m"]
    done = plain(*PROTECTED, *volumes, *limits, CONNECTOR, *GROW[program])
    assert (done.returncode, done.stdout) == (137, "")
    assert cause_of(done) == "out-of-memory"
    assert f"the limit of the control group is {limit}.0 MiB, of which " in done.stderr


def test_messages_can_be_json(plain: Engine) -> None:
    """Check the JSON messages of a failed start, an OOM kill and a failed health check."""
    limits = ["--memory=150m", "--memory-swap=150m"]
    wrong = [one for one in PROTECTED if one != SECCOMP]
    for options, status, cause in (
        ([*wrong, PRELUDE, "--log=json", "--", "true"], 125, "seccomp-denies-userns"),
        ([*PROTECTED, *limits, PRELUDE, "--log=json", "--", *GROW["sh"]], 137, "out-of-memory"),
        ([*PROTECTED, PRELUDE, "--log=json", "--health"], 1, "no-sandbox"),
    ):
        done = plain(*options)
        assert (done.returncode, done.stdout) == (status, "")
        told = [json.loads(line) for line in done.stderr.splitlines()]
        assert [(one["level"], one["cause"]) for one in told] == [("error", cause)]
        assert told[0]["remedy"]


def test_a_program_sees_the_limits_of_its_container(plain: Engine) -> None:
    script = "head -n 1 /proc/meminfo; nproc; python3 -c 'import os; print(os.cpu_count())'"
    limits = ["--memory=512m", "--cpus=0.7"]
    done = plain(*PROTECTED, *limits, CONNECTOR, "sh", "-c", script)
    assert done.stdout.split() == ["MemTotal:", "524288", "kB", "1", "1"], done.stderr
    done = plain(*PROTECTED, "--cpuset-cpus=0", CONNECTOR, "nproc")
    assert done.stdout == "1\n", done.stderr


def test_node_has_the_same_heap_limit_as_without_gvisor(plain: Engine) -> None:
    script = "console.log(require('v8').getHeapStatistics().heap_size_limit)"
    limits = ["--memory=512m", *node_volumes()]
    node = ["node", "-e", script]
    with_gvisor = plain(*PROTECTED, *limits, CONNECTOR, *node)
    without = plain("run", "--rm", "--entrypoint=node", *limits, CONNECTOR, *node[1:])
    assert with_gvisor.stdout == without.stdout != "", with_gvisor.stderr


def test_a_memory_limit_below_the_needs_of_gvisor_is_named(plain: Engine) -> None:
    done = plain(*PROTECTED, "--memory=20m", "--memory-swap=20m", CONNECTOR, "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert cause_of(done) == "memory-limit-too-low"
    assert "20.0 MiB of memory, and gVisor alone needs 24 MiB" in done.stderr
