"""Tests of forked children that drop their copies of objects that the parent still uses."""

from __future__ import annotations

import sys

import pytest
from processes import check_output

# Program that creates an object, forks a child that drops its copy of the object, and then uses the
# object in the parent.
FORKING = """
import asyncio, gc, os, sys, warnings
import usernsctl as un

FOREVER = ["sleep", "1000"]
PIPES = {"stdin": un.PIPE, "stdout": un.PIPE}

def in_asyncio(start):
    loop = asyncio.new_event_loop()
    made = [loop.run_until_complete(start(*FOREVER, **PIPES))]
    fork(made, loop.close)
    try:
        loop.run_until_complete(asyncio.wait_for(made[0].wait(), 0.1))
    except TimeoutError:
        made[0].kill()
    else:
        print("the child has ended it")
    loop.run_until_complete(made[0].wait())
    loop.close()

def fork(made, close=lambda: None):
    # Python warns of a fork in a process with threads, and a pool has threads.
    warnings.simplefilter("ignore", DeprecationWarning)
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made.clear()
        close()
        gc.collect()
    told = [str(one.message) for one in seen]
    if kind == "asyncio":
        # asyncio itself warns of unclosed transports and their files, too.
        told = [text for text in told if "unclosed" not in text and text != "loop is closed"]
    if told:
        print("warned:", told, flush=True)
    os._exit(0)

def use(box):
    assert box.run(["true"]).returncode == 0

def make(kind, host):
    if kind == "namespace":
        return un.Namespace.create()
    if kind == "popen":
        return un.Popen(FOREVER, **PIPES, text=True)
    if kind == "host":
        return un.SandboxHost()
    if kind == "sandbox":
        return host.start(FOREVER, **PIPES)
    if kind == "terminal":
        return host.start(FOREVER, terminal=True)
    if kind == "template":
        return host.template()
    if kind == "pool":
        return host.pool(1)
    return box.popen(FOREVER, **PIPES)

kind = sys.argv[1]
with un.SandboxHost() as host, host.start(FOREVER) as box:
    if kind == "asyncio":
        in_asyncio(un.create_subprocess_exec)
        in_asyncio(box.create_subprocess_exec)
    else:
        made = [make(kind, host)]
        fork(made)
        with made.pop() as one:
            if kind in ("popen", "command"):
                assert one.poll() is None
                one.kill()
            elif kind == "namespace":
                assert one.run(["true"]).returncode == 0
            elif kind in ("host", "template"):
                one.start().close() if kind == "template" else one.start(FOREVER).close()
            elif kind == "pool":
                with one.acquire() as leased:
                    use(leased)
            else:
                use(one)
    use(box)
"""

KINDS = [
    *("namespace", "popen", "host", "sandbox", "terminal", "template", "pool", "command"),
    "asyncio",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sampled(4)
def test_forked_child_drops_objects_without_warning_or_effect(kind: str) -> None:
    assert check_output([sys.executable, "-W", "error", "-c", FORKING, kind]) == ""
