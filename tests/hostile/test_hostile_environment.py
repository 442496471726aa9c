"""Attacks on usernsctl's programs by environment variables and files in the working directory.

The attacker's modules and programs must not run outside gVisor, where they would have the user's
privileges.
"""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from frozen import freeze
from processes import capture
from tally import Tally
from traps import GVISOR, VARIABLES, marks, set_traps

SCRIPTS = Path(sysconfig.get_path("scripts"))

HOST = """
import usernsctl as un
with un.SandboxHost() as host:
    with host.start(["true"], stdin=un.DEVNULL) as box:
        assert box.wait() == 0
"""
TRIAL = "from usernsctl.pytest_plugin.needs import _try_runsc; assert _try_runsc() is None"

# Attacked programs, by test name, as arguments of the Python interpreter. Each of them starts a
# child: Python or another program.
STARTS = {
    "doctor": [SCRIPTS / "usernsctl", "doctor"],
    "run": [SCRIPTS / "usernsctl", "run", "--", "true"],
    "explained": [SCRIPTS / "usernsctl", "run", "--", "true"],
    "host": ["-c", HOST],
    "trial": ["-c", TRIAL],
    "exec": [SCRIPTS / "usernsctl", "exec", "-r", "--", "/bin/true"],
}
FAILING_RUNSC = """#!/bin/sh
[ "$1" != --version ] || exec echo runsc version none
exit 128
"""


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    return set_traps(tmp_path)


def attack(name: str, traps: Path, directory: Path, environ: dict[str, str]) -> None:
    """Start the program `name` in a directory with traps; check that the program works."""
    expected = 0
    if name == "explained":
        runsc = traps.parent / "runsc"
        runsc.write_text(FAILING_RUNSC)
        runsc.chmod(0o755)
        environ = {**environ, "USERNSCTL_RUNSC": str(runsc)}
        expected = 125
    done = capture(
        [sys.executable, "-I", *STARTS[name]],
        timeout=100,
        cwd=directory,
        env={**os.environ, **environ},
    )
    assert done.returncode == expected, done.stderr


def test_the_traps_work(traps: Path) -> None:
    """Check that Python and a shell trigger the traps: otherwise, the attacks prove nothing."""
    subprocess.run([sys.executable, "-c", "import argparse"], cwd=traps, timeout=60)
    subprocess.run(["/bin/sh", "-c", "getent"], env={"PATH": str(traps)}, timeout=60)
    assert {"module argparse", "program getent"} <= set(marks(traps))


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.sampled(3)
def test_modules_in_the_current_directory_run_outside_gvisor(
    name: str, traps: Path, tally: Tally
) -> None:
    for _ in range(tally.rounds(1, 20)):
        attack(name, traps, traps, {})
        tally.tried()
    for mark in marks(traps):
        tally.succeeded(mark)


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.sampled(3)
def test_python_variables_name_what_runs_outside_gvisor(
    name: str, traps: Path, tally: Tally
) -> None:
    environ = {
        "PYTHONPATH": str(traps),
        "PYTHONSTARTUP": str(traps / "argparse.py"),
        "PYTHONUSERBASE": str(traps),
        "PYTHONINSPECT": "1",
        "PYTHONBREAKPOINT": "argparse.run",
        "PYTHONWARNINGS": "ignore::argparse.Warning",
    }
    for _ in range(tally.rounds(1, 20)):
        attack(name, traps, traps.parent, environ)
        attack(name, traps, traps.parent, {"PYTHONHOME": str(traps)})
        tally.tried(2)
    for mark in marks(traps):
        tally.succeeded(mark)


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("name", STARTS)
@pytest.mark.sampled(3)
def test_a_relative_path_names_what_runs_outside_gvisor(
    name: str, traps: Path, tally: Tally
) -> None:
    relative = ":.:traps:../traps"
    for _ in range(tally.rounds(1, 20)):
        for directory in (traps, traps.parent):
            attack(name, traps, directory, {"PATH": f"{relative}:{os.environ['PATH']}{relative}"})
            tally.tried()
    for mark in marks(traps):
        tally.succeeded(mark)


def test_the_library_works(traps: Path) -> None:
    """Check that the trap library is loaded; otherwise the attacks would prove nothing."""
    subprocess.run(
        ["/bin/true"], env={"LD_PRELOAD": str(traps / "trap.so")}, timeout=60, check=True
    )
    assert marks(traps) == ["library"]


@as_root
@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("options", [[], ["--map-auto"], ["--env-all"]], ids=str)
@pytest.mark.sampled(1)
def test_variables_choose_no_program_that_a_frozen_launch_runs(
    options: list[str], tally: Tally, prelude: Program
) -> None:
    """Check that no variable, nor the cwd, chooses a program that `usernsctl-exec --launch` runs.

    A tenant of a container chooses both. The chosen program would run outside gVisor.

    The launch runs getent(1) only for a uid that /etc/passwd lacks, so the test includes such a
    uid.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o777 | stat.S_ISVTX)
        traps = set_traps(directory)
        file = freeze(directory / "launch", *options, command=("/bin/cat", "/proc/version"))
        relative = [f"PATH=:.:traps:{traps}"]
        other = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
        for before, environ, here in itertools.product(
            ([], other),
            ([entry.format(traps) for entry in VARIABLES], relative),
            (directory, traps),
        ):
            done = capture(
                [*before, "/usr/bin/env", "-i", *environ, prelude.path, "--launch", file], cwd=here
            )
            tally.tried()
            assert GVISOR in done.stdout or "--map-auto" in options, done.stderr
        for mark in marks(traps):
            tally.succeeded(mark)


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("words", [["in-gvisor"], ["usernsctl", "run", "--env-all"]], ids=" ".join)
@pytest.mark.sampled(1)
def test_variables_of_a_container_choose_no_program(
    words: list[str], traps: Path, tally: Tally
) -> None:
    """Check that the images' entrypoint runs no program that an environment variable names."""
    program = traps.parent / words[0]
    program.symlink_to(SCRIPTS / "usernsctl-entrypoint")
    settings = dict(entry.format(traps).split("=", 1) for entry in VARIABLES)
    # Try all environment variables together, and each one alone: variables can cancel each other's
    # effects.
    alone = [{name: value} for name, value in settings.items()][: tally.rounds(4, len(settings))]
    for environ in [settings, *alone] * tally.rounds(1, 3):
        done = capture(
            [program, *words[1:], "--", "/bin/cat", "/proc/version"],
            timeout=100,
            cwd="/",
            env=environ,
        )
        tally.tried()
        if done.returncode == 0 and GVISOR not in done.stdout:
            tally.succeeded(f"{environ}: {done.stdout!r}")
        # LD_* variables may prevent the command's start in gVisor. With all other variables, the
        # command must work.
        if not any(name.startswith("LD_") for name in environ):
            assert GVISOR in done.stdout, done.stderr
    for mark in marks(traps):
        tally.succeeded(mark)
    assert not (traps / "debug").exists()
