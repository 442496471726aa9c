"""Tests of the process of usernsctl-exec: pid, exit status, signals and descriptors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from inside import PATIENCE
from processes import capture, check_output

pytestmark = pytest.mark.also_root

WIDE = ["--map-users=0:100000:10", "--map-groups=0:100000:10"]
SIGNAL_SETS = ["grep", "^Sig[BIC]", "/proc/self/status"]


@pytest.mark.parametrize("options", [["-r"], ["-U"], ["-rmnui"], pytest.param(WIDE, marks=as_root)])
def test_the_command_is_the_same_process(prelude: Program, options: list[str]) -> None:
    command: list[str | Path] = [prelude.path, *options, "--", "sh", "-c", "echo $$ $PPID"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=PATIENCE)
    assert told.split() == [str(process.pid), str(os.getpid())]


@pytest.mark.parametrize("status", [0, 7, 125, 255])
@pytest.mark.parametrize("options", [["-r"], ["-rf"]])
def test_usernsctl_exec_exits_with_the_status_of_the_command(
    prelude: Program, options: list[str], status: int
) -> None:
    assert prelude(*options, "--", "sh", "-c", f"exit {status}").returncode == status


def test_death_by_a_signal_is_passed_on(prelude: Program) -> None:
    assert prelude("-r", "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


def test_standard_streams_are_inherited(prelude: Program) -> None:
    done = prelude("-r", "--", "sh", "-c", "cat; echo seen >&2", input="hi\n")
    assert (done.stdout, done.stderr) == ("hi\n", "seen\n")


def test_arguments_and_environment_are_passed_unchanged(prelude: Program) -> None:
    show = "import os, sys; print(sys.argv[1:], sorted(os.environ))"
    arguments = ["", "a b", "-r", "--", "\u00e4", "'"]
    command = (sys.executable, "-I", "-c", show, *arguments)
    env = {"LC_ALL": "C.UTF-8", "EMPTY": ""}
    done = prelude("-r", "--", *command, env=env)
    bare = capture(command, env=env)
    assert bare.returncode == 0
    assert done.stdout == bare.stdout


@pytest.mark.parametrize("separator", [["--"], []])
def test_options_after_the_command_belong_to_it(prelude: Program, separator: list[str]) -> None:
    assert prelude("-r", *separator, "echo", "-r", "--help").stdout == "-r --help\n"


def test_a_missing_command_exits_with_127(prelude: Program) -> None:
    for command in ("no-such-tool", "/no/such/tool", "./no-such-tool"):
        done = prelude("-r", "--", command)
        assert done.returncode == 127
        assert done.stderr.startswith(f"usernsctl-exec: lookup: {command}: No such file")
        assert "[command-not-found]" in done.stderr
    # Outside, root of the new namespace is this user, who may be unable to search /root. The lookup
    # of a command must skip such a directory in PATH.
    done = prelude("-r", "--", "no-such-tool", env={"PATH": "/root:/usr/bin"})
    assert done.returncode == 127
    assert "[command-not-found]" in done.stderr
    done = prelude("-r", "--", "")
    assert done.returncode == 127
    assert done.stderr.startswith('usernsctl-exec: lookup: "": No such file')


def test_an_unexecutable_command_exits_with_126(prelude: Program, tmp_path: Path) -> None:
    plain, orphan, garbage = (tmp_path / name for name in ("plain", "orphan", "garbage"))
    plain.write_text("#!/bin/sh\n")
    orphan.write_text("#!/no/such/interpreter\n")
    garbage.write_text("garbage\n")
    orphan.chmod(0o755)
    garbage.chmod(0o755)
    causes = {
        plain: "command-not-executable",
        tmp_path: "command-not-executable",
        garbage: "command-not-executable",
        orphan: "interpreter-not-found",
    }
    for command, cause in causes.items():
        done = prelude("-r", "--", str(command))
        assert done.returncode == 126
        assert done.stderr.startswith(f"usernsctl-exec: exec: {command}: ")
        assert f"[{cause}]" in done.stderr


def test_the_command_is_searched_in_path(prelude: Program, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    assert prelude("-r", "tool", env={"PATH": f"/no/such:{tmp_path}"}).stdout == "found\n"
    assert prelude("-r", "tool", env={"PATH": "/usr/bin:/bin"}).returncode == 127
    assert prelude("-r", "true", env={}).returncode == 0


def test_wd_sets_the_working_directory(prelude: Program) -> None:
    assert prelude("-r", "--wd=/usr", "--", "pwd").stdout == "/usr\n"
    assert prelude("-r", "-w", "/usr", "--", "pwd").stdout == "/usr\n"
    done = prelude("-r", "--wd=/no/such/dir", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "chdir: /no/such/dir: No such file or directory" in done.stderr


@pytest.mark.skipif(not Path("/bin").is_symlink(), reason="/usr alone is no root here")
def test_root_sets_the_root_directory(prelude: Program) -> None:
    done = prelude("-r", "--root=/usr", "--", "/bin/ls", "-d", "/bin", "/usr")
    assert done.stdout == "/bin\n"
    assert "/usr" in done.stderr
    inside = prelude("-r", "-R", "/usr", "-w", "/lib", "--", "/bin/pwd")
    assert inside.stdout == "/lib\n"


def test_a_missing_root_fails(prelude: Program) -> None:
    done = prelude("-r", "--root=/no/such/dir", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "chroot: /no/such/dir: No such file or directory" in done.stderr
    assert "\n  remedy: create the directory, or name an existing directory:" in done.stderr


# Program that prints its open descriptors. The program tries every number, because /proc may show
# another PID namespace.
LIST_DESCRIPTORS = """
import os
for fd in range(256):
    try:
        os.fstat(fd)
    except OSError:
        continue
    print(fd)
