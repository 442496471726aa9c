"""Tests of SandboxHost and Sandbox in a program whose standard streams are closed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import Program

# Program that closes some of its standard streams, so that descriptors of its SandboxHost get
# numbers from 0 to 2.
CLOSED = """
import os, sys
import usernsctl as un

report = os.dup2(1, 50)
for fd in map(int, sys.argv[1]):
    os.close(fd)
with un.SandboxHost() as host, host.start(["sleep", "1000"]) as box:
    os.write(report, b"%d" % box.run(["sh", "-c", "exit 6"]).returncode)
    # A command must not inherit a descriptor of the SandboxHost or Sandbox as a standard stream.
    box.run(["sh", "-c", 'for fd in "$@"; do readlink /proc/self/fd/$fd; done >/tmp/streams', "sh",
        *sys.argv[1]])
    os.write(report, box.read_file("/tmp/streams"))
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "12", "012"])
@pytest.mark.sampled(3)
def test_sandboxes_work_when_standard_streams_are_closed(closed: str) -> None:
    command = [sys.executable, "-c", CLOSED, closed]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"6"), done.stdout
    assert b"socket" not in done.stdout


# Program that closes some of its standard streams, and then starts a detached sandbox with a proxy,
# and attaches to it.
DETACHED = """
import os, sys
import usernsctl as un

report = os.dup2(1, 50)
with un.SandboxHost(allow=["allowed.example"]) as host:
    for fd in map(int, sys.argv[1]):
        os.close(fd)
    with host.start(["sleep", "1000"], publish=[80], detach=True) as box:
        found = un.Sandbox.attach(box.id)
        os.write(report, b"%d" % found.run(["sh", "-c", "exit 7"]).returncode)
        found.release()
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("closed", ["0", "12", "012"])
@pytest.mark.usefixtures("detached_state")
def test_detached_sandboxes_work_when_standard_streams_are_closed(closed: str) -> None:
    command = [sys.executable, "-c", DETACHED, closed]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"7", b"")


# Program that closes some of its standard streams, and then runs a command with a proxy.
PROXIED = """
import os, sys
import usernsctl as un

report = os.dup2(1, 50)
for fd in map(int, sys.argv[1]):
    os.close(fd)
done = un.gvisor.run(["sh", "-c", "exit 7"], allow=["allowed.example"])
os.write(report, b"%d" % done.returncode)
"""


@pytest.mark.sampled(1)
@pytest.mark.parametrize("closed", ["0", "12", "012"])
def test_names_are_allowed_when_standard_streams_are_closed(closed: str) -> None:
    command = [sys.executable, "-c", PROXIED, closed]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"7", b"")


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_run_allows_names_when_standard_streams_are_closed(usernsctl: Program, closed: str) -> None:
    run = f"{usernsctl.path} run --allow allowed.example -- sh -c 'exit 7' {closed}"
    assert subprocess.run(["sh", "-c", run], timeout=60).returncode == 7
