"""Tests of the supervisors of a command, with and without a terminal.

The supervisors are usernsctl-exec (with --fork, --pid or --init), usernsctl-watch, and usernsctl ns
exec with a PID namespace. Each test of the common behaviour runs with all supervisors.
test_prelude_fork.py and test_prelude_init.py have the tests of usernsctl-exec alone.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import supervisors
from conftest import Program
from inside import ORPHAN, PATIENCE, WAITER, read_ready
from processes import check_output, children_of, status_of, wait_until

import usernsctl as un

# Program that prints the number of each signal it receives, until SIGUSR1.
TELLER = """
import os, signal
wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
%s
print("ready", os.getpid(), flush=True)
while (number := signal.sigwait(wanted)) != signal.SIGUSR1:
    print(int(number), flush=True)
print("end", flush=True)
"""
IN_A_GROUP_OF_ITS_OWN = "os.setpgid(0, 0)"

# Program that sets the terminal to raw mode, prints a line, and then waits or exits.
RAW = """
import os, signal, time, tty
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
%s
tty.setraw(0)
os.write(2, b"ready\\n")
%s
"""
TAKES_THE_FOREGROUND = "os.setpgid(0, 0); os.tcsetpgrp(0, os.getpid())"


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


@pytest.fixture(params=[*supervisors.KINDS, "named"])
def supervised(
    request: pytest.FixtureRequest, prelude: Program, usernsctl: Program, runtime: Path
) -> Iterator[list[str]]:
    """Yield the argv of the supervisor. Tests append a command."""
    if request.param != "named":
        yield supervisors.words(request.param, prelude.path)
        return
    check_output([usernsctl.path, "ns", "create", "supervised", "-rp"])
    try:
        yield [str(usernsctl.path), "ns", "exec", "supervised", "--"]
    finally:
        check_output([usernsctl.path, "ns", "remove", "supervised"])


class Terminal:
    """A pseudoterminal with both ends open."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        self.mode = termios.tcgetattr(self.theirs)
        self.read = b""

    def hang_up(self) -> None:
        for fd in (self.ours, self.theirs):
            if fd >= 0:
                os.close(fd)
        self.ours = self.theirs = -1

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def lead(self, command: list[str], **streams: int) -> subprocess.Popen[bytes]:
        """Start a command in a new session with this controlling terminal; return its process."""
        return subprocess.Popen(
            ["setsid", "--ctty", *command],
            **{"stdin": self.theirs, "stdout": self.theirs, "stderr": self.theirs} | streams,
        )

    def line(self) -> str:
        """Return the next line from the terminal, which is either output or echoed input."""
        while b"\n" not in self.read:
            self.read += os.read(self.ours, 1000)
        line, self.read = self.read.split(b"\n", 1)
        return line.decode().strip()

    def wait_for(self, wanted: str) -> None:
        while wanted not in self.line():
            continue


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    try:
        yield made
    finally:
        made.hang_up()


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def status_with_alarms(command: list[str | Path]) -> int:
    """Run a command while the kernel sends SIGALRM repeatedly; return its exit status.

    The first signal may arrive before the supervisor can forward it. If so, run the command again
    with a longer delay.
    """
    for seconds in (0.3, 1.5, 5):
        alarm = f"signal.setitimer(signal.ITIMER_REAL, {seconds}, {seconds})"
        alarmed = python(f"import os, signal, sys; {alarm}; os.execv(sys.argv[1], sys.argv[1:])")
        done = subprocess.run([*alarmed, *command], timeout=PATIENCE)
        if done.returncode != -signal.SIGALRM:
            break
    return done.returncode


def test_sigalrm_of_the_supervisor_is_passed_on(supervised: list[str]) -> None:
    """Check that the command receives the SIGALRM that the kernel sends to the supervisor."""
    wait = "signal.signal(signal.SIGALRM, lambda *_: os._exit(142)); signal.pause()"
    command = [*supervised, *python(f"import os, signal; {wait}")]
    assert status_with_alarms(command) == 128 + signal.SIGALRM


