"""Test that an editable installation can be imported and finds the native programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from processes import capture

TREE = Path(__file__).parents[2]
BUILT_FROM = ("csrc", "src", "setup.py", "pyproject.toml", "README.md")

# Program that calls the build backend as `pip install --editable` does (PEP 660).
BUILD = "import setuptools.build_meta as backend; print(backend.build_editable('wheel'))"

USE = """
import site, sys
site.addsitedir(sys.argv[1])
import usernsctl as un
print(un.__file__)
print(un.run(["id", "-u"], capture_output=True, text=True, check=True).stdout)
"""


# Set a long timeout: the build compiles all of csrc/, which can take minutes.
@pytest.mark.timeout(600)
@pytest.mark.userns_requires("userns")
@pytest.mark.thorough
def test_run_in_an_editable_installation(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in BUILT_FROM:
        source = TREE / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    (tree / "LICENSE").touch()
    (tree / "wheel").mkdir()
    # Compile with -Og, because the test checks only paths of files. Full optimization would take
    # 50 % longer.
    env = os.environ | {"CFLAGS": "-Og"}
    built = capture([sys.executable, "-c", BUILD], cwd=tree, env=env, timeout=None)
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    with zipfile.ZipFile(tree / "wheel" / built.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(site)
    # Directory of the packages that usernsctl needs, without the installed usernsctl.
    needed = tmp_path / "needed"
    needed.mkdir()
    for name in ("_cffi_backend", "msgspec", "prctl"):
        found = subprocess.check_output(
            [sys.executable, "-c", f"import {name}; print({name}.__file__)"], text=True
        )
        path = Path(found.strip())
        path = path.parent if path.name == "__init__.py" else path
        (needed / path.name).symlink_to(path)
    used = capture(
        [os.path.realpath(sys.executable), "-c", USE, site],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(needed)},
        cwd="/",
        timeout=None,
    )
    assert used.returncode == 0, used.stderr
    assert used.stdout.split() == [str(tree / "src/usernsctl/__init__.py"), "0"]
