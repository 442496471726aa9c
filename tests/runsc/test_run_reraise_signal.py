"""Tests of --reraise-signal, with which usernsctl kills itself with the command's fatal signal."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Program
from frozen import freeze
from processes import capture

PATIENCE = 30

MakeCommand = Callable[..., list[str]]


@pytest.fixture(scope="module", params=["run", "launch", "frozen"])
def make_command(
    request: pytest.FixtureRequest,
    usernsctl: Program,
    prelude: Program,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeCommand:
    """Return a function that returns the argv for a shell script with --reraise-signal."""
    file = tmp_path_factory.mktemp("words") / "launch"
    if request.param == "run":
        before = [str(usernsctl.path), "run", "--reraise-signal"]
    elif request.param == "launch":
        freeze(file)
        before = [str(prelude.path), "--reraise-signal", "--launch", str(file)]
    else:
        freeze(file, "--reraise-signal")
        before = [str(prelude.path), "--launch", str(file)]
    return lambda script: [*before, "--", "sh", "-c", script]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return capture(command, timeout=PATIENCE)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGPIPE, signal.SIGSEGV, 34]
)
@pytest.mark.sampled(5)
def test_signal_that_kills_the_command_is_reraised(make_command: MakeCommand, number: int) -> None:
    done = run(make_command(f"kill -{int(number)} $$"))
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")


@pytest.mark.sampled(1)
def test_exit_status_143_is_not_reraised_as_a_signal(make_command: MakeCommand) -> None:
    """Check that a command's exit status above 128, such as a JVM's 143 after SIGTERM, is kept.

    runsc distinguishes this status from a death by signal only if runsc already waits when the
    sandbox exits.
    """
    statuses = [0, 7, 125, 127, 143, 137, 255]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    make_command(f"echo; read line; exit {status}"), stdin=-1, stdout=-1
                )
            )
            for status in statuses
        ]
        for process in started:
            assert process.stdout.readline() == b"\n"
        time.sleep(3)
        for process in started:
            process.communicate(timeout=PATIENCE)
        assert [process.returncode for process in started] == statuses


def test_without_the_option_a_signal_becomes_an_exit_status(usernsctl: Program) -> None:
    assert usernsctl("run", "--", "sh", "-c", "kill -TERM $$").returncode == 143


@pytest.mark.sampled(2)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_forwarded_signal_is_reraised(make_command: MakeCommand, number: int) -> None:
    with subprocess.Popen(
        make_command("echo ready; exec sleep 1000"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number


def test_handled_signal_is_not_reraised(make_command: MakeCommand) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        make_command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(PATIENCE) == 9


def test_signal_during_the_start_is_reraised(make_command: MakeCommand) -> None:
    number, chance = signal.SIGTERM, random.Random(0)
    command = make_command("exec sleep 1000")
    for _ in range(5):
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1) as process:
            try:
                process.wait(chance.uniform(0.05, 0.3))
            except subprocess.TimeoutExpired:
                process.send_signal(number)
            assert process.wait(PATIENCE) == -number


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_ignored_or_blocked_signal_is_reraised(make_command: MakeCommand, how: str) -> None:
    def prepare() -> None:
        if how == "ignored":
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        else:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    command = make_command("kill -USR1 $$")
    done = subprocess.run(command, preexec_fn=prepare, timeout=PATIENCE)
    assert done.returncode == -signal.SIGUSR1


def test_reraised_signal_dumps_no_core(make_command: MakeCommand, tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -c unlimited; exec "$@"', "sh", *make_command("kill -SEGV $$")]
    before = set(tmp_path.iterdir())
    process = subprocess.Popen(command, cwd=tmp_path)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGSEGV, False)
    assert set(tmp_path.iterdir()) == before


def test_process_1_exits_with_the_status_instead(
    make_command: MakeCommand, prelude: Program
) -> None:
    """Check that usernsctl as PID 1 exits with the status 128+N if signal N killed the command.

    PID 1 can't kill itself with a signal (pid_namespaces(7)).
    """
    command = [str(prelude.path), "-rp", "--mount-proc", "--", *make_command("kill -TERM $$")]
    assert run(command).returncode == 143


def test_missing_command_exits_with_127(make_command: MakeCommand) -> None:
    command = make_command("")
    done = run([*command[: command.index("--")], "--", "no-such-command"])
    assert done.returncode == 127


@pytest.fixture
def pid_namespace_name(usernsctl: Program, runtime: Path) -> Iterator[str]:
    assert usernsctl("ns", "create", "box", "-rp").returncode == 0
    yield "box"
    usernsctl("ns", "remove", "box")


# In the second case, sleep first: otherwise, the sandbox may exit before runsc waits for it
# (test_exit_status_143_is_not_reraised_as_a_signal).
@pytest.mark.parametrize(("script", "status"), [("kill -TERM $$", -15), ("sleep 1; exit 143", 143)])
def test_signal_in_a_pid_namespace_is_reraised_outside(
    usernsctl: Program, pid_namespace_name: str, script: str, status: int
) -> None:
    done = usernsctl(
        "run", "--reraise-signal", "--in", pid_namespace_name, "--", "sh", "-c", script
    )
    assert done.returncode == status
