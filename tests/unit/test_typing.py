"""What a type checker knows of the public functions: mypy --strict, as a user would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from usernsctl import _core
from usernsctl._system import target
from usernsctl.commands import options

CALLS = Path(__file__).with_name("typed_calls.py")


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What mypy says of the calls: the number of a line, and the errors in it."""
    # Away from pyproject.toml, and from the sources: it looks at the installed package.
    directory = tmp_path_factory.mktemp("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={directory}/cache",
         "--no-error-summary", "--hide-error-context", CALLS],
        cwd=directory, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if told := re.match(rf"{re.escape(str(CALLS))}:(\d+): error: (.*)", line):
            number = int(told[1])
            found[number] = found.get(number, "") + told[2]
    assert found, done.stdout
    return found


def test_mypy_finds_wrong_calls_of_run_popen_spawn_and_no_others(
    complaints: dict[int, str],
) -> None:
    lines = enumerate(CALLS.read_text().splitlines(), 1)
    wrong = {number for number, line in lines if line.endswith("# wrong")}
    assert len(wrong) == 42
    assert {number: complaints[number] for number in complaints.keys() - wrong} == {}
    assert wrong - complaints.keys() == set()


def test_type_checkers_know_the_namespaces_that_there_are() -> None:
    assert options.Kinds.__optional_keys__ == set(_core.NAMESPACES)
    assert options.KeptKinds.__optional_keys__ == set(target.KEPT)
    assert options.EnterableKinds.__optional_keys__ == set(target.ENTERABLE)
