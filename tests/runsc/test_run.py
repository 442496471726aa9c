"""Tests of `usernsctl run`: a command in gVisor, its standard streams and its signals."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import gvisor
import pytest
from conftest import Program
from processes import capture, children_of, status_of, wait_until
from supervisors import TELLER


@contextmanager
def start_run(usernsctl: Program, *args: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Start a run in a new process group; yield process and output; then kill the group.

    The ``with`` block begins when the command has started.
    """
    with subprocess.Popen(
        [usernsctl.path, "run", *args, "--", "sh", "-c", "echo ready; exec sleep 1000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process, process.stdout
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def runsc_of(pid: int) -> int:
    """Return the pid of runsc, the only child of `usernsctl run`."""
    (runsc,) = children_of(pid)
    return runsc


def command_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@pytest.mark.each_user
def test_command_sees_the_kernel_of_gvisor(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "cat", "/proc/version")
    assert done.returncode == 0, done.stderr
    assert gvisor.is_version(done.stdout)
    assert done.stderr == ""


@pytest.mark.each_user
@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -TERM $$", 143)])
def test_exit_status_is_that_of_the_command(usernsctl: Program, script: str, status: int) -> None:
    assert usernsctl("run", "--", "sh", "-c", script).returncode == status


def test_command_uses_the_standard_streams_of_the_caller(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "sh", "-c", "cat; echo oops >&2", input="hi\n")
    assert (done.stdout, done.stderr) == ("hi\n", "oops\n")


def test_arguments_arrive_unparsed(usernsctl: Program) -> None:
    words = ["--env", "a b", "", "$HOME", "--", "é", 'q"uo\\te', "two\nlines"]
    done = usernsctl("run", "--", "printf", "%s|", *words)
    assert done.stdout == "".join(f"{word}|" for word in words)


def test_output_is_appended_to_a_file(usernsctl: Program, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        file.write("before\n")
        file.flush()
        subprocess.run(
            [usernsctl.path, "run", "--", "sh", "-c", "echo out; echo err >&2"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=True,
        )
    assert log.read_text() == "before\nout\nerr\n"


def test_sigterm_ends_the_command(usernsctl: Program) -> None:
    with start_run(usernsctl) as (process, output):
        below = children_of(process.pid)
        process.terminate()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
        # Each process inherits the pipe, so end of file shows that all of them have exited.
        assert output.read() == ""
        assert below


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_signal_before_the_start_ends_the_run(usernsctl: Program, number: signal.Signals) -> None:
    """Send a signal before the command starts; check that the run ends even if runsc ignores it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        # usernsctl-watch inherits the blocked signal, and reads the pending signal from its
        # signalfd.
        process = subprocess.Popen(
            [usernsctl.path, "run", "--", "sleep", "100"],
            stdin=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number


def test_command_can_handle_sigterm(usernsctl: Program) -> None:
    script = 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.1; done'
    with subprocess.Popen(
        [usernsctl.path, "run", "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(timeout=30) == 9
        assert process.stdout.read() == "caught\n"


def wait_until_stopped(pid: int) -> None:
    wait_until(lambda: status_of(pid)["State"].startswith("T"), 30)


@pytest.mark.parametrize("has_terminal", [False, True], ids=["pipes", "terminal"])
def test_all_signals_reach_the_command(usernsctl: Program, has_terminal: bool) -> None:
    """Check real-time signals (`runsc kill` can't send them) and stop signals (they stop runsc)."""
    sent = [signal.SIGCONT, signal.SIGINT, signal.SIGTERM, signal.SIGRTMIN, signal.SIGRTMAX, 35]
    stops = [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]
    ours, theirs = os.openpty() if has_terminal else os.pipe()
    if has_terminal:
        tty.setraw(theirs)
    with (
        subprocess.Popen(
            [usernsctl.path, "run", "--", "/usr/bin/python3", "-c", TELLER],
            stdin=theirs if has_terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            # SIGTSTP, SIGTTIN and SIGTTOU don't stop an orphaned process group. So start a group
            # whose leader has a parent in another group of the same session.
            process_group=0,
        ) as process,
        open(ours, "rb") as lines,
    ):
        os.close(theirs)
        try:
            assert lines.readline().strip() == b"ready"
            for number in sent:
                process.send_signal(number)
                assert int(lines.readline()) == number
            for number in stops:
                process.send_signal(number)
                assert int(lines.readline()) == number
                if not has_terminal:
                    # Wait for the job to stop: without a terminal in the sandbox, a stop signal
                    # also stops the job on the host.
                    wait_until_stopped(process.pid)
                process.send_signal(signal.SIGCONT)
                assert int(lines.readline()) == signal.SIGCONT
            process.send_signal(signal.SIGUSR1)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def test_real_time_signal_before_the_start_is_ignored(usernsctl: Program) -> None:
    """Check that a real-time signal before runsc's start is ignored, as by a container's PID 1."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    try:
        process = subprocess.Popen(
            [usernsctl.path, "run", "--", "echo", "ran"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with process:
        process.send_signal(signal.SIGRTMIN)
        output, _ = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, "ran\n")


def test_death_of_the_watcher_ends_the_sandbox(usernsctl: Program) -> None:
    with start_run(usernsctl) as (process, output):
        runsc = runsc_of(process.pid)
        pids = [runsc, *children_of(runsc)]
        process.kill()
        assert process.wait(timeout=20) == -signal.SIGKILL
        # Each process inherits the pipe, so end of file shows that all of them have exited.
        assert output.read() == ""
        assert len(pids) == 3


@pytest.mark.each_user
def test_denied_kvm_is_explained(usernsctl: Program) -> None:
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("this user may open /dev/kvm")
    done = usernsctl("run", "--platform", "kvm", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "[kvm-denied]" in done.stderr
    assert "remedy:" in done.stderr


def test_only_one_runsc_process_waits(usernsctl: Program) -> None:
    with start_run(usernsctl) as (process, _):
        assert os.path.basename(command_of(process.pid)[0]) == "usernsctl-watch"
        runsc = runsc_of(process.pid)
        assert os.path.basename(command_of(runsc)[0]) == "runsc"
        below = children_of(runsc)
        names = sorted(command_of(pid)[0] for pid in below)
        assert names == ["runsc-gofer", "runsc-sandbox"]


@pytest.mark.each_user
def test_processes_map_only_the_caller_to_root(usernsctl: Program) -> None:
    with start_run(usernsctl) as (process, _):
        runsc = runsc_of(process.pid)
        for pid in (process.pid, runsc, *children_of(runsc)):
            for file, outside in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
                fields = Path(f"/proc/{pid}/{file}").read_text().split()
                assert fields == ["0", str(outside), "1"]


@pytest.mark.each_user
def test_runsc_keeps_only_needed_capabilities(usernsctl: Program) -> None:
    with start_run(usernsctl) as (process, _):
        runsc = runsc_of(process.pid)
        status = status_of(runsc)
        # The bit mask of CAP_SETGID, CAP_SETUID, CAP_SYS_CHROOT, CAP_SYS_ADMIN and CAP_SETFCAP
        # (linux/capability.h).
        needed = sum(1 << number for number in (6, 7, 18, 21, 31))
        assert int(status["CapBnd"], 16) == needed
        assert {status_of(pid)["NoNewPrivs"] for pid in children_of(runsc)} == {"1"}


@pytest.mark.each_user
def test_keep_bounding_and_new_privs_disable_hardening(usernsctl: Program) -> None:
    own = status_of(os.getpid())
    with start_run(usernsctl, "--keep-bounding", "--new-privs") as (process, _):
        status = status_of(runsc_of(process.pid))
        assert (status["NoNewPrivs"], status["CapBnd"]) == (own["NoNewPrivs"], "000001ffffffffff")


def test_signals_reach_a_command_on_a_terminal(usernsctl: Program) -> None:
    ours, theirs = os.openpty()
    script = (
        'trap "echo passed on" WINCH; trap "echo caught; exit 9" TERM; test -t 1 && echo ready; '
        "while :; do sleep 0.1; done"
    )
    with subprocess.Popen(
        [usernsctl.path, "run", "--", "sh", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        with open(ours, "rb", buffering=0) as terminal:
            seen = b""
            while b"passed on" not in seen:
                # runsc begins to forward signals only shortly after the command's start, so repeat
                # the signal.
                if b"ready" in seen and not select.select([terminal], [], [], 0.05)[0]:
                    process.send_signal(signal.SIGWINCH)
                    continue
                seen += terminal.read(1000)
            process.terminate()
            assert process.wait(timeout=30) == 9


@pytest.mark.parametrize(
    ("sig", "status"),
    [(None, 7), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, 125)],
)
def test_mode_of_the_terminal_is_restored(
    usernsctl: Program, sig: signal.Signals | None, status: int
) -> None:
    """Check that the terminal's mode is restored when the command exits and when runsc is killed.

    If runsc is killed, the command's exit status is unknown.
    """
    ours, theirs = os.openpty()
    before = termios.tcgetattr(theirs)
    script = "stty raw -echo; echo ready; exit 7"
    if sig:
        script = 'stty raw -echo; trap "echo forwarded" WINCH; while :; do sleep 0.1; done'
    with (
        subprocess.Popen(
            ["setsid", "--ctty", usernsctl.path, "run", "--", "sh", "-c", script],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process,
        open(ours, "rb", buffering=0) as terminal,
    ):
        seen = b""
        while (b"forwarded" if sig else b"ready") not in seen:
            # runsc begins to forward signals only shortly after the command's start, so repeat the
            # signal.
            if sig and not select.select([terminal], [], [], 0.05)[0]:
                for runsc in children_of(process.pid):
                    os.kill(runsc, signal.SIGWINCH)
                continue
            seen += terminal.read(1000)
        if sig:
            assert termios.tcgetattr(theirs) != before
            os.kill(runsc_of(process.pid), sig)
        assert process.wait(timeout=30) == status
        assert termios.tcgetattr(theirs) == before
    os.close(theirs)


def test_command_with_a_pipe_as_stdout_has_no_terminal(usernsctl: Program) -> None:
    """Check that `run` creates no terminal if stdout is a pipe: with both, gVisor often hangs.

    Since release 20260316 of runsc, the command's stdin is a terminal if the caller's stdin is a
    terminal.
    """
    for _ in range(5):
        ours, theirs = os.openpty()
        done = capture(
            ["setsid", "--ctty", usernsctl.path, "run", "--", "sh", "-c", "echo ready; test -t 0"],
            stdin=theirs,
        )
        os.close(ours)
        os.close(theirs)
        seen = 0 if gvisor.release().has("terminals") else 1
        assert (done.returncode, done.stdout, done.stderr) == (seen, "ready\n", "")


def test_hangup_of_the_terminal_ends_the_sandbox(usernsctl: Program) -> None:
    ours, theirs = os.openpty()
    output, written = os.pipe()
    with subprocess.Popen(
        ["setsid", "--ctty", usernsctl.path, "run", "--", "sh", "-c", "echo ready; sleep 99"],
        stdin=theirs,
        stdout=written,
        stderr=written,
    ) as process:
        os.close(theirs)
        os.close(written)
        with open(output, "rb") as reader:
            assert reader.readline() == b"ready\n"
            os.close(ours)
            assert process.wait(timeout=30) == 128 + signal.SIGHUP
            assert reader.read() == b""


@pytest.mark.each_user
def test_sigkill_to_the_process_group_leaves_no_file(
    usernsctl: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("TMPDIR", str(runtime))
    temporary = set(os.listdir("/tmp"))
    with start_run(usernsctl) as (process, output):
        arguments = command_of(runsc_of(process.pid))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(timeout=20) == -signal.SIGKILL
        assert output.read() == ""
    assert list(runtime.iterdir()) == []
    assert not [name for name in {*os.listdir("/tmp")} - temporary if "runsc" in name]
    (state,) = (word.partition("=")[2] for word in arguments if word.startswith("--root="))
    assert not os.path.exists(state)
    listed = capture(["runsc", f"--root={tmp_path}/state", "list", "-quiet"])
    assert listed.stdout == ""


@pytest.mark.each_user
def test_root_option_sets_the_state_directory(usernsctl: Program, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with start_run(usernsctl, "--root", str(state)):
        listed = capture(["runsc", f"--root={state}", "list", "-quiet"])
        assert listed.stdout.startswith("usernsctl-")


@pytest.mark.each_user
@pytest.mark.parametrize("network", ["none", "host"])
def test_network_none_or_host_sets_the_devices(usernsctl: Program, network: str) -> None:
    done = usernsctl("run", "--network", network, "--", "cat", "/proc/net/dev")
    inside = {line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]}
    outside = set(os.listdir("/sys/class/net"))
    assert inside == ({"lo"} if network == "none" else outside)
