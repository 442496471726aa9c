"""Tests of usernsctl-exec --launch with unusual arguments, environments, directories and limits.

Each launch must work as documented, or fail with one message that names the problem.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gvisor
import pytest
from callers import as_root
from conftest import SCRIPTS, Program
from frozen import assert_ran, assert_refused, freeze
from processes import capture

ENV = {"PATH": "/usr/bin:/bin"}

Perform = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return freeze(tmp_path_factory.mktemp("launch") / "launch")


@pytest.fixture
def perform(prelude: Program, launch: Path) -> Perform:
    """Return a function that calls `before` and then starts a launch, both in a child process."""

    def perform(
        *args: str, file: Path = launch, before: Callable[[], object] | None = None, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [prelude.path, "--launch", file, *(["--", *args] if args else [])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            preexec_fn=before,
            **({"env": ENV} | how),
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr)
        )

    return perform


def limited(name: str, value: int) -> Callable[[], None]:
    number = getattr(resource, f"RLIMIT_{name}")
    return lambda: resource.setrlimit(number, (value, value))


@pytest.mark.parametrize(
    "args",
    [
        ["", "", " "],
        ["".join(map(chr, range(1, 128)))],
        ["\x80\x85\u2028\ufeff\uffff\U0010ffff"],
        ["-r", "--", "--launch", "@s", "@", "%s", "\\", '"', "\n"],
        ["x" * 131_000] * 15,
        ["x"] * 50_000,
    ],
    ids=["empty", "control", "unicode", "looks like options", "2 MiB", "50,000"],
)
@pytest.mark.sampled(3)
def test_unusual_arguments_arrive_unchanged(perform: Perform, args: list[str]) -> None:
    done = perform("printf", "%s\\0", *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\0")[:-1] == args


@pytest.mark.parametrize(
    "raw", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
)
@pytest.mark.sampled(3)
def test_text_that_is_not_utf8_is_refused(perform: Perform, tmp_path: Path, raw: bytes) -> None:
    word = os.fsdecode(raw)
    said = "argument 1 of the command is not UTF-8"
    assert_refused(perform("echo", word), said, cause="launch-text")
    everything = freeze(tmp_path / "all", "--env-all")
    for env in ({"A": word}, {word: "a"}):
        done = perform(file=everything, env=ENV | env)
        assert_refused(done, "$.process.env[", cause="launch-text")
    # Environment variables that the launch does not pass to the command need not be UTF-8.
    assert_ran(perform(env=ENV | {"A": word}))


def test_launch_without_a_command_is_refused(
    perform: Perform, usernsctl: Program, tmp_path: Path
) -> None:
    done = usernsctl("freeze", "-o", tmp_path / "bare")
    assert done.returncode == 0
    assert_refused(perform(file=tmp_path / "bare"), "no command was given")
    assert_refused(perform(""), "the command is an empty string")
    assert perform("/nonexistent").returncode == 127


def test_many_and_long_variables_are_passed(perform: Perform, tmp_path: Path) -> None:
    command = ("sh", "-c", "env | grep -c ^V; env | wc -c")
    everything = freeze(tmp_path / "all", "--env-all", command=command)
    for count, size in ((3000, 10), (20, 100_000)):
        env = {f"V{number}": "x" * size for number in range(count)}
        done = perform(file=everything, env=ENV | env)
        assert (done.returncode, done.stderr) == (0, "")
        many, length = map(int, done.stdout.split())
        assert many == count
        assert length > count * size


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20])
@pytest.mark.sampled(4)
def test_low_descriptor_limit_is_reported(perform: Perform, count: int) -> None:
    done = perform(before=limited("NOFILE", count))
    assert_refused(done, ": Too many open files")


@pytest.mark.parametrize("size", [0, 1, 100])
def test_low_file_size_limit_is_reported(perform: Perform, size: int) -> None:
    """Check the error of a launch whose files exceed RLIMIT_FSIZE."""
    done = perform(before=limited("FSIZE", size))
    assert_refused(done, "File too large")


def test_launch_works_with_a_small_stack(perform: Perform) -> None:
    assert_ran(perform(before=limited("STACK", 128 << 10)))


@pytest.mark.parametrize(("name", "value"), [("AS", 200 << 20), ("NOFILE", 32)])
def test_limits_too_low_for_runsc_are_reported(perform: Perform, name: str, value: int) -> None:
    """Check that runsc's error is reported if limits on memory or descriptors are too low."""
    done = perform(before=limited(name, value))
    assert (done.returncode, done.stdout) == (125, "")
    assert "usernsctl: runsc: " in done.stderr


