"""Tests of parity with subprocess and asyncio in a sandbox; most are defined in tests/kernel."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import parity
import pytest
import test_aio
import test_parity_processes
import test_parity_streams
import uvloop

import usernsctl as un


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[un.Sandbox]:
    # The sandbox must mount the directory in which the tests create files.
    shown = {"expose_root": True, "binds": [tmp_path_factory.getbasetemp()]}
    with un.SandboxHost(**shown) as host, host.start(["sleep", "1000"]) as made:
        # Call run() once to start the agent. If a test started it, the leak check would report it
        # as left behind.
        made.run(["true"], check=True)
        yield made


@pytest.fixture
def api(box: un.Sandbox) -> Any:
    return parity.of_sandbox(box)


@pytest.fixture(params=[asyncio, uvloop], ids=["asyncio", "uvloop"])
def pair(request: pytest.FixtureRequest, box: un.Sandbox) -> tuple[Any, Any]:
    return test_aio.runner(request.param), box.create_subprocess_exec


# Tests that don't apply to sandboxes, although they use the fixture `api` or `pair`. They check
# names and pids of processes on the host, the whole environment, texts of errors, or inherited
# descriptors.
EXCLUDED = {
    "test_a_signal_that_comes_too_late_hits_nobody",
    "test_an_empty_environment_is_empty",
    "test_an_interrupt_kills_the_command",
    "test_an_unreferenced_process_warns_and_is_reaped_later",
    "test_arguments_may_be_given_by_position",
    "test_high_descriptors_are_closed_and_passed",
    "test_input_none_is_an_empty_pipe",
    "test_numbers_out_of_bounds_are_refused",
    "test_pass_fds_refuses_invalid_descriptors",
    "test_passing_descriptors_closes_the_others",
    "test_repr_of_popen_matches_subprocess",
    "test_strings_with_null_bytes_are_refused",
}


def parameters_of(function: Any) -> set[str]:
    return set(function.__code__.co_varnames[: function.__code__.co_argcount])


MODULES = (test_parity_processes, test_parity_streams, test_aio)
for module in MODULES:
    for name, function in vars(module).items():
        if (
            name.startswith("test_")
            and name not in EXCLUDED
            and parameters_of(function) & {"api", "pair"}
        ):
            globals()[name] = function


def test_excluded_tests_exist() -> None:
    assert [name for name in EXCLUDED if not any(hasattr(each, name) for each in MODULES)] == []


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("how", "stdout", "stderr"), test_parity_streams.OWN_STREAMS)
def test_unspecified_streams_are_inherited(how: str, stdout: str, stderr: str) -> None:
    test_parity_streams.test_unspecified_streams_are_inherited(parity.SANDBOX, how, stdout, stderr)


def test_popen_raises_an_audit_event(box: un.Sandbox) -> None:
    told: list[Any] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and arguments[2] == "/etc/..":
            told.append(arguments)

    sys.addaudithook(hook)
    box.run(["true", "x"], cwd="/etc/..", env={"PATH": "/bin"})
    assert told == [("true", ["true", "x"], "/etc/..", {"PATH": "/bin"})]


@pytest.mark.parametrize("arguments", test_parity_processes.CUT_SHORT)
def test_strings_with_null_bytes_are_refused(box: un.Sandbox, arguments: dict[str, Any]) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError, match=r"null|NUL|contains ="):
        box.popen(**({"args": ["true"], "stdout": un.PIPE} | arguments))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"user": (-1, 0)}, ValueError),
        ({"user": (0, 1 << 32)}, ValueError),
        ({"user": (0xFFFFFFFF, 0)}, ValueError),
        ({"groups": [-1]}, ValueError),
        ({"groups": [0xFFFFFFFF]}, ValueError),
        ({"groups": range(5000)}, ValueError),
        ({"groups": "root"}, TypeError),
        ({"groups": [1.5]}, TypeError),
        ({"groups": 5}, TypeError),
        ({"rlimits": ["nofile"]}, ValueError),
        ({"rlimits": "nofile=5"}, TypeError),
        ({"umask": 1 << 40}, OverflowError),
        ({"process_group": 1 << 40}, OverflowError),
        ({"process_group": 5}, ValueError),
        ({"terminal": (0, 5)}, ValueError),
        ({"terminal": (5, 1 << 16)}, ValueError),
        ({"terminal": ("a", "b")}, TypeError),
        ({"shell": True}, ValueError),
        ({"preexec_fn": print}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_unsupported_arguments_raise(
    box: un.Sandbox, arguments: dict[str, Any], kind: type[Exception]
) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(kind):
        box.run(["true"], **arguments)
    assert os.listdir("/proc/self/fd") == before


def test_repr_of_popen_matches_subprocess(box: un.Sandbox) -> None:
    with box.popen(["true", "a" * 200]) as process:
        assert process.args == ["true", "a" * 200]
        process.wait()
    assert repr(process).startswith("<SandboxPopen: returncode: 0 args: ['true', 'aaa")
    assert isinstance(process, subprocess.Popen)
    assert repr(box.run(["true"])) == "Result(args=['true'], returncode=0)"
    with pytest.raises(un.CalledProcessError, match="SIGTERM"):
        box.run(["sh", "-c", "kill -TERM $$"]).check_returncode()


def test_a_dropped_popen_warns_and_keeps_running(box: un.Sandbox) -> None:
    before = os.listdir("/proc/self/fd")
    ours, theirs = os.pipe()
    process = box.popen(["sh", "-c", "read x; echo $x"], stdin=un.PIPE, stdout=theirs)
    os.close(theirs)
    stdin = process.stdin
    with pytest.warns(ResourceWarning, match=f"subprocess {process.pid} is still running"):
        del process
    stdin.write(b"lives\n")
    stdin.close()
    with open(ours, "rb") as output:
        assert output.read() == b"lives\n"
    # Start commands until the dropped object's descriptors are closed: each start closes the
    # SandboxPopen objects of exited commands.
    while box.run(["true"]).returncode == 0 and os.listdir("/proc/self/fd") != before:
        pass


def test_an_exception_in_run_ends_the_command(box: un.Sandbox, tmp_path: Path) -> None:
    """Check that run() kills the command if an exception is raised after the command's start."""
    with pytest.raises(TypeError), (tmp_path / "x").open("wb") as file:
        box.run(["sleep", "4711"], stdout=file, input=5)
    while "sleep 4711" in box.check_output(["ps", "-ef"], text=True):
        pass


def test_commands_with_input_none_read_nothing(box: un.Sandbox) -> None:
    assert box.check_output(["cat"], input=None) == b""
    assert box.check_output(["cat"], input=None, text=True) == ""
    with box.popen(["cat"], stdin=un.PIPE, stdout=un.PIPE) as process:
        assert isinstance(process.stdin, io.BufferedWriter)
        assert process.communicate(b"x") == (b"x", None)
