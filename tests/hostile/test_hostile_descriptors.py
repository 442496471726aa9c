"""Attacks by programs that open as many host files through gVisor as they can."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SCRIPTS
from processes import children_of
from tally import Tally

import usernsctl as un
from usernsctl._core import SANDBOX_FILES_MAX

pytestmark = pytest.mark.userns_requires("runsc")

PATIENCE = 60

# Program that opens the files in /usr until an error occurs, and exits at end of file on stdin.
OPENING = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
kept = []

def open_all():
    for where, _, names in os.walk("/usr"):
        for name in names:
            path = os.path.join(where, name)
            if os.path.isfile(path):
                kept.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return "there are no more files"

try:
    told = open_all()
except OSError as error:
    told = error.strerror
print(f"{told} after {len(kept)}", flush=True)
sys.stdin.read()
"""
COMMAND = ["/usr/bin/python3", "-c", OPENING]


def descendants(pid: int) -> Iterator[int]:
    for child in children_of(pid):
        yield child
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from descendants(child)


def check_descriptors(pid: int, tally: Tally) -> None:
    """Check that no descendant of `pid` has, or could have, more descriptors than the limit."""
    counts = {}
    for one in descendants(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            counts[one] = len(os.listdir(f"/proc/{one}/fd"))
            limits = Path(f"/proc/{one}/limits").read_text()
            (hard,) = [line.split()[4] for line in limits.splitlines() if "open files" in line]
            if int(hard) > SANDBOX_FILES_MAX:
                tally.succeeded(f"process {one} may have {hard} descriptors")
    print(sorted(counts.values()))
    if max(counts.values()) > SANDBOX_FILES_MAX:
        tally.succeeded(f"a process has {max(counts.values())} descriptors")


def test_a_sandbox_of_a_host_opens_few_descriptors_of_the_machine(tally: Tally) -> None:
    with un.SandboxHost() as host, host.start(None) as box:
        with box.popen(COMMAND, stdin=un.PIPE, stdout=un.PIPE, text=True) as hoarder:
            output = hoarder.stdout.readline()
            # The limit on gVisor's descriptors must leave the program more than 2,000 open files.
            assert int(output.split()[-1]) > 2000, output
            tally.tried()
            check_descriptors(box.init.pid, tally)
            with pytest.raises((OSError, un.UsernsError)):
                box.run(["ls", "/"], timeout=PATIENCE, check=True)
        # The program has exited, so its files are closed and the sandbox must work again.
        assert box.run(["ls", "/"], stdout=un.DEVNULL, timeout=PATIENCE).returncode == 0


def test_a_run_opens_few_descriptors_of_the_machine(tally: Tally) -> None:
    words = [SCRIPTS / "usernsctl", "run", "--", *COMMAND]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **streams, text=True) as hoarder:
        output = hoarder.stdout.readline()
        assert int(output.split()[-1]) > 2000, output
        tally.tried()
        check_descriptors(hoarder.pid, tally)
        hoarder.stdin.close()
        assert hoarder.wait(PATIENCE) == 0


@pytest.mark.thorough
def test_many_mounts_leave_descriptors_for_programs(tmp_path: Path) -> None:
    """Check that files that gVisor caches for ten mounts leave half of its descriptors free."""
    binds = []
    for mount in range(10):
        directory = tmp_path / str(mount)
        directory.mkdir()
        binds.append(f"{directory}:/bound/{mount}")
        for number in range(1200):
            (directory / str(number)).touch()
    with un.SandboxHost(binds=binds) as host, host.start(None) as box:
        box.run(["sh", "-c", "cat /bound/*/*"], check=True, timeout=PATIENCE)
        (sentry,) = [
            count
            for pid in descendants(box.init.pid)
            if "boot" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            for count in [len(os.listdir(f"/proc/{pid}/fd"))]
        ]
        assert sentry < SANDBOX_FILES_MAX / 2
