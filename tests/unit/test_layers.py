"""Test that import-linter reports violations of the layers in pyproject.toml."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from processes import capture

TREE = Path(__file__).parents[2]
CHECK = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(TREE / "src", tmp_path / "src")
    shutil.copy(TREE / "pyproject.toml", tmp_path)
    return tmp_path


def violation_report(tree: Path) -> str:
    """Run import-linter on a tree with a violation; return the report."""
    done = capture(CHECK, cwd=tree, env={"PYTHONPATH": str(tree / "src"), "COLUMNS": "200"})
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text()}\n{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        "import usernsctl.cli.run",
        "def late() -> None:\n    import usernsctl.cli.run",
        "if TYPE_CHECKING:\n    import usernsctl.cli.run",
    ],
)
def test_upward_import_is_reported(tree: Path, line: str) -> None:
    append(tree / "src/usernsctl/maps.py", line)
    output = violation_report(tree)
    assert "usernsctl.maps is not allowed to import usernsctl.cli" in output


def test_import_cycle_within_a_package_is_reported(tree: Path) -> None:
    append(
        tree / "src/usernsctl/gvisor/sandbox/records.py", "import usernsctl.gvisor.sandbox.detached"
    )
    assert "no circles BROKEN" in violation_report(tree)