"""


@pytest.mark.parametrize("options", [["-r"], ["-rf"], ["-rpm"]])
def test_only_preserved_descriptors_are_inherited(prelude: Program, options: list[str]) -> None:
    listing = (sys.executable, "-Ic", LIST_DESCRIPTORS)
    first, second = os.pipe()
    preserve = f"--preserve-fd={second}"
    try:
        shown = prelude(*options, "--", *listing, pass_fds=(first, second))
        kept = prelude(*options, preserve, preserve, "--", *listing, pass_fds=(first, second))
    finally:
        os.close(first)
        os.close(second)
    assert shown.stdout.split() == ["0", "1", "2"]
    assert kept.stdout.split() == ["0", "1", "2", str(second)]


def test_a_descriptor_to_preserve_must_be_open(prelude: Program) -> None:
    done = prelude("-r", "--preserve-fd=999", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "descriptors: descriptor 999: Bad file descriptor" in done.stderr


@pytest.mark.parametrize("options", [["-r"], ["-rf"]])
@pytest.mark.parametrize("restore", [True, False])
def test_signal_masks_and_dispositions_are_inherited(
    prelude: Program, options: list[str], restore: bool
) -> None:
    blocked = {signal.SIGUSR1, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        ours, bare = (
            capture(command, restore_signals=restore)
            for command in ([str(prelude.path), *options, "--", *SIGNAL_SETS], SIGNAL_SETS)
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert bare.returncode == 0
    assert ours.stdout == bare.stdout


def test_closed_standard_streams_stay_closed(prelude: Program) -> None:
    check = f"exec {prelude.path} -r -- {sys.executable} -c '{STAT_STREAMS}' <&- 2>&-"
    assert check_output(["sh", "-c", check]) == "closed\nopen\nclosed\n"


STAT_STREAMS = """
import os
for fd in range(3):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        target = ""
    os.write(1, b"open\\n" if target.startswith("pipe:") else b"closed\\n")
"""


@pytest.mark.parametrize(
    "options",
    [
        *("-r", "-rf", "-rpmui --mount-proc", "-c --no-such-option"),
        pytest.param("-r --map-auto", marks=pytest.mark.userns_requires("subid")),
    ],
)
def test_a_small_stack_is_enough(prelude: Program, options: str) -> None:
    script = f"ulimit -s 64; {prelude.path} {options} -- true"
    done = capture(["sh", "-c", script])
    assert done.returncode == (125 if "no-such" in options else 0), done.stderr
