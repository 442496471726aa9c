"""What becomes of a verb whose output nobody takes."""

from __future__ import annotations

import os
import signal
import subprocess

from conftest import Program


def test_a_full_disk_is_one_line(usernsctl: Program) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [usernsctl.path, "plan", "-r", "--json"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 125
    assert done.stderr.startswith("usernsctl: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_is_gone_is_no_error(usernsctl: Program) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [usernsctl.path, "plan", "-r", "--json"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
