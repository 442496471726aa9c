"""Tests of subcommands that are interrupted, or whose output is closed or on a full disk."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Program
from processes import capture

# Command lines, each with True if the command writes to standard error instead of standard output.
CALLS = {
    "--help": False,
    "--version": False,
    "run --help": False,
    "plan -r": False,
    "plan -r --json": False,
    "doctor --no-runsc": False,
    "doctor --json --no-runsc": False,
    "seccomp-profile": False,
    "nonsense": True,
    "plan --nonsense": True,
    "doctor --nonsense": True,
    "plan --map-user 7 --map-users 0:0:0": True,
}


def environment(unbuffered: bool) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return env | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("words", CALLS)
@pytest.mark.sampled
def test_closed_pipe_ends_with_sigpipe_status(
    usernsctl: Program, words: str, unbuffered: bool
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [usernsctl.path, *words.split()],
        stdout=subprocess.PIPE if CALLS[words] else writing,
        stderr=writing if CALLS[words] else subprocess.PIPE,
        text=True,
        env=environment(unbuffered),
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stdout or "", done.stderr or "") == (128 + signal.SIGPIPE, "", "")


@pytest.mark.parametrize("unbuffered", [False, True])
def test_pipe_closed_while_writing_ends_with_sigpipe_status(
    usernsctl: Program, unbuffered: bool
) -> None:
    reading, writing = os.pipe()
    # Give the pipe its minimum capacity, one page, which is smaller than the output.
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process = subprocess.Popen(
        [usernsctl.path, "seccomp-profile"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(unbuffered),
    )
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    _, stderr_output = process.communicate(timeout=60)
    assert (process.returncode, stderr_output) == (128 + signal.SIGPIPE, b"")


# The output of the last two commands is larger than the buffer of sys.stdout.
@pytest.mark.parametrize(
    "words", ["--version", "plan -r --json", "--help", "seccomp-profile", "completion zsh"]
)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_full_disk_is_reported_in_one_line(
    usernsctl: Program, words: str, unbuffered: bool
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [usernsctl.path, *words.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(unbuffered),
            text=True,
        )
    assert done.returncode == 125
    assert done.stderr == "usernsctl: standard output: No space left on device\n"


@pytest.mark.parametrize("words", ["--no-such-option", "explain /no/such", "run --wd x -- id"])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_errors_with_full_standard_error_exit_with_125(
    usernsctl: Program, words: str, unbuffered: bool
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [usernsctl.path, *words.split()], stderr=full, env=environment(unbuffered)
        )
    assert done.returncode == 125


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["docker-args", "--seccomp", "\u2603.json"], "seccomp=\\u2603.json"),
        (
            ["bundle", "init", "\u2603", "--rootfs", "/", "--", "true"],
            "\\u2603/config.json: written",
        ),
    ],
    ids=["docker-args", "bundle"],
)
def test_characters_that_the_encoding_lacks_are_escaped(
    usernsctl: Program, tmp_path: Path, words: list[str], expected: str
) -> None:
    (tmp_path / "\u2603").mkdir()
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = usernsctl(*words, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_closed_standard_output_is_not_an_error(usernsctl: Program) -> None:
    for words in ("plan -r", "--help", "doctor --for range --no-runsc"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" {words} >&-', usernsctl.path],
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert done.stderr == ""
        assert done.returncode == 0 or "doctor" in words


# Source of a fake module, which usernsctl imports in place of a real one. The fake module sends
# SIGINT to its process during the import.
INTERRUPTED = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("argparse", "plan"),
        ("msgspec", "bundle check web"),
        ("_cffi_backend", "run -- true"),
        ("contextlib", "run -- true"),
        ("_cffi_backend", "--version"),
    ],
)
def test_sigint_during_startup_ends_silently_with_130(
    usernsctl: Program, tmp_path: Path, module: str, words: str
) -> None:
    (tmp_path / f"{module}.py").write_text(INTERRUPTED)
    done = usernsctl(*words.split(), env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


def test_ignored_sigint_stays_ignored(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); raise SystemExit(7)"
    )
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = capture(["sh", "-c", 'trap "" INT; exec "$0" plan', usernsctl.path], env=environ)
    assert (done.returncode, done.stderr) == (7, "")
