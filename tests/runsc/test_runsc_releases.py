"""Tests of differences between releases of runsc, with fakes of other releases."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Program
from frozen import assert_ran, assert_refused, freeze

LABEL = "release-20260831.0"
CAUSE = "runsc-sidecars-missing"

# Fake runsc that prints another release's version, and otherwise executes the installed runsc.
RUNSC = """#!/bin/sh
[ "$1" != --version ] || {{ echo runsc version {label}; exit; }}
exec {runsc} "$@"
"""
ONLY_VERSION = "#!/bin/sh\necho runsc version {label}\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with the programs of a fake release; set $USERNSCTL_RUNSC to its runsc."""
    runsc = shutil.which("runsc")
    assert runsc is not None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("USERNSCTL_RUNSC", str(tmp_path / "runsc"))
    write(tmp_path / "runsc", RUNSC.format(label=LABEL, runsc=runsc))
    write(tmp_path / "gvisor-bin" / "gvisor_sentry", ONLY_VERSION.format(label=LABEL))
    write(tmp_path / "gvisor-bin" / "gvisor-sentry-prewarmer", "#!/bin/sh\n")
    return tmp_path


def test_complete_release_runs(usernsctl: Program, release: Path) -> None:
    assert usernsctl("run", "--", "echo", "ran").stdout == "ran\n"


def test_sidecar_directory_is_passed_to_runsc(
    usernsctl: Program, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (release / "gvisor-bin").rename(release / "other")
    monkeypatch.setenv("GVISOR_SIDECAR_BINARIES_DIR", str(release / "other"))
    told = "[ $GVISOR_SIDECAR_BINARIES_DIR = {} ] || exit 99\nexec"
    runsc = (release / "runsc").read_text()
    # Unset the environment variable, because the installed runsc must not use the fake release's
    # sidecar programs.
    told += " env -u GVISOR_SIDECAR_BINARIES_DIR"
    write(release / "runsc", runsc.replace("exec", told.format(release / "other")))
    done = usernsctl("run", "--", "echo", "ran")
    assert (done.stdout, done.stderr) == ("ran\n", "")


@pytest.mark.parametrize("what", ["missing", "closed", "older"])
def test_invalid_sidecar_is_reported_before_the_start(
    usernsctl: Program, release: Path, what: str
) -> None:
    program = release / "gvisor-bin" / "gvisor_sentry"
    match what:
        case "missing":
            program.unlink()
        case "closed":
            program.chmod(0o644)
        case "older":
            write(program, ONLY_VERSION.format(label="release-20260727.0"))
    done = usernsctl("run", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert f"[{CAUSE}]" in done.stderr
    assert "gvisor_sentry" in done.stderr


def test_launch_refuses_a_replaced_sidecar(prelude: Program, release: Path) -> None:
    """Check that a launch is rejected if a sidecar program was replaced after the freeze.

    Sidecar programs run outside gVisor.
    """
    runsc = release / "runsc"
    sentry = release / "gvisor-bin" / "gvisor_sentry"
    # Let the fake runsc execute one of its sidecar programs.
    write(runsc, runsc.read_text().replace("exec", f"{sentry} >/dev/null\nexec"))
    other = release / "gvisor-bin" / "runsc-fd-parking"
    write(other, "#!/bin/sh\n")
    launch = freeze(release / "launch", "--runsc", str(runsc))
    assert_ran(prelude("--launch", launch))
    planted = release / "planted"
    for program in (sentry, other):
        before = program.read_bytes()
        text = f"#!/bin/sh\n>{planted}\n"
        for attack in (text, text.ljust(len(before), "#"), None):
            program.unlink()
            if attack is not None:
                write(program, attack)
            assert_refused(prelude("--launch", launch), str(program), cause="launch-outdated")
            assert not planted.exists()
            program.write_bytes(before)
            program.chmod(0o755)
            assert_ran(prelude("--launch", launch))
