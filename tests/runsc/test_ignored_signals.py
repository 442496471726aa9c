"""Tests of commands in gVisor whose caller ignores signals, as nohup(1) does."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from conftest import Program
from frozen import freeze
from inside import PATIENCE

TERMINATING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
# Program that prints which of the signals in its arguments it ignores.
SHOW = (
    "import signal, sys\n"
    "print(*(n for n in sys.argv[1:] if signal.getsignal(int(n)) is signal.SIG_IGN))"
)
# Shell script that ignores the signals in $0, prints a line, and executes a command.
IGNORE = 'trap "" $0; echo ignoring; exec "$@"'


@pytest.fixture(params=["run", "launch"])
def start(
    request: pytest.FixtureRequest, usernsctl: Program, prelude: Program, tmp_path: Path
) -> list[str]:
    """Return the argv that starts a command with `usernsctl run` or with a launch file."""
    if request.param == "run":
        return [str(usernsctl.path), "run", "--"]
    freeze(tmp_path / "launch")
    return [str(prelude.path), "--launch", str(tmp_path / "launch"), "--"]


@contextmanager
def ignoring(signals: str, command: list[str]) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """Execute `command` in a shell that ignores `signals`; yield the process and its output."""
    words = ["sh", "-c", IGNORE, signals, *command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ignoring\n"
            yield process, process.stdout
        finally:
            process.kill()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("signals", ["HUP", "HUP INT QUIT TERM"])
def test_a_command_survives_the_signals_that_its_caller_ignores(
    start: list[str], signals: str
) -> None:
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done"
    with ignoring(signals, [*start, "sh", "-c", script]) as (process, output):
        assert output.readline() == "ready\n"
        for name in signals.split():
            process.send_signal(signal.Signals[f"SIG{name}"])
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 7


def test_a_command_can_handle_the_signals_that_its_caller_ignores(start: list[str]) -> None:
    """Check that a server that reloads its settings at SIGHUP can be started by nohup(1)."""
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGHUP, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    with ignoring("HUP", [*start, "python3", "-c", script]) as (process, output):
        assert output.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE) == 7


@pytest.mark.parametrize("signals", ["HUP", "HUP INT QUIT TERM USR1"])
def test_only_terminating_signals_are_inherited(start: list[str], signals: str) -> None:
    expected = [str(int(one)) for one in TERMINATING if one.name[3:] in signals.split()]
    asked = map(str, [*map(int, TERMINATING), int(signal.SIGUSR1)])
    with ignoring(signals, [*start, "python3", "-c", SHOW, *asked]) as (_, output):
        assert output.read().split() == expected


def test_a_dry_run_shows_the_ignored_signals(usernsctl: Program) -> None:
    with ignoring("HUP TERM", [str(usernsctl.path), "run", "--dry-run", "--json", "true"]) as (
        _,
        output,
    ):
        args = json.load(output)["config"]["process"]["args"]
    mask = 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGTERM - 1)
    assert args[-2:] == [f"--ignore={mask}", "true"]
