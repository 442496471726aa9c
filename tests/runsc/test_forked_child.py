"""Tests of forked children that drop their copies of objects that the parent still uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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


# Program that tries to create invalid SandboxHosts, and creates a sandbox, while another thread
# forks children, which inherit the pipes and sockets of each start. Each child exits after a
# minute, or is killed at the end.
FORKING_MEANWHILE = """
import os, signal, sys, threading, time, warnings
import usernsctl as un

warnings.simplefilter("ignore", DeprecationWarning)
children, stop = [], threading.Event()

def fork():
    while not stop.wait(0.01):
        if pid := os.fork():
            children.append(pid)
        else:
            signal.alarm(60)
            os.close(1)
            signal.pause()

thread = threading.Thread(target=fork)
thread.start()
try:
    for _ in range(5):
        try:
            un.SandboxHost(binds=["/etc/passwd:/opt"])
        except un.BindError:
            print("refused")
    with un.SandboxHost() as host, host.start(None) as box:
        print(box.run(["true"]).returncode, box.state()["status"])
    # If a start had waited until a child closed its pipes, that child would have exited by now.
    print(any(os.waitpid(pid, os.WNOHANG) != (0, 0) for pid in children))
finally:
    stop.set()
    thread.join()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
"""


def test_starts_do_not_wait_for_children_that_another_thread_forks(tmp_path: Path) -> None:
    # Use an empty cache, so that usernsctl runs `runsc --version`.
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    output = check_output([sys.executable, "-c", FORKING_MEANWHILE], env=environment, timeout=300)
    assert output == 5 * "refused\n" + "0 running\nFalse\n"
