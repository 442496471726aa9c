"""Tests of usernsctl run --max-output, which limits the size of a command's output."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Program
from processes import capture, children_of, status_of, stop, wait_until_gone
from terminals import on_terminal

PATIENCE = 60
KILL = ("--on-overflow", "kill")


def notice(stream: str, truncated: int, first: int) -> str:
    return (
        f"usernsctl: --max-output dropped {truncated} bytes of standard {stream} "
        f"after the first {first}\n"
    )


def is_running(pid: str) -> bool:
    """Return whether a process is running. Zombies don't count: they have no command line."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.thorough
def test_output_below_the_limit_is_whole(usernsctl: Program) -> None:
    for limit in (3, 4, 5, 100, 1 << 20):
        done = usernsctl("run", "--max-output", str(limit), "--", "sh", "-c", "printf abc")
        assert (done.returncode, done.stdout, done.stderr) == (0, "abc", "")


def test_beginning_and_end_of_the_output_are_kept(usernsctl: Program) -> None:
    whole = "".join(f"{number}\n" for number in range(1, 20001))
    for limit in (1, 2, 11, 4096, 65536, 65537, 100000, len(whole) - 1):
        done = usernsctl(
            "run", "--max-output", str(limit), "--", "sh", "-c", "seq 20000; seq 20000 >&2; exit 3"
        )
        first, last = limit // 2, limit - limit // 2
        kept, lost = whole[:first] + whole[-last:], len(whole) - limit
        assert done.returncode == 3
        assert done.stdout == kept
        assert done.stderr == kept + notice("output", lost, first) + notice("error", lost, first)


def test_result_counts_dropped_bytes(usernsctl: Program, tmp_path: Path) -> None:
    script = "seq 1000; printf ab >&2"
    usernsctl("run", "--max-output", "1k", "--result", tmp_path / "r", "--", "sh", "-c", script)
    found = json.loads((tmp_path / "r").read_text())
    assert (found["stdout_truncated"], found["stderr_truncated"]) == (3893 - 1024, 0)
    assert (found["reason"], found["limit"]) == ("exited", None)


@pytest.mark.parametrize("stream", ["1", "2"])
def test_on_overflow_kill_ends_the_sandbox(usernsctl: Program, tmp_path: Path, stream: str) -> None:
    done = usernsctl(
        *("run", "--max-output", "1000", *KILL, "--result", tmp_path / "r"),
        *("--", "sh", "-c", f"yes >&{stream}"),
    )
    assert done.returncode == 137
    assert "and its limit is 1000" in done.stderr
    found = json.loads((tmp_path / "r").read_text())
    assert (found["reason"], found["limit"], found["status"]) == ("output-limit", 1000, 137)
    assert found["used"] > 1000
    assert len(done.stdout) == (1000 if stream == "1" else 0)


def test_on_overflow_kill_reports_a_short_excess(usernsctl: Program, tmp_path: Path) -> None:
    done = usernsctl(
        *("run", "--max-output", "2", *KILL, "--result", tmp_path / "r"),
        *("--", "printf", "abcd"),
    )
    assert done.returncode == 137
    found = json.loads((tmp_path / "r").read_text())
    assert (found["reason"], found["limit"], found["used"]) == ("output-limit", 2, 4)


