"""Tests that Python children import the parent's package, however it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import usernsctl
from usernsctl._system.python_child import command
from usernsctl.errors import CommandError

PACKAGE = Path(usernsctl.__file__).parent
INSTALLED = PACKAGE.parent

# Program that starts a child with python_child; the child imports all modules of the subcommand
# `run`.
ASK = """
import subprocess, sys
from usernsctl._system import python_child
print(python_child.__file__)
words = python_child.command("usernsctl", "run", "--help")
done = subprocess.run(words, cwd="/", env={}, capture_output=True, text=True)
print(done.returncode, "Usage: usernsctl run" in done.stdout, done.stderr)
"""


def run(words: list[str], **options: object) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def on_pythonpath(home: Path) -> dict[str, str]:
    """Put package and dependencies into two directories; return an environment with PYTHONPATH."""
    package, needed = home / "package", home / "needed"
    package.mkdir()
    needed.mkdir()
    for entry in INSTALLED.iterdir():
        if entry.name not in ("sitecustomize.py", "__pycache__") and entry.suffix != ".pth":
            (package if entry == PACKAGE else needed).joinpath(entry.name).symlink_to(entry)
    return {"PYTHONPATH": f"{package}:{needed}"}


def user_site(home: Path) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return home / ".local" / "lib" / version / "site-packages"


def in_user_site(home: Path) -> dict[str, str]:
    user_site(home).parent.mkdir(parents=True)
    user_site(home).symlink_to(INSTALLED)
    return {"HOME": str(home)}


def editable(home: Path) -> dict[str, str]:
    """Put the package into a directory that a .pth file names; return an environment with HOME.

    The .pth file is in the user's site-packages below HOME, together with the package's
    dependencies.
    """
    on_pythonpath(home)
    user_site(home).parent.mkdir(parents=True)
    (home / "needed").rename(user_site(home))
    (user_site(home) / "editable.pth").write_text(f"{home / 'package'}\n")
    return {"HOME": str(home)}


@pytest.mark.parametrize("installation", [on_pythonpath, in_user_site, editable])
def test_child_finds_the_package_of_its_parent(
    installation: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    environ = installation(tmp_path)
    # Use the base interpreter, which does not find the packages of the virtual environment.
    base = os.path.realpath(sys.executable)
    probe = subprocess.run([base, "-I", "-c", "import usernsctl"], capture_output=True, timeout=60)
    if probe.returncode == 0:
        pytest.skip("the interpreter itself has this package")
    found, status = run([base, "-c", ASK], env=environ, cwd="/").splitlines()[:2]
    assert found.startswith(str(tmp_path))
    assert status == "0 True "


def test_child_prefers_the_package_of_its_parent(tmp_path: Path) -> None:
    """Check that a child imports its parent's package, not another copy in PYTHONPATH."""
    copy = tmp_path / "usernsctl"
    copy.mkdir()
    for entry in PACKAGE.iterdir():
        if entry.name not in ("__main__.py", "_system"):
            (copy / entry.name).symlink_to(entry)
    shutil.copytree(PACKAGE / "_system", copy / "_system")
    (copy / "__main__.py").write_text("print(__file__)")
    start = (
        "import subprocess; from usernsctl._system import python_child; "
        "subprocess.run(python_child.command('usernsctl'))"
    )
    output = run([sys.executable, "-c", start], env={"PYTHONPATH": str(tmp_path)}, cwd="/")
    assert output == f"{copy}/__main__.py\n"


def test_current_directory_is_not_in_the_search_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("")
    monkeypatch.chdir(tmp_path)
    for entry in ("", ".", str(tmp_path), f"{tmp_path}/../{tmp_path.name}"):
        monkeypatch.setattr(sys, "path", [entry, *sys.path])
        words = command("usernsctl", "run")
        assert words[-2:] == ["usernsctl", "run"]
        places = words[3:-2]
        assert str(INSTALLED) in places
        assert not [place for place in places if tmp_path.samefile(place)]


def test_unknown_interpreter_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(CommandError, match="interpreter"):
        command("usernsctl")


def test_only_python_child_starts_the_interpreter() -> None:
    """Check that only python_child, which sets the search path, starts Python."""
    starts = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if "sys.executable" in file.read_text()
    ]
    # Files that use the interpreter's path for other purposes: to read or bind-mount the
    # interpreter, or to write its path into a script.
    others = [
        "bigframe.py",
        "cli/wrap.py",
        "gvisor/runsc/find.py",
        "gvisor/template/interpreter.py",
        "profiles/__init__.py",
    ]
    assert sorted(starts) == ["_system/python_child.py", *others]
