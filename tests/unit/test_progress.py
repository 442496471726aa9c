"""Tests of demo/run's progress messages, which are printed only on a terminal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from processes import check_output
from terminals import on_terminal

TREE = Path(__file__).resolve().parents[2]
STEPS = ["[1 of 3]", "[2 of 3]", "[3 of 3]"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a new tree with demo/run and with fast fakes of the programs that it calls."""
    shutil.copytree(TREE / "demo", tmp_path / "demo")
    (tmp_path / "tools").mkdir()
    for name in ("tools/environment", "tools/user", "tools/as-user", "id"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 1000\n" if name == "id" else "#!/bin/sh\necho done\n")
        program.chmod(0o755)
    return tmp_path


def environ(tree: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{tree}:{os.environ['PATH']}", "TERM": "xterm", **more}


def test_steps_are_shown_on_a_terminal(tree: Path) -> None:
    status, output = on_terminal([tree / "demo" / "run"], environ(tree))
    assert status == 0
    lines = output.splitlines()
    assert [line[:8] for line in lines if line.startswith("[")] == STEPS
    assert lines[-1] == "done"
    assert max(map(len, lines)) <= 100


def test_dumb_terminals_and_pipes_show_no_progress(tree: Path) -> None:
    assert on_terminal([tree / "demo" / "run"], environ(tree, TERM="dumb")) == (0, "done\r\n")
    assert check_output([tree / "demo" / "run"], env=environ(tree)) == "done\n"
