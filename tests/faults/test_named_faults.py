"""Tests that kill the creator of a named namespace at any point; nothing may remain.

The next call with the same name must succeed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from callers import as_root
from conftest import SCRIPTS
from injecting import SECONDS, run_with
from processes import capture

# Program that kills a creator before its Nth line, for N = 1, 1 + STEP, ..., until a creator
# finishes. After each kill, the next caller must get a working namespace. Finally, the last N is
# printed.
SWEEP = """
import os, signal, sys
from usernsctl._system import records
from usernsctl.namespaces import named, namespace
from usernsctl.namespaces.namespace import Namespace

FILES = {module.__file__ for module in (named, namespace, records)}

def create_until(line):
    lines = 0
    def count(frame, event, argument):
        nonlocal lines
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return count
    sys.settrace(count)
    Namespace.open_or_create("web", mount=True)
    os._exit(0)

line = 1
while True:
    child = os.fork()
    if child == 0:
        create_until(line)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    with Namespace.open_or_create("web", mount=True) as ns:
        ns.run(["true"], check=True)
        link = ns.check_output(["readlink", "/proc/self/ns/user"], text=True).strip()
    (found,) = named.list_named()
    assert os.readlink(f"/proc/{found.pid}/ns/user") == link
    named.remove_named("web")
    assert os.listdir(os.environ["XDG_RUNTIME_DIR"] + "/usernsctl/namespaces") == []
    if not killed:
        break
    line += int(sys.argv[1])
print(line)
"""


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.thorough)])
@pytest.mark.timeout(600)
def test_a_creator_may_be_killed_anywhere(step: int, tmp_path: Path) -> None:
    done = capture(
        [sys.executable, "-c", SWEEP, str(step)],
        timeout=500,
        env=dict(os.environ) | {"XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    # SWEEP prints the first N at which no creator was killed, because a creator executes fewer
    # lines. A small N would mean that SWEEP did not count the creators' lines.
    assert int(done.stdout) > 50


@pytest.mark.userns_requires("strace")
@pytest.mark.parametrize("when", range(1, 46, 2))
@pytest.mark.sampled(8)
def test_the_prelude_may_be_killed_anywhere(when: int) -> None:
    """Kill usernsctl-exec and the holder, each at its Nth system call; check that both exit."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [SCRIPTS / "usernsctl-exec", f"--hold={theirs.fileno()}", "-rm"]
    # Let the holder read end of file, as if its creator had exited. The messages of
    # usernsctl-exec and of the holder stay in the socket's buffer until the test reads them below.
    ours.shutdown(socket.SHUT_WR)
    with ours:
        with theirs:
            run_with(f"all:signal=KILL:when={when}", command=command, pass_fds=(theirs.fileno(),))
        while message := ours.recv(4096):
            assert message.split()[0] in (b"pid", b"ready")


@as_root
@pytest.mark.userns_requires("strace")
@pytest.mark.parametrize(("when", "call"), [(1, "PR_SET_NAME"), (2, "PR_SET_DUMPABLE")])
def test_a_holder_that_can_not_be_opened_does_not_stay(when: int, call: str) -> None:
    """Check that a holder exits if prctl(2) fails before other processes can open its namespaces.

    Only root may trace the holder, which is not dumpable yet.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(SECONDS)
    fault = f"inject=prctl:error=EINVAL:when={when}"
    tracer = ["strace", "-o", os.devnull, "-e", "trace=prctl", "-e", fault, "-p"]
    with ours, theirs:
        command = [SCRIPTS / "usernsctl-exec", f"--hold={theirs.fileno()}", "-rm"]
        capture(command, pass_fds=(theirs.fileno(),))
        theirs.close()
        # usernsctl-exec sends "pid N", and the holder "ready", in any order.
        ready, (_, holder) = sorted((ours.recv(4096).split() for _ in range(2)), key=len)
        with subprocess.Popen([*tracer, holder], stderr=subprocess.PIPE) as traced:
            assert traced.stderr is not None
            assert b"attached" in traced.stderr.readline()
            ours.send(b"+")
            message = ours.recv(4096)
            # strace exits only when the holder has exited.
            assert traced.wait(SECONDS) == 0
    assert ready == [b"ready"]
    assert message.startswith(b"error ")
    assert f" {call}\0".encode() in message
