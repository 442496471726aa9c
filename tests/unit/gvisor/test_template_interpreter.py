"""Tests of the interpreter process of a Python template. The tests start no sandbox."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, time
from usernsctl.gvisor.template import interpreter

class Host:
    def send(self, data):
        os.kill(os.getpid(), int(sys.argv[1]))
    def close(self):
        pass

if sys.argv[3:]:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    assert interpreter._load([], None) == {}
interpreter._start(Host(), {"cwd": "/", "env": {}}, [os.dup(number) for number in range(3)])
if sys.argv[3:]:
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
if len(sys.argv) > 2:
    os._exit(int(sys.argv[2]))
signal.alarm(60)
time.sleep(1000)
"""


def run(*words: object) -> int:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=90).returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGRTMIN])
def test_signal_at_once_reaches_the_program(number: int) -> None:
    assert run(number) == 128 + number


@pytest.mark.parametrize("status", [0, 3])
def test_exit_status_is_seen_at_any_time(status: int) -> None:
    # The interpreter has handlers for SIGCHLD and SIGCONT. Check that neither signal kills the
    # interpreter.
    assert run(signal.SIGCHLD, status) == status
    assert run(signal.SIGCONT, status) == status


@pytest.mark.parametrize("status", [0, 3])
def test_exit_status_is_seen_if_the_code_ignores_sigchld(status: int) -> None:
    assert run(signal.SIGCONT, status, "ignored") == status
