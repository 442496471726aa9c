"""Tests of path lookups in a root filesystem that fail for reasons other than a missing path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from injecting import run_with

pytestmark = pytest.mark.userns_requires("strace")

# Program that looks up missing commands and directories in a root filesystem.
SCRIPT = """
import sys
from usernsctl._system.paths import open_program
from usernsctl.gvisor.launch import view
from usernsctl.maps import Extent, MappedIds

ids = (Extent(0, 0, 2**32 - 1),)
owners = MappedIds(uid=ids, gid=ids, become=(0, 0))
seen = view.View.of_root(open_program(sys.argv[1]), owners)
for name in ("absent", "/absent", "/bin/absent"):
    view.check(name, seen, search="/bin", cwd="/", caller={"PATH": "/nonexistent"})
    view.check_directory(seen, "/absent", "cwd", None)
print("not judged")
"""


@pytest.mark.parametrize("error", ["EMFILE", "EIO", "EACCES"])
def test_unreadable_directories_are_not_judged(tmp_path: Path, error: str) -> None:
    (tmp_path / "bin").mkdir()
    done = run_with(
        f"openat:error={error}",
        command=[sys.executable, "-c", SCRIPT, str(tmp_path)],
        path="absent",
    )
    assert (done.stdout, done.stderr) == ("not judged\n", "")
