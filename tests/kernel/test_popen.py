"""Tests of usernsctl's run, check_output and Popen, which must behave like those of subprocess."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, assert_type

import pytest
from inside import PATIENCE, WAITER, read_ready

import usernsctl

CAT = ["cat"]
FAIL = ["sh", "-c", "echo out; echo err >&2; exit 3"]


@pytest.fixture(params=[subprocess, usernsctl], ids=["subprocess", "usernsctl"])
def api(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_output_is_captured(api: Any) -> None:
    done = api.run(FAIL, capture_output=True, text=True)
    assert (done.args, done.returncode, done.stdout, done.stderr) == (FAIL, 3, "out\n", "err\n")
    assert isinstance(done, subprocess.CompletedProcess)
    assert api.run(["true"], stdout=api.PIPE).stdout == b""


def test_input_is_passed(api: Any) -> None:
    assert api.run(CAT, input=b"\0\xff", stdout=api.PIPE).stdout == b"\0\xff"
    assert api.check_output(CAT, input="hi", text=True) == "hi"
    # Send and receive more data than a pipe holds.
    much = b"x" * (1 << 20)
    assert api.run(CAT, input=much, stdout=api.PIPE).stdout == much


def test_check_raises_called_process_error(api: Any) -> None:
    with pytest.raises(api.CalledProcessError) as caught:
        api.run(FAIL, check=True, capture_output=True, text=True)
    assert caught.value.returncode == 3
    assert caught.value.cmd == FAIL
    assert (caught.value.stdout, caught.value.stderr) == ("out\n", "err\n")
    with pytest.raises(api.CalledProcessError):
        api.check_output(["false"])


def test_a_signal_gives_a_negative_status(api: Any) -> None:
    assert api.run(["sh", "-c", "kill -TERM $$"]).returncode == -signal.SIGTERM


@pytest.mark.parametrize("call", ["run", "check_output"])
def test_a_timeout_returns_the_output_so_far(api: Any, call: str) -> None:
    script = ["sh", "-c", "echo early; exec sleep 1000"]
    arguments = {"stdout": api.PIPE} if call == "run" else {}
    # Retry with a longer timeout: on a slow host, the output may not arrive within one second.
    for timeout in (1, 10):
        with pytest.raises(api.TimeoutExpired) as caught:
            getattr(api, call)(script, timeout=timeout, **arguments)
        if caught.value.stdout:
            break
    assert caught.value.stdout == b"early\n"
    assert caught.value.cmd == script


def test_run_kills_the_command_if_started_raises() -> None:
    seen: list[usernsctl.Popen[Any]] = []

    def fail(process: usernsctl.Popen[Any]) -> None:
        seen.append(process)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        usernsctl.run(["sleep", "1000"], started=fail)
    assert seen[0].returncode == -signal.SIGKILL


def test_a_wait_that_times_out_does_not_kill(api: Any) -> None:
    with api.Popen(WAITER, stdout=api.PIPE, text=True) as process:
        read_ready(process.stdout)
        with pytest.raises(api.TimeoutExpired):
            process.wait(timeout=0.05)
        assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 100 + signal.SIGUSR1
        assert process.poll() == process.returncode
        # send_signal() must ignore a signal to a command that has exited.
        process.terminate()
        process.kill()


def test_env_replaces_the_environment_of_the_caller(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_CALLER", "yes")
    show = ["sh", "-c", "echo ${FROM_CALLER-no} ${GIVEN-no}"]
    assert api.check_output(show, text=True) == "yes no\n"
    given = {"GIVEN": "\u00e4", "PATH": os.environ["PATH"]}
    assert api.check_output(show, text=True, env=given, encoding="utf-8") == "no \u00e4\n"
    assert api.check_output([b"/bin/echo", b"\xff"], env={}) == b"\xff\n"
    assert api.check_output([b"/usr/bin/printenv", b"A"], env={b"A": b"\xff"}) == b"\xff\n"


def test_path_of_env_is_searched_for_the_command(api: Any, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho $0\n")
    tool.chmod(0o755)
    path = {"PATH": f"/no/such:{tmp_path}:/bin"}
    assert api.check_output("tool", env=path, text=True) == f"{tool}\n"
    assert api.check_output(tool, text=True) == f"{tool}\n"
    assert api.check_output(["./tool"], cwd=tmp_path, text=True) == "./tool\n"
    assert api.check_output(["other"], executable=tool, text=True) == f"{tool}\n"
    assert api.check_output(["named", "-c", "echo $0"], executable="/bin/sh", text=True) == (
        "named\n"
    )


def test_the_working_directory_is_the_one_given(api: Any, tmp_path: Path) -> None:
    for cwd in (tmp_path, str(tmp_path), os.fsencode(tmp_path)):
        assert api.check_output(["pwd"], cwd=cwd, text=True).strip() == str(tmp_path)
    assert api.check_output(["pwd"], text=True).strip() == str(Path.cwd())


def test_streams_can_be_files_or_devnull(api: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("text")
    with source.open() as stdin, target.open("w") as stdout:
        assert api.run(CAT, stdin=stdin, stdout=stdout).returncode == 0
    assert target.read_text() == "text"
    with target.open("w") as both:
        api.run(FAIL, stdout=both, stderr=api.STDOUT)
    assert target.read_text() == "out\nerr\n"
    assert api.check_output(["cat"], stdin=api.DEVNULL) == b""
    merged = api.run(FAIL, stdout=api.PIPE, stderr=api.STDOUT, text=True)
    assert (merged.stdout, merged.stderr) == ("out\nerr\n", None)
    silent = api.run(FAIL, stdout=api.DEVNULL, stderr=api.PIPE, text=True)
    assert (silent.stdout, silent.stderr) == (None, "err\n")


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_invalid_streams_raise(stream: str) -> None:
    closed = socket.socket()
    closed.close()
    for invalid in (closed, -5, 1 << 31):
        with pytest.raises(ValueError, match=f"{stream}: -?[0-9]+ is not a descriptor"):
            usernsctl.run(["true"], **{stream: invalid})
    if stream != "stderr":
        with pytest.raises(ValueError, match="STDOUT can only be used for stderr"):
            usernsctl.run(["true"], **{stream: usernsctl.STDOUT})
    for call in (usernsctl.run, usernsctl.spawn):
        with pytest.raises(TypeError, match=f"{stream} must be an open file"):
            call(["true"], **{stream: "file"})


def test_pipes_pass_lines_back_and_forth(api: Any) -> None:
    with api.Popen(
        ["sed", "-u", "s/a/b/"], stdin=api.PIPE, stdout=api.PIPE, text=True, bufsize=1
    ) as process:
        for line in ("a\n", "ca\n"):
            process.stdin.write(line)
            assert process.stdout.readline() == line.replace("a", "b")
    assert process.returncode == 0


def session(api: Any, **arguments: Any) -> tuple[int, int, int]:
    """Start a command with `api`; return its pid, process group and session."""
    show = "import os; print(os.getpid(), os.getpgid(0), os.getsid(0))"
    output = api.check_output([sys.executable, "-Ic", show], text=True, **arguments)
    pid, group, sid = map(int, output.split())
    return pid, group, sid


def test_session_and_process_group(api: Any) -> None:
    assert session(api)[1:] == (os.getpgid(0), os.getsid(0))
    pid, group, sid = session(api, start_new_session=True)
    assert pid == group == sid
    pid, group, sid = session(api, process_group=0)
    assert pid == group
    assert sid == os.getsid(0)


def test_umask_applies_to_the_command_only(api: Any) -> None:
    mine = api.check_output(["sh", "-c", "umask"], text=True)
    assert api.check_output(["sh", "-c", "umask"], text=True, umask=0o027) == "0027\n"
    assert api.check_output(["sh", "-c", "umask"], text=True) == mine


def test_python_s_ignored_signals_are_restored(api: Any) -> None:
    show = ["grep", "^SigIgn", "/proc/self/status"]
    sigpipe = 1 << (signal.SIGPIPE - 1)

    def ignored(**arguments: Any) -> int:
        return int(api.check_output(show, text=True, **arguments).split()[1], 16) & sigpipe

    assert ignored() == 0
    assert ignored(restore_signals=False) == sigpipe


def test_only_pass_fds_are_inherited(api: Any) -> None:
    first, second = os.pipe()
    try:
        os.set_inheritable(first, True)
        show = ["ls", "/proc/self/fd"]
        assert api.check_output(show, text=True).split() == ["0", "1", "2", "3"]
        passed = api.check_output(show, text=True, pass_fds=[second, second]).split()
        assert sorted(passed, key=int) == ["0", "1", "2", "3", str(second)]
        inherited = api.check_output(show, text=True, close_fds=False).split()
        assert str(first) in inherited
        assert str(second) not in inherited
        assert not os.get_inheritable(second)
    finally:
        os.close(first)
        os.close(second)


def test_paths_may_contain_any_bytes(api: Any, tmp_path: Path) -> None:
    tool = os.fsencode(tmp_path) + b"/\xff tool"
    Path(os.fsdecode(tool)).write_bytes(b"#!/bin/sh\npwd\n")
    os.chmod(tool, stat.S_IRWXU)
    assert api.check_output([tool], cwd=os.fsencode(tmp_path)).strip() == os.fsencode(tmp_path)


# Program that starts a command while some of its own standard streams are closed.
LOW_DESCRIPTORS = """
import importlib, os, sys
name, closed, report = sys.argv[1], sys.argv[2], os.open(sys.argv[3], os.O_WRONLY)
report = os.dup2(report, 50)
api = importlib.import_module(name)
for fd in closed:
    os.close(int(fd))
command = ["sh", "-c", "cat; echo err >&2"]
process = api.Popen(command, stdin=api.PIPE, stdout=api.PIPE, stderr=api.PIPE)
out, err = process.communicate(b"in")
os.write(report, out + b" " + err + str(process.returncode).encode())
"""


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "12", "02", "012"])
def test_the_caller_may_have_closed_its_own_streams(api: Any, closed: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.touch()
    script = [sys.executable, "-c", LOW_DESCRIPTORS, api.__name__, closed, str(report)]
    subprocess.run(script, check=True, timeout=PATIENCE)
    assert report.read_text() == "in err\n0"


def test_types_of_popen_tell_text_from_bytes() -> None:
    with usernsctl.Popen(["true"], stdin=usernsctl.PIPE) as process:
        assert_type(process, usernsctl.Popen[bytes])
    with usernsctl.Popen(["true"], text=True) as told:
        assert_type(told, usernsctl.Popen[str])
