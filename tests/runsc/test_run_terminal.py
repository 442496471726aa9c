"""Tests of commands on a terminal (job control, size, keys), and of launches without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Program
from frozen import freeze
from processes import capture
from terminals import Session

SHELLS = [["/bin/bash", "--norc", "--noediting", "-i"], ["/bin/sh", "-i"]]

Start = Callable[..., Session]


@pytest.fixture(params=["run", "launch"])
def start(
    request: pytest.FixtureRequest, usernsctl: Program, prelude: Program, tmp_path: Path
) -> Iterator[Start]:
    """Return a function that starts a command on a terminal, with `run` or with a launch file."""
    sessions: list[Session] = []

    def start(*command: str, options: tuple[str, ...] = ()) -> Session:
        words: list[str | Path] = [usernsctl.path, "run", *options, "--", *command]
        if request.param == "launch":
            words = [prelude.path, "--launch"]
            words.append(freeze(tmp_path / "launch", *options, command=command))
        sessions.append(Session(words))
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()


# Job for python3 -c "$JOB", which prints when it starts and when it continues. It is a single
# process: a shell would block if it were stopped during vfork(2). The sleeps are short, because
# Python handles a signal that arrives just before a sleep only after the sleep.
JOB = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"continued.\\n"))
os.write(1, b"starts.\\n")
while True: time.sleep(0.05)
"""


def stop_job(session: Session) -> None:
    """Start JOB in the shell, and stop it with Ctrl-Z."""
    session.type('/usr/bin/python3 -c "$JOB"\n', "starts.")
    session.type("\x1a", "Stopped", "ready> ")


@pytest.mark.parametrize("shell", SHELLS, ids=["bash", "sh"])
@pytest.mark.parametrize("user", [(), ("--user", "1000:1000")], ids=["root", "user"])
@pytest.mark.sampled
def test_shells_have_job_control(start: Start, shell: list[str], user: tuple[str, ...]) -> None:
    session = start(*shell, options=("--env", f"JOB={JOB}", "--env", "PS1=ready> ", *user))
    session.read_until("ready> ")
    stop_job(session)
    session.type("fg\n", "continued.")
    session.type("\x03", "ready> ")
    session.type("echo interrupted $?\n", "interrupted 130", "ready> ")
    stop_job(session)
    session.type("bg\n", "continued.")
    session.type("jobs\n", "Running")
    session.type("kill -9 %1; wait %1; echo killed $?\n", "killed 137")
    session.type("exit 7\n")
    assert session.wait() == 7


def test_resize_sends_sigwinch_to_the_command(start: Start) -> None:
    script = 'trap "stty size; exit 3" WINCH; stty size; while :; do sleep 0.1; done'
    session = start("sh", "-c", script)
    session.read_until("24 80")
    session.resize_until(40, 123, "40 123")
    assert session.wait() == 3


CURSES = """
import curses
def draw(screen):
    screen.addstr(1, 1, "size %d %d." % screen.getmaxyx())
    screen.refresh()
    # A signal may arrive just before getch() reads. Without a timeout, curses would report that
    # signal only after the next key.
    screen.timeout(100)
    while (key := screen.getch()) != ord("q"):
        if key == curses.KEY_RESIZE:
            screen.addstr(3, 1, "resized.")
        elif key != -1:
            screen.addstr(2, 1, "key %d." % key)
        screen.refresh()
curses.wrapper(draw)
"""


def test_curses_program_reads_keys_and_redraws(start: Start) -> None:
    """Check that a curses program gets single keys, and the terminal's new size after a change."""
    session = start("/usr/bin/python3", "-c", CURSES, options=("--env", "TERM=xterm"))
    session.read_until("size 24 80.")
    session.type("a", "key 97.")
    session.resize_until(30, 90, "resized.")
    session.type("q")
    assert session.wait() == 0


def test_launch_uses_pipes_without_a_terminal(prelude: Program, tmp_path: Path) -> None:
    script = "test -t 0 || test -t 1 || test -t 2 || echo pipes; cat; echo error >&2"
    launch = freeze(tmp_path / "launch", command=("sh", "-c", script))
    done = capture([prelude.path, "--launch", launch], input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "pipes\ntyped\n", "error\n")


def test_terminal_option_without_a_terminal_is_refused(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    """Check that --terminal needs a terminal, without which gVisor would silently lose output."""
    launch = freeze(tmp_path / "launch", "--terminal", command=("echo", "ran"))
    run = [usernsctl.path, "run", "--terminal", "--", "echo", "ran"]
    for words in ([prelude.path, "--launch", launch], run):
        done = capture(words)
        assert (done.returncode, done.stdout) == (125, "")
        assert "terminal-missing" in done.stderr
    session = Session([prelude.path, "--launch", launch])
    session.read_until("ran")
    assert session.wait() == 0
    session.close()


def test_launch_with_no_terminal_option_runs_on_a_terminal(
    prelude: Program, tmp_path: Path
) -> None:
    launch = freeze(tmp_path / "launch", "--no-terminal", command=("sh", "-c", "echo ran; exit 4"))
    session = Session([prelude.path, "--launch", launch])
    session.read_until("ran")
    assert session.wait() == 4
    session.close()


def test_command_leads_its_session_but_has_no_dev_tty(start: Start) -> None:
    script = (
        "import errno, os\n"
        "try: os.open('/dev/tty', os.O_RDWR)\n"
        "except OSError as error: name = errno.errorcode[error.errno]\n"
        "print(os.getsid(0) == os.tcgetpgrp(0) == os.getpid(), name, 'seen' + '.')\n"
    )
    session = start("/usr/bin/python3", "-c", script)
    session.read_until("True EIO seen.")
    assert session.wait() == 0
