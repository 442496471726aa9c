"""Attacks by whoever chooses the directory that a command is started in, or its environment.

What such a one can name must not run: a module or a program of theirs would be started outside of
gVisor, as the user.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Protocol

import pytest

SCRIPTS = Path(sysconfig.get_path("scripts"))

# Imported by us, by what we import, and by Python itself at its start if they are there.
MODULES = """
    _cffi_backend click json msgspec pickle prctl rich runpy sitecustomize usercustomize usernsctl
""".split()

# Whatever might be looked for by its name.
PROGRAMS = """
    cat env fusermount getent getsubids id mount newgidmap newuidmap nsenter python python3 runsc sh
    true umount unshare usernsctl usernsctl-exec usernsctl-probe usernsctl-watch
""".split()

HOST = """
import usernsctl as un
with un.SandboxHost() as host:
    with host.start(["true"], stdin=un.DEVNULL) as box:
        assert box.wait() == 0
"""
TRIAL = "from usernsctl.pytest_needs import _try_runsc; assert _try_runsc() is None"

# Each starts a child of ours that is Python, or a program.
STARTS = {
    "doctor": [SCRIPTS / "usernsctl", "doctor"],
    "run": [SCRIPTS / "usernsctl", "run", "--", "true"],
    "explained": [SCRIPTS / "usernsctl", "run", "--", "true"],
    "host": ["-c", HOST],
    "trial": ["-c", TRIAL],
    "plan": [SCRIPTS / "usernsctl", "plan"],
}
FAILING_RUNSC = """#!/bin/sh
[ "$1" != --version ] || exec echo runsc version none
exit 128
"""


class Tally(Protocol):
    """The fixture of conftest.py."""

    def rounds(self, short: int, full: int) -> int: ...
    def tried(self, count: int = 1) -> None: ...
    def succeeded(self, how: str) -> None: ...


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A directory of modules and programs that leave a file beside themselves when they run."""
    directory = tmp_path / "traps"
    directory.mkdir()
    for name in MODULES:
        mark = f"open({str(tmp_path / 'marks')!r}, 'a').write('module {name}\\n')\n"
        (directory / f"{name}.py").write_text(mark)
    for name in PROGRAMS:
        program = directory / name
        program.write_text(f"#!/bin/sh\necho program {name} >>{tmp_path}/marks\n")
        program.chmod(0o755)
    return directory


def marks(traps: Path) -> list[str]:
    file = traps.parent / "marks"
    return file.read_text().splitlines() if file.exists() else []


def attack(name: str, traps: Path, directory: Path, environ: dict[str, str]) -> None:
    """Start a command of ours, itself isolated as that of the images is, and see it do its work."""
    expected = 0
    if name == "explained":
        runsc = traps.parent / "runsc"
        runsc.write_text(FAILING_RUNSC)
        runsc.chmod(0o755)
        environ = {**environ, "USERNSCTL_RUNSC": str(runsc)}
        expected = 128
    done = subprocess.run(
        [sys.executable, "-I", *STARTS[name]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        cwd=directory,
        env={**os.environ, **environ},
    )
    assert done.returncode == expected, done.stderr


def test_the_traps_work(traps: Path) -> None:
    """A check of the attacks themselves: where Python and a shell look, they are found."""
    subprocess.run([sys.executable, "-c", "import click"], cwd=traps, timeout=60)
    subprocess.run(["/bin/sh", "-c", "getent"], env={"PATH": str(traps)}, timeout=60)
    assert {"module click", "program getent"} <= set(marks(traps))


@pytest.mark.requires("runsc")
@pytest.mark.parametrize("name", STARTS)
def test_modules_in_the_current_directory_run_outside_gvisor(
    name: str, traps: Path, tally: Tally
) -> None:
    for _ in range(tally.rounds(1, 20)):
        attack(name, traps, traps, {})
        tally.tried()
    for mark in marks(traps):
        tally.succeeded(mark)


@pytest.mark.requires("runsc")
@pytest.mark.parametrize("name", STARTS)
def test_python_variables_name_what_runs_outside_gvisor(
    name: str, traps: Path, tally: Tally
) -> None:
    environ = {
        "PYTHONPATH": str(traps),
        "PYTHONSTARTUP": str(traps / "click.py"),
        "PYTHONUSERBASE": str(traps),
        "PYTHONINSPECT": "1",
        "PYTHONBREAKPOINT": "click.run",
        "PYTHONWARNINGS": "ignore::click.Warning",
    }
    for _ in range(tally.rounds(1, 20)):
        attack(name, traps, traps.parent, environ)
        attack(name, traps, traps.parent, {"PYTHONHOME": str(traps)})
        tally.tried(2)
    for mark in marks(traps):
        tally.succeeded(mark)


@pytest.mark.requires("runsc")
@pytest.mark.parametrize("name", STARTS)
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
