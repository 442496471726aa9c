"""Attacks by a payload on its caller's terminal, and signals to usernsctl at random times."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Program
from processes import wait_until_gone
from tally import Tally

pytestmark = pytest.mark.userns_requires("runsc")

# Program that tries to insert input into the terminal on which it runs.
INJECT = """
import fcntl, termios
for request in (termios.TIOCSTI, 0x541C):  # TIOCLINUX
    for key in b"echo injected\\n":
        try: fcntl.ioctl(0, request, bytes([key]))
        except OSError: pass
"""
# Program that tries to change the size, foreground process group and session of its terminal.
PLAY = """
import fcntl, os, struct, termios, tty
tty.setraw(0)
def attempt(request, value):
    try: fcntl.ioctl(0, request, value)
    except OSError: pass
for rows, columns in ((0, 0), (65535, 65535), (1, 1)):
    attempt(termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
for value in (0, 1, 2**31 - 1, -1):
    attempt(termios.TIOCSPGRP, struct.pack("i", value))
    attempt(termios.TIOCSCTTY, value)
for request in (termios.TIOCNOTTY, termios.TIOCEXCL, termios.TIOCCONS, 0x5437):  # TIOCVHANGUP
    attempt(request, 0)
"""
STOP = "import os, signal; os.kill(0, signal.SIGSTOP); os.kill(1, signal.SIGSTOP)"
FLOOD = "import os\nwhile True: os.write(1, b'\\x1b[6n\\x1b[2J\\x1b]0;x\\x07' * 1000)"
WAIT = "\nimport os, time; os.write(2, b'done.'); time.sleep(1000)"


@contextlib.contextmanager
def started(usernsctl: Program, script: str) -> Iterator[tuple[subprocess.Popen[bytes], int, int]]:
    """Start a payload on a terminal; yield the process and both ends of the terminal."""
    ours, theirs = os.openpty()
    command = [usernsctl.path, "run", "--", "/usr/bin/python3", "-c", script]
    try:
        with subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            try:
                yield process, ours, theirs
            finally:
                process.kill()
    finally:
        os.close(ours)
        os.close(theirs)


def read_until(ours: int, wanted: bytes) -> None:
    seen = b""
    deadline = time.monotonic() + 60
    while wanted not in seen:
        assert select.select([ours], [], [], deadline - time.monotonic())[0], seen[-1000:]
        seen = (seen + os.read(ours, 65536))[-100_000:]


def test_hostile_payload_types_nothing_for_its_caller(usernsctl: Program, tally: Tally) -> None:
    """Check that a payload can't insert input into its caller's terminal."""
    for _ in range(tally.rounds(1, 20)):
        with started(usernsctl, INJECT) as (process, _, theirs):
            assert process.wait(60) == 0
            tally.tried(28)
            (size,) = struct.unpack("i", fcntl.ioctl(theirs, termios.FIONREAD, b"\0" * 4))
            if size:
                tally.succeeded(f"{size} bytes of input")


def test_hostile_payload_leaves_the_mode_of_the_terminal(usernsctl: Program, tally: Tally) -> None:
    for _ in range(tally.rounds(1, 20)):
        with started(usernsctl, PLAY) as (process, _, theirs):
            before = termios.tcgetattr(theirs)
            status = process.wait(60)
            tally.tried(15)
            if status != 0 or termios.tcgetattr(theirs) != before:
                tally.succeeded(f"another mode of the terminal, and status {status}")


@pytest.mark.parametrize("script", [PLAY + WAIT, FLOOD], ids=["play", "flood"])
def test_hostile_payload_can_be_ended(usernsctl: Program, tally: Tally, script: str) -> None:
    """Check that SIGTERM immediately ends a payload whose output is not read."""
    for _ in range(tally.rounds(1, 10)):
        with started(usernsctl, script) as (process, ours, _):
            read_until(ours, b"done." if script is not FLOOD else b"\x1b[2J")
            process.terminate()
            tally.tried()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                tally.succeeded("a payload that goes on")


def test_hostile_payload_that_stops_itself_is_continued(usernsctl: Program, tally: Tally) -> None:
    for _ in range(tally.rounds(1, 10)):
        script = "import os; os.write(1, b'begins.');" + STOP + ";os.write(1, b'goes on.')"
        with started(usernsctl, script) as (process, ours, _):
            read_until(ours, b"begins.")
            deadline = time.monotonic() + 60
            while process.poll() is None:
                process.send_signal(signal.SIGCONT)
                assert time.monotonic() < deadline
                time.sleep(0.1)
            tally.tried()
            if process.returncode != 0:
                tally.succeeded(f"status {process.returncode}")


# Signals that kill the command or have no effect. Stop signals such as SIGSTOP are omitted, because
# only a shell would continue the command.
RACED = [1, 2, 3, 10, 12, 15, 18, 28, 34, 37, 64]


def test_hostile_signals_at_any_time(usernsctl: Program, tally: Tally, tmp_path: Path) -> None:
    """Send a signal after a random delay; check the exit status, and that no process remains."""
    state = tmp_path / "state"
    chance = random.Random(str(state))
    for _ in range(tally.rounds(6, 300)):
        command = [usernsctl.path, "run", "--root", state, "--", "sleep", "0.1"]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            time.sleep(chance.uniform(0, 0.8))
            sent = chance.choice(RACED)
            process.send_signal(sent)
            tally.tried()
            _, said = process.communicate(timeout=60)
        # Before usernsctl-watch runs, SIGINT raises KeyboardInterrupt in Python, so the exit status
        # may be 1.
        is_early = said.endswith("KeyboardInterrupt\n")
        if not is_early and process.returncode not in (0, 128 + sent, -sent):
            tally.succeeded(f"status {process.returncode} after signal {sent}: {said[-300:]}")
    if left := wait_until_gone(str(state), 20):
        tally.succeeded(f"{len(left)} processes that are left")