@pytest.mark.parametrize("name", ["CORE", "MEMLOCK", "SIGPENDING", "MSGQUEUE", "RTPRIO"])
@pytest.mark.sampled(3)
def test_launch_works_with_low_unrelated_limits(perform: Perform, name: str) -> None:
    # In releases of 2026, each thread of runsc queues a signal at startup (cause signal-limit).
    # RLIMIT_SIGPENDING also counts the signals that this user's other tests have queued, so a much
    # lower limit could fail.
    fewest = 1000 if name == "SIGPENDING" and gvisor.is_of_2026() else 0
    assert_ran(perform(before=limited(name, fewest)))


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.sampled(3)
def test_launch_works_with_closed_standard_streams(
    perform: Perform, closed: tuple[int, ...]
) -> None:
    done = perform(before=lambda: [os.close(fd) for fd in closed])
    assert_ran(done, "" if 1 in closed else "ran\n")


@pytest.mark.parametrize("mask", [0, 0o777])
def test_launch_sets_the_umask_to_022(perform: Perform, mask: int) -> None:
    done = perform("sh", "-c", "umask; >/tmp/file; ls -l /tmp/file", before=lambda: os.umask(mask))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("0022\n-rw-r--r-- ")


def test_launch_from_a_removed_directory_starts_in_root(perform: Perform, tmp_path: Path) -> None:
    def go() -> None:
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    gone = tmp_path / "gone"
    assert_ran(perform("pwd", before=go), "/\n")
    assert_ran(perform("pwd", cwd=tmp_path), "/\n")
    done = perform("pwd", before=go, file=Path("launch"))
    assert_refused(done, "launch: No such file or directory")


@pytest.mark.parametrize(
    "home",
    ["", "relative", "/", "//", "/..", "/nonexistent/home", "/proc", "/dev/null", "/etc/passwd",
     "/a\nb", "/" + "a/" * 100, "x" * 5000, os.fsdecode(b"/\xff")],
    ids=lambda home: ascii(home)[:20],
)  # fmt: skip
@pytest.mark.sampled(4)
def test_launch_works_with_an_unusual_home(perform: Perform, home: str) -> None:
    assert_ran(perform(env=ENV | {"HOME": home}))


@pytest.mark.parametrize("home", ["/" + "a/" * 1000, "/" + "x" * 300], ids=["deep", "long"])
def test_too_long_home_is_refused(perform: Perform, home: str) -> None:
    assert_refused(perform(env=ENV | {"HOME": home}), home[:200], "File name too long")


@as_root
@pytest.mark.parametrize("home", ["/usr", "/etc", "//usr//bin", "/tmp/../usr", "/bin"])
def test_home_that_the_sandbox_needs_is_refused(perform: Perform, home: str) -> None:
    """Check that HOME must not be a directory whose files the sandbox needs, such as /usr."""
    done = perform(env=ENV | {"HOME": home})
    assert_refused(done, "can't be hidden: the sandbox needs", "set HOME to")


def test_launch_without_proc_is_refused(prelude: Program, launch: Path) -> None:
    script = f"mount -t tmpfs none /proc && exec {prelude.path} --launch {launch}"
    done = prelude("-r", "-m", "--", "sh", "-c", script)
    assert_refused(done, "/proc")
    assert str(launch) not in done.stderr


def test_launch_works_with_malformed_environment_entries(perform: Perform, tmp_path: Path) -> None:
    assert_ran(perform(env={}))
    everything = freeze(tmp_path / "all", "--env-all", command=("env",))
    # Call execve(2) directly: it accepts these environment entries, which shells and Python never
    # create.
    odd = (b"=x", b"A=1", b"A=2", b"NONE", b"", b"B==")
    array = (ctypes.c_char_p * (len(odd) + 1))(*odd, None)
    args = [bytes(word) for word in (prelude_path(), b"--launch", bytes(everything))]
    argv = (ctypes.c_char_p * 4)(*args, None)
    execve = ctypes.CDLL(None).execve
    done = capture(["/bin/false"], preexec_fn=lambda: execve(args[0], argv, array))
    assert (done.returncode, done.stderr) == (0, "")
    seen = [line for line in done.stdout.splitlines() if line[0] in "=ABN"]
    assert sorted(seen) == ["A=1", "B=="]


def prelude_path() -> bytes:
    return bytes(SCRIPTS / "usernsctl-exec")