def test_truncated_output_uses_bounded_memory(usernsctl: Program) -> None:
    words = ["run", "--max-output", "1M", "--", "sh", "-c", "head -c 30M /dev/zero"]
    with subprocess.Popen(
        [usernsctl.path, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        peaks = []
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            # Ignore a process that exits while its files in /proc are read.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for pid in children_of(process.pid):
                    if b"usernsctl-watch" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        peaks.append(status_of(pid).get("VmHWM", "0 kB"))
            time.sleep(0.05)
        output, _ = process.communicate(timeout=PATIENCE)
    assert len(output) == 1 << 20
    assert peaks
    assert max(int(peak.split()[0]) for peak in peaks) < 4096


def test_closed_stdout_ends_the_command(usernsctl: Program) -> None:
    process = subprocess.Popen(
        [usernsctl.path, "run", "--max-output", "1000", "--", "yes"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    try:
        # `yes` fails with EPIPE (status 1), or is killed by SIGPIPE (status 141).
        assert process.wait(PATIENCE) in (1, 141)
    finally:
        process.kill()
        process.communicate()


def test_slow_reader_gets_all_kept_output(usernsctl: Program) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with subprocess.Popen(
        [usernsctl.path, "run", "--max-output", "200k", "--", "sh", "-c", "yes | head -c 900000"],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writer)
        found = b""
        while data := os.read(reader, 1000):
            found += data
            time.sleep(0.001)
        os.close(reader)
        assert process.wait(PATIENCE) == 0
    assert found == b"y\n" * (100 << 10)


def test_kept_output_is_written_after_a_timeout(usernsctl: Program) -> None:
    done = usernsctl(
        *("run", "--max-output", "10", "--timeout", "2s", "--"),
        *("sh", "-c", "seq 1000; echo error >&2; sleep 1000"),
    )
    assert done.returncode == 124
    assert done.stdout == "1\n2\n31000\n"
    assert done.stderr.startswith("error\n")
    assert notice("output", 3883, 5) in done.stderr


def test_pump_ends_when_the_watcher_is_killed(usernsctl: Program) -> None:
    name = f"for-a-killed-watcher-{os.getpid()}"
    with subprocess.Popen(
        [
            usernsctl.path,
            "run",
            "--max-output",
            "10",
            "--",
            "sh",
            "-c",
            f"echo 1; sleep 99; : {name}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"1\n"
        pids = [str(pid) for pid in children_of(process.pid)]
        assert len(pids) == 2
        process.kill()
    for pid in pids:
        deadline = time.monotonic() + PATIENCE
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_running(pid)
    assert wait_until_gone(name, PATIENCE) == []


def test_a_command_with_limited_output_has_no_terminal(usernsctl: Program) -> None:
    command = [
        usernsctl.path,
        "run",
        "--max-output",
        "1M",
        "--",
        "sh",
        "-c",
        "test -t 1 || echo no",
    ]
    assert on_terminal(command, env=dict(os.environ)) == (0, "no\r\n")


def test_invalid_output_limits_are_refused(usernsctl: Program) -> None:
    for words, message in (
        (["--max-output", "0"], "--max-output: '0' must be more than 0"),
        (["--max-output", "-1"], "--max-output: '-1' is not a number of bytes"),
        (["--max-output", "1e9"], "--max-output: '1e9' is not a number of bytes"),
        (["--max-output", "1.1G"], "'1.1G' is more than 1G, the limit: usernsctl"),
        (["--on-overflow", "kill"], "--on-overflow needs --max-output"),
        (["--max-output", "1", "--on-overflow", "x"], "'x' is not truncate or kill"),
        (["--max-output", "1", "--terminal"], "--max-output and --terminal exclude each other"),
    ):
        done = capture([usernsctl.path, "run", *words, "--", "true"])
        assert done.returncode == 125
        assert message in done.stderr, done.stderr


def test_notices_about_output_are_json(usernsctl: Program) -> None:
    done = usernsctl(
        *("run", "--log", "json", "--reraise-signal", "--max-output", "2", "--", "seq", "5")
    )
    (line,) = done.stderr.splitlines()
    message = json.loads(line)
    assert (message["level"], message["message"]) == (
        "notice",
        "--max-output dropped 8 bytes of standard output after the first 1",
    )


def start_with_stuck_reader(
    command: list[str | Path], stdin: int = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command whose output pipe is never read; return the process and the read end."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    return process, reader


def test_timeout_ends_a_run_with_a_stuck_reader(usernsctl: Program, tmp_path: Path) -> None:
    options = ["--timeout", "3s", "--max-output", "1M", "--result", tmp_path / "r"]
    process, reader = start_with_stuck_reader([usernsctl.path, "run", *options, "--", "yes"])
    try:
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        os.close(reader)
    assert process.returncode == 124, err
    assert json.loads((tmp_path / "r").read_text())["reason"] == "timeout"
    assert os.listdir(tmp_path) == ["r"]


def wait_for_runsc(watcher: int, state: str | None) -> None:
    """Wait until the watcher's runsc is in `state`, or until it is reaped if `state` is None."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = []
        for pid in children_of(watcher):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has been reaped
                found.append(status_of(pid))
        states = [status["State"][0] for status in found if status["Name"] == "runsc"]
        if (states == []) if state is None else (state in states):
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


@pytest.mark.parametrize("is_early", [False, True])
def test_sigint_while_waiting_for_a_reader_keeps_the_result(
    usernsctl: Program, tmp_path: Path, is_early: bool
) -> None:
    """Check that exit status and result survive a SIGINT that arrives after runsc has exited.

    SIGINT arrives before usernsctl reaps runsc (`is_early`) or afterwards.
    """
    # Print more than the capacity of one pipe, but no more than the combined capacity of the pump's
    # and the reader's pipes.
    script = "read line; head -c 100000 /dev/zero; exit 3"
    options = ["--max-output", "1M", "--result", tmp_path / "r"]
    process, reader = start_with_stuck_reader(
        [usernsctl.path, "run", *options, "--", "sh", "-c", script], stdin=subprocess.PIPE
    )
    try:
        wait_for_runsc(process.pid, "S")
        if is_early:
            stop(process.pid, PATIENCE)
        assert process.stdin is not None
        process.stdin.close()
        wait_for_runsc(process.pid, "Z" if is_early else None)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.wait(PATIENCE)
    finally:
        process.kill()
        with process:
            os.close(reader)
    assert process.returncode == 3
    assert json.loads((tmp_path / "r").read_text())["status"] == 3
    assert os.listdir(tmp_path) == ["r"]