def test_sigalrm_ends_a_command_without_a_handler(prelude: Program) -> None:
    command = [prelude.path, "-rf", "--", "sleep", "30"]
    assert status_with_alarms(command) == 128 + signal.SIGALRM


def test_a_hangup_signals_the_leader_and_the_command(
    supervised: list[str], terminal: Terminal
) -> None:
    with ended(terminal.lead([*supervised, *WAITER])) as process:
        assert terminal.line().startswith("ready")
        terminal.hang_up()
        assert process.wait(PATIENCE) == 100 + signal.SIGHUP


@pytest.mark.parametrize("group", ["pass", IN_A_GROUP_OF_ITS_OWN])
def test_a_hangup_leaves_no_supervisor_behind_its_shell(
    supervised: list[str], terminal: Terminal, group: str
) -> None:
    """Hang up the terminal, which kills the supervisor's shell; check that the supervisor exits."""
    script = (
        "import os, signal\n"
        f"{group}\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})\n"
        "print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGHUP})\n"
    )
    words = ["sh", "-c", '"$@"; :', "sh", *supervised, *python(script)]
    with ended(terminal.lead(words)) as shell:
        assert terminal.line() == "ready"
        (supervisor,) = children_of(shell.pid)
        terminal.hang_up()
        assert shell.wait(PATIENCE) == -signal.SIGHUP
    # The orphaned supervisor is reparented to this process, a child subreaper.
    _, status = os.waitpid(supervisor, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def resize(terminal: Terminal) -> None:
    fcntl.ioctl(terminal.ours, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))


@pytest.mark.parametrize("group", ["pass", IN_A_GROUP_OF_ITS_OWN])
@pytest.mark.parametrize(
    ("sig", "send"),
    [
        (signal.SIGINT, lambda terminal: terminal.type(b"\x03")),
        (signal.SIGQUIT, lambda terminal: terminal.type(b"\x1c")),
        (signal.SIGTSTP, lambda terminal: terminal.type(b"\x1a")),
        (signal.SIGWINCH, resize),
    ],
)
@pytest.mark.sampled
def test_signals_of_the_terminal_arrive_once(
    supervised: list[str],
    terminal: Terminal,
    group: str,
    sig: signal.Signals,
    send: Callable[[Terminal], None],
) -> None:
    """Check that a command gets each signal of the terminal once, whatever its process group."""
    told, output = os.pipe()
    command = [*supervised, *python(TELLER % group)]
    with ended(terminal.lead(command, stdout=output)) as process, open(told) as lines:
        os.close(output)
        read_ready(lines)
        send(terminal)
        assert lines.readline() == f"{int(sig)}\n"
        # Check that the command gets the signal from the terminal only: a copy that the supervisor
        # forwards would arrive before SIGUSR1.
        process.send_signal(signal.SIGUSR1)
        assert lines.read() == "end\n"
        assert process.wait(PATIENCE) == 0


IGNORING = ["sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh"]


def test_a_command_ignores_the_signals_that_its_caller_ignores(supervised: list[str]) -> None:
    """Check that nohup(1), and a background job of a script, work with a supervised command."""
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done"
    command = [*IGNORING, *supervised, "sh", "-c", script]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            process.send_signal(ignored)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 7


