"""Tests of usernsctl run --result FILE, which records how and why a command has exited."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from frozen import freeze
from processes import capture, causes_in, children_of
from supervisors import LOGS, WATCHER

PATIENCE = 60
MIB = 1 << 20
MEMBERS = {
    *("status", "signal", "reason", "limit", "used", "rusage", "peak_memory"),
    *("denied", "stdout_truncated", "stderr_truncated"),
}
NOTHING = {
    "signal": None,
    "limit": None,
    "used": None,
    "peak_memory": None,
    "stdout_truncated": 0,
    "denied": 0,
    "stderr_truncated": 0,
}


def read(path: Path) -> dict[str, Any]:
    """Return the result in a file, which must be the only file in its directory."""
    assert os.listdir(path.parent) == [path.name]
    text = path.read_text()
    assert text.count("\n") == 1
    result: dict[str, Any] = json.loads(text)
    assert set(result) == MEMBERS
    return result


@pytest.fixture
def result(tmp_path: Path) -> Path:
    directory = tmp_path / "results"
    directory.mkdir()
    return directory / "result.json"


@pytest.mark.parametrize(
    ("script", "status", "killer", "reason"),
    [
        ("true", 0, None, "exited"),
        ("exit 7", 7, None, "exited"),
        ("exit 125", 125, None, "exited"),
        # Sleep, so that runsc already waits when the sandbox exits. Otherwise runsc would report
        # the status 143 as a termination by SIGTERM.
        ("sleep 1; exit 143", 143, None, "exited"),
        ("kill -TERM $$", 143, 15, "signalled"),
        ("kill -KILL $$", 137, 9, "signalled"),
    ],
)
def test_result_has_status_signal_and_reason(
    usernsctl: Program, result: Path, script: str, status: int, killer: int | None, reason: str
) -> None:
    done = usernsctl("run", "--result", result, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    found = read(result)
    usage = found.pop("rusage")
    assert found == NOTHING | {"status": status, "signal": killer, "reason": reason}
    assert 0 < usage["utime"] + usage["stime"] < PATIENCE
    assert usage["maxrss"] > 1000
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(result.stat().st_mode) == 0o666 & ~umask


def test_result_names_the_exceeded_limit(usernsctl: Program, result: Path) -> None:
    done = usernsctl("run", "--result", result, "--timeout", "1.5", "--", "sleep", "1000")
    assert done.returncode == 124
    found = read(result)
    assert (found["status"], found["reason"], found["limit"]) == (124, "timeout", 1.5)
    assert 1.5 <= found["used"] < PATIENCE
    hog = "head -c 400M /dev/zero | tail -c 400M | sleep 60"
    done = usernsctl("run", "--result", result, "--memory", "120M", "--", "sh", "-c", hog)
    assert done.returncode == 137
    found = read(result)
    assert (found["reason"], found["signal"]) == ("memory-limit", signal.SIGKILL)
    assert found["limit"] == 120 * MIB <= found["used"] <= found["peak_memory"] < 400 * MIB


def test_result_has_the_peak_memory(usernsctl: Program, result: Path) -> None:
    usernsctl("run", "--result", result, "--memory", "300M", "--", "sleep", "1")
    found = read(result)
    assert (found["reason"], found["limit"]) == ("exited", None)
    assert 5 * MIB < found["peak_memory"] < 300 * MIB


def test_failed_start_writes_a_result(usernsctl: Program, result: Path) -> None:
    for words, status in (
        (["--", "no-such-command"], 127),
        (["--runsc", "/bin/false", "--", "true"], 125),
        (["--bind", "/no/such/file", "--", "true"], 125),
    ):
        done = usernsctl("run", "--result", result, *words)
        assert done.returncode == status
        expected = {"status": status, "reason": "start-failed", "rusage": None}
        assert read(result) == NOTHING | expected
        result.unlink()


def test_failed_runsc_writes_a_result(usernsctl: Program, result: Path, stand_in: Any) -> None:
    stand_in('case "$*" in *--version*) exec "$runsc" "$@";; esac; exit 1')
    done = usernsctl("run", "--result", result, "--", "true", env={**os.environ})
    assert done.returncode == 125, done.stderr
    assert read(result)["reason"] == "start-failed"


def sentry_of(pid: int) -> int:
    """Return the pid of the sandbox process, the child of the runsc that the watcher runs."""
    (runsc,) = children_of(pid)
    for child in children_of(runsc):
        if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"runsc-sandbox"):
            return child
    raise AssertionError(children_of(runsc))


@pytest.fixture
def started(usernsctl: Program, result: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command whose shell handles no signals; wait for its output; yield the process."""
    script = "echo started; sleep 1000"
    with subprocess.Popen(
        [usernsctl.path, "run", "--result", result, "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert not os.listdir(result.parent)
        yield process
        process.kill()


def test_killed_sandbox_writes_a_result(started: subprocess.Popen[str], result: Path) -> None:
    os.kill(sentry_of(started.pid), signal.SIGKILL)
    assert started.wait(PATIENCE) == 125
    found = read(result)
    assert (found["status"], found["reason"]) == (125, "sandbox-ended")


def test_result_counts_processor_time_of_all_processes(usernsctl: Program, result: Path) -> None:
    """Check that the CPU time includes gVisor's processes, although runsc does not reap them."""
    work = ["python3", "-c", "import os\nfor i in range(2 * 10**7): pass\nprint(os.times().user)"]
    least = float(capture(work, timeout=PATIENCE).stdout)
    usernsctl("run", "--result", result, "--", *work, timeout=PATIENCE)
    # The CPU time of the same loop differs between runs, because it depends on the load of the
    # host.
    assert read(result)["rusage"]["utime"] > least / 2


def test_crash_of_gvisor_writes_a_result(result: Path, tmp_path: Path) -> None:
    """Check the result after a crash of gVisor: the status in runsc's log is not the command's.

    The crash is simulated by a crash report.
    """
    crash = tmp_path / "crash"
    crash.write_text("panic: subprocess has too many active tasks (4095)\n")
    fds = [os.open(result.parent, os.O_RDONLY), os.open(f"{result}.new", os.O_CREAT | os.O_WRONLY)]
    words = [WATCHER, f"--result={fds[0]},{fds[1]},{result.name}.new,{result.name}"]
    words += ["/bin/sh", "/none", crash, *LOGS[2:], "--", "--", "--", "sh", "-c", "exit 2"]
    with subprocess.Popen(words, pass_fds=fds, stderr=subprocess.DEVNULL) as process:
        assert process.wait(PATIENCE) == 125
    for fd in fds:
        os.close(fd)
    found = read(result)
    assert (found["status"], found["reason"]) == (125, "sandbox-ended")


def test_result_that_can_not_be_written_leaves_no_file(result: Path) -> None:
    # Simulate a full filesystem without O_TMPFILE, on which the temporary file has a name.
    temporary = result.with_suffix(".new")
    temporary.touch()
    fds = [os.open(result.parent, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)]
    words = [WATCHER, f"--result={fds[0]},{fds[1]},{temporary.name},{result.name}"]
    words += ["/bin/sh", *LOGS, "--", "--", "--", "sh", "-c", "exit 0"]
    done = subprocess.run(words, pass_fds=fds, stderr=subprocess.PIPE, text=True)
    for fd in fds:
        os.close(fd)
    assert done.returncode == 125
    message, *rest = done.stderr.splitlines()
    assert message == f"usernsctl: result: {result}: No space left on device"
    assert causes_in("\n".join(rest)) == ["disk-full"]
    assert os.listdir(result.parent) == []


def test_killed_watcher_leaves_no_file(started: subprocess.Popen[str], result: Path) -> None:
    started.kill()
    started.wait(PATIENCE)
    time.sleep(0.1)
    assert os.listdir(result.parent) == []


def test_result_of_an_earlier_run_is_removed_at_the_start(usernsctl: Program, result: Path) -> None:
    result.write_text("old")
    script = "echo started; read line; exit 3"
    with subprocess.Popen(
        [usernsctl.path, "run", "--result", result.name, "--", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=result.parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert os.listdir(result.parent) == []
        process.communicate("\n", PATIENCE)
    assert read(result)["status"] == 3


def test_invalid_result_path_is_refused_before_the_start(
    usernsctl: Program, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    link = tmp_path / "link"
    link.symlink_to("/etc/passwd")
    before = sorted(os.listdir(tmp_path))
    for path, why in (
        (tmp_path / "missing" / "result", "No such file or directory"),
        (tmp_path, "exists, and is no regular file"),
        (f"{tmp_path}/", "Is a directory"),
        ("/proc/self/result", "No such file or directory"),
        (fifo, "exists, and is no regular file"),
        (link, "exists, and is no regular file"),
        ("/dev/null", "exists, and is no regular file"),
    ):
        done = usernsctl(
            *("run", "--bind", f"{marker}:{marker}:rw", "--result", path),
            *("--", "touch", f"{marker}/ran"),
        )
        assert done.returncode == 125, (path, done.stderr)
        first, *rest = done.stderr.splitlines()
        assert first.startswith(f"usernsctl: result: {path}: "), done.stderr
        assert why in first or path == "/proc/self/result"
        assert rest[-1].startswith("  remedy: name a file in a directory")
        assert os.listdir(marker) == []
        assert sorted(os.listdir(tmp_path)) == before


def test_result_beside_a_writable_bind_mount_is_written(
    usernsctl: Program, result: Path, tmp_path: Path
) -> None:
    shown = result.parent / "shown"
    shown.mkdir()
    options = [f"--bind={shown}:/shown:rw", f"--result={result}"]
    done = usernsctl("run", *options, "--", "touch", "/shown/x")
    assert (done.returncode, done.stderr) == (0, "")
    assert (shown / "x").exists()
    assert json.loads(result.read_text())["status"] == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_result_file_does_not_replace_a_closed_stream(
    usernsctl: Program, result: Path, closed: str
) -> None:
    """Check that no descriptor of the result becomes a standard stream of the command."""
    command = ["--", "sh", "-c", "cat && echo output && echo error >&2"]
    run = shlex.join([str(usernsctl.path), "run", "--result", str(result), *command])
    done = capture(["sh", "-c", f"{run} {closed}"])
    assert json.loads(result.read_text())["status"] == done.returncode == 0, done.stderr


def test_result_in_a_writable_bind_mount_is_refused(usernsctl: Program, result: Path) -> None:
    result.write_text("old")
    for shown in (result.parent, result.parent.parent):
        done = usernsctl(
            *("run", "--bind", f"{shown}:/shown:rw", "--result", result, "--", "touch", "/shown/x")
        )
        assert done.returncode == 125
        assert f"the sandbox could write there, since {shown} is bind-mounted with :rw" in (
            done.stderr
        )
        assert read(result)["reason"] == "start-failed"
    usernsctl.check_output("run", "--bind", result.parent, "--result", result, "--", "true")
    assert read(result)["reason"] == "exited"


def test_command_does_not_inherit_the_result_file(usernsctl: Program, result: Path) -> None:
    done = usernsctl("run", "--result", result, "--", "ls", "/proc/self/fd")
    assert done.stdout.split() == ["0", "1", "2", "3"]
    read(result)


def test_result_file_may_have_special_characters(usernsctl: Program, result: Path) -> None:
    for name in ("a,b,c", "-", " ", "\n", "é", os.fsdecode(b"\xff"), "n" * 255):
        path = result.with_name(name)
        done = usernsctl("run", "--result", path, "--", "true")
        assert (done.returncode, done.stderr) == (0, ""), name
        assert read(path)["reason"] == "exited"
        path.unlink()


def test_result_is_written_from_a_named_namespace(usernsctl: Program, runtime: Path) -> None:
    path = runtime / "results"
    path.mkdir()
    made = capture([usernsctl.path, "ns", "create", "kept-for-results"])
    assert made.returncode == 0, made.stderr
    try:
        usernsctl.check_output(
            *("run", "--in", "kept-for-results", "--result", path / "file", "--", "true")
        )
        assert read(path / "file")["status"] == 0
    finally:
        capture([usernsctl.path, "ns", "remove", "kept-for-results"])


def test_result_has_the_reraised_signal(usernsctl: Program, result: Path) -> None:
    done = usernsctl(
        "run", "--reraise-signal", "--result", result, "--", "sh", "-c", "kill -TERM $$"
    )
    assert done.returncode == -signal.SIGTERM
    found = read(result)
    assert (found["status"], found["signal"]) == (143, signal.SIGTERM)


def test_freeze_refuses_options_of_one_run(usernsctl: Program, tmp_path: Path) -> None:
    assert freeze(tmp_path / "launch")
    for option in ("--result", "--max-output", "--on-overflow"):
        done = usernsctl("freeze", "-o", tmp_path / "other", option, "1", "--", "true")
        assert done.returncode == 125
        assert f"there is no option '{option}'" in done.stderr, done.stderr


def run_after(usernsctl: Program, script: str, *words: str | Path) -> subprocess.Popen[str]:
    """Start a shell that runs a script and then executes `usernsctl run`; return the process."""
    return subprocess.Popen(
        ["sh", "-c", f'{script}; exec "$@"', "sh", usernsctl.path, "run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_result_ignores_earlier_children_of_the_process(usernsctl: Program, result: Path) -> None:
    script = "sleep 1000 >/dev/null & echo $!"
    words = ["--result", result, "--timeout", "1", "--", "sleep", "1000"]
    with run_after(usernsctl, script, *words) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        try:
            assert process.wait(PATIENCE) == 124
        finally:
            os.kill(pid, signal.SIGKILL)
    assert read(result)["reason"] == "timeout"


@pytest.mark.thorough
def test_result_ignores_earlier_processor_time(usernsctl: Program, result: Path) -> None:
    code = 'import time\nheld = b"x" * (1 << 28)\nwhile time.process_time() < 4: pass'
    work = f"python3 -c '{code}'"
    with run_after(usernsctl, work, "--result", result, "--", "true") as process:
        assert process.wait(PATIENCE) == 0
    usage = read(result)["rusage"]
    assert 0 < usage["utime"] + usage["stime"] < 3
    assert usage["maxrss"] is None
