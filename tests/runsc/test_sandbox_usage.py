"""Tests of the memory, the processes and the CPU time that a running sandbox reports."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

import usernsctl as un

MIB = 1 << 20
# Program that allocates 100 MiB of memory and keeps it until end of file on standard input.
HOLDER = "import sys\nheld = b'x' * (100 << 20)\nprint('ready', flush=True)\nsys.stdin.read()"
SPINNER = "import time\nwhile time.process_time() < 0.4: pass"


# Run this case as root, too: only then is a sandbox with a limit in a separate control group.
LIMITED = pytest.param("limited", marks=pytest.mark.also_root)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["child", "detached", "attached", LIMITED])
def test_usage_counts_what_programs_use(kind: str, host: un.SandboxHost) -> None:
    with ExitStack() as opened:
        limits = {"memory": "1G"} if kind == "limited" else {}
        box = host.start(None, detach=kind in ("detached", "attached"), **limits)
        opened.enter_context(box)
        if kind == "attached":
            box = opened.enter_context(un.Sandbox.attach(box.id))
        before = box.usage()
        assert 1 * MIB < before.memory < 200 * MIB
        assert before.pids > 5
        assert before.processor_time > 0
        with box.popen(["python3", "-c", HOLDER], stdin=un.PIPE, stdout=un.PIPE) as holder:
            assert holder.stdout.readline() == b"ready\n"
            during = box.usage()
            assert during.memory > before.memory + 90 * MIB
            assert during.pids > before.pids
            holder.stdin.close()
        assert box.run(["python3", "-c", SPINNER]).returncode == 0
        assert asyncio.run(box.usage_async()).processor_time > before.processor_time + 0.1


@pytest.mark.parametrize("detach", [False, True])
def test_a_sandbox_that_has_ended_has_no_usage(detach: bool, host: un.SandboxHost) -> None:
    with host.start(["true"], detach=detach) as box:
        box.wait()
        with pytest.raises(un.SandboxEndedError):
            box.usage()
        with pytest.raises(un.SandboxEndedError):
            asyncio.run(box.usage_async())