@pytest.mark.parametrize("sig", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_an_ignored_signal_does_not_end_a_runsc_that_has_not_started(sig: signal.Signals) -> None:
    """Check that the watcher kills a starting runsc only at signals that would kill the command."""
    fails = ["env", "false"]
    runsc = ["env", "sh", "-c", "echo ready; read line; exit 7"]
    words = [str(supervisors.WATCHER), "/usr/bin/env", *supervisors.LOGS]
    command = [*IGNORING, *words, "--", *fails, "--", "--", *runsc]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ended(subprocess.Popen(command, **streams)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(sig)
        process.communicate(b"go\n", timeout=PATIENCE)
        assert process.returncode == 7


# A shell with job control: runs a job in the foreground, and prints when the job stops or exits. A
# line of input continues the job.
JOB_CONTROL = """
import os, signal, sys
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    os.tcsetpgrp(0, os.getpid())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})
    os.execv(sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
while True:
    _, status = os.waitpid(job, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        break
    os.tcsetpgrp(0, os.getpid())
    print("stopped", flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, job)
    os.killpg(job, signal.SIGCONT)
print("ended", os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.mark.parametrize("begin", ["pass", TAKES_THE_FOREGROUND], ids=["same group", "own group"])
def test_terminal_keys_stop_and_end_a_command_without_handlers(
    supervised: list[str], terminal: Terminal, begin: str
) -> None:
    if "-rp" in supervised:
        pytest.skip("process 1 gets no signal that it does not handle")
    shell = (
        "import os, signal, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})\n"
        f"{begin}\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        # Use os.write(), since SIGCONT may arrive twice: print() in the handler would fail if it
        # interrupted another print().
        "signal.signal(signal.SIGCONT, lambda *_: os.write(1, b'goes on\\n'))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(99)\n"
    )
    with ended(terminal.lead([*python(JOB_CONTROL), *supervised, *python(shell)])) as process:
        terminal.wait_for("ready")
        terminal.type(b"\x1a")
        terminal.wait_for("stopped")
        terminal.type(b"\n")
        terminal.wait_for("goes on")
        if begin == "pass":
            terminal.type(b"\x03")
            terminal.wait_for(f"ended {128 + signal.SIGINT}")
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("begin", ["pass", TAKES_THE_FOREGROUND])
@pytest.mark.parametrize(
    ("finish", "status"), [("os.kill(os.getpid(), 9)", 137), ("os._exit(3)", 3)]
)
@pytest.mark.sampled
def test_the_mode_of_the_terminal_is_restored(
    supervised: list[str], terminal: Terminal, begin: str, finish: str, status: int
) -> None:
    if "-rp" in supervised and status == 137:
        pytest.skip("the first process of a PID namespace can't kill itself")
    with ended(terminal.lead([*supervised, *python(RAW % (begin, finish))])) as process:
        assert process.wait(PATIENCE) == status
    assert b"ready" in os.read(terminal.ours, 1000)
    assert termios.tcgetattr(terminal.theirs) == terminal.mode


def test_the_mode_of_the_terminal_is_restored_after_sigkill(
    supervised: list[str], terminal: Terminal
) -> None:
    with ended(terminal.lead([*supervised, *python(RAW % ("pass", "time.sleep(99)"))])) as process:
        terminal.wait_for("ready")
        assert termios.tcgetattr(terminal.theirs) != terminal.mode
        os.kill(supervisors.payload_of(process.pid), signal.SIGKILL)
        assert process.wait(PATIENCE) == 137
    assert termios.tcgetattr(terminal.theirs) == terminal.mode


def test_the_foreground_is_taken_back_from_a_dead_group(
    supervised: list[str], terminal: Terminal
) -> None:
    raw = python(RAW % (TAKES_THE_FOREGROUND, "time.sleep(99)"))
    shell = ["sh", "-c", '"$@"; read word; echo "got $word"', "sh", *supervised, *raw]
    with ended(terminal.lead(shell)) as process:
        terminal.wait_for("ready")
        os.kill(supervisors.payload_of(process.pid), signal.SIGKILL)
        # The shell reads the line only if its process group is in the foreground and the terminal
        # is in cooked mode.
        wait_until(lambda: termios.tcgetattr(terminal.theirs) == terminal.mode)
        terminal.type(b"hello\n")
        terminal.wait_for("got hello")
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "shell",
    ['"$@" | cat', 'set -m; "$@" & wait $!', '"$@" </dev/tty >/dev/null'],
    ids=["pipe", "background", "elsewhere"],
)
@pytest.mark.sampled
def test_the_mode_of_a_shared_terminal_is_kept(
    supervised: list[str], terminal: Terminal, shell: str
) -> None:
    """Check that a supervisor does not reset a terminal mode that another process may have set.

    Other processes use the terminal as well: a later command of the pipeline, or a shell that runs
    the supervisor in the background.
    """
    raw = python(RAW % ("pass", "os._exit(0)"))
    with ended(terminal.lead(["sh", "-c", shell, "sh", *supervised, *raw])) as process:
        assert process.wait(PATIENCE) == 0
    assert b"ready" in os.read(terminal.ours, 1000)
    assert termios.tcgetattr(terminal.theirs) != terminal.mode


def test_signals_after_the_end_are_ignored(supervised: list[str]) -> None:
    command = [*supervised, *WAITER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            read_ready(process.stdout)
            (child,) = children_of(process.pid)
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: status_of(process.pid)["State"].startswith("T"))
            os.kill(supervisors.payload_of(process.pid), signal.SIGUSR1)
            wait_until(lambda: status_of(child)["State"].startswith("Z"))
            for late in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
                process.send_signal(late)
            assert process.wait(PATIENCE) == 100 + signal.SIGUSR1
        finally:
            process.kill()


@pytest.fixture(params=supervisors.KINDS)
def as_first(request: pytest.FixtureRequest, prelude: Program) -> list[str]:
    """Return the argv of a supervisor that runs as PID 1 of a new PID namespace."""
    supervised = supervisors.words(request.param, prelude.path)
    return [str(prelude.path), "-rp", "--mount-proc", "--", *supervised]


def test_process_1_waits_for_orphans(as_first: list[str]) -> None:
    if as_first.count("-rp") + as_first.count("--init") == 2:
        pytest.skip("the command is in a namespace of its own")
    assert check_output([*as_first, "sh", "-c", ORPHAN], timeout=PATIENCE) == "gone\n"


def test_process_1_leaves_a_stopped_child_stopped(as_first: list[str]) -> None:
    command = [*as_first, *WAITER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            read_ready(process.stdout)
            (first,) = children_of(process.pid)
            payload = supervisors.payload_of(first)
            os.kill(payload, signal.SIGSTOP)
            wait_until(lambda: status_of(payload)["State"].startswith("T"))
            # SIGWINCH has a greater number than SIGCHLD, so the supervisor handles the stop before
            # it forwards SIGWINCH.
            os.kill(first, signal.SIGWINCH)
            bit = 1 << (signal.SIGWINCH - 1)
            wait_until(lambda: bool(int(status_of(payload)["ShdPnd"], 16) & bit))
            assert status_of(payload)["State"].startswith("T")
            os.kill(first, signal.SIGCONT)
            assert process.wait(PATIENCE) == 100 + signal.SIGWINCH
        finally:
            process.kill()


# Script that mounts a FIFO over /dev/null. To forward a signal, the watcher runs a command, which
# would block if its standard error were /dev/null.
ANOTHER_NULL = """
mkfifo fifo
mount --bind fifo /dev/null
exec "$0" /usr/bin/env "$1" "$1" "$2" "$1" -- \\
    env sh -c 'echo told >&2; kill -"$0" "$(cat pid)"' -- -- \\
    env sh -c 'echo $$ >pid; echo ready; exec sleep 1000'
"""


def test_a_signal_is_passed_on_where_dev_null_is_a_fifo(tmp_path: Path) -> None:
    """Check that a signal is forwarded even if /dev/null is a FIFO, on which open(2) blocks."""
    none, ended_log = supervisors.LOGS[0], supervisors.LOGS[2]
    words = ["sh", "-c", ANOTHER_NULL, supervisors.WATCHER, none, ended_log]
    with un.Popen(words, mount=True, cwd=tmp_path, stdout=un.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM
        finally:
            process.kill()
