"""Tests of the type hints: mypy and basedpyright check calls of public functions."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import get_args, get_type_hints, is_typeddict

import pytest
from processes import capture

import usernsctl as un
from usernsctl import _core
from usernsctl._system import target
from usernsctl.commands import options
from usernsctl.gvisor.agent import commands
from usernsctl.gvisor.agent import options as sandbox_options
from usernsctl.gvisor.runsc import command

CALLS = Path(__file__).with_name("typed_calls.py")


STRICT_MYPY = ("mypy", "--strict", "--no-error-summary", "--hide-error-context")
# Run only in `make test-all`, because `make lint` also runs basedpyright, which checks that all
# public functions have types.
PYRIGHT = pytest.param(("basedpyright", "--level=error"), marks=pytest.mark.thorough)


@pytest.fixture(scope="module", params=[STRICT_MYPY, PYRIGHT])
def errors_by_line(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, str]:
    """Return the errors that a type checker reports for typed_calls.py, by line number."""
    # Copy the file elsewhere: the type checker must use the installed package, and not our
    # pyproject.toml.
    directory = tmp_path_factory.mktemp("types")
    (directory / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    calls = shutil.copy(CALLS, directory)
    done = capture(
        [sys.executable, "-m", *request.param, calls],
        cwd=directory,
        timeout=110,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        if report := re.match(r".*\btyped_calls\.py:(\d+):(?:\d+ -)? error: (.*)", line):
            number = int(report[1])
            found[number] = found.get(number, "") + report[2]
    assert found, done.stdout
    return found


def test_type_checkers_report_exactly_the_wrong_calls(errors_by_line: dict[int, str]) -> None:
    lines = enumerate(CALLS.read_text().splitlines(), 1)
    wrong = {number for number, line in lines if line.endswith("# type error")}
    assert len(wrong) == 75
    assert {number: errors_by_line[number] for number in errors_by_line.keys() - wrong} == {}
    assert wrong - errors_by_line.keys() == set()


def test_typed_namespace_keywords_are_complete() -> None:
    assert options.Kinds.__optional_keys__ == set(_core.NAMESPACES)
    assert options.KeptKinds.__optional_keys__ == set(target.KEPT)
    assert options.EnterableKinds.__optional_keys__ == set(target.ENTERABLE)


def test_typed_networks_and_platforms_are_complete() -> None:
    hints = get_type_hints(un.HostOptions)
    assert set(get_args(hints["network"])) == set(command.NETWORKS)
    (platform, _) = get_args(hints["platform"])
    assert set(get_args(platform)) == set(command.PLATFORMS)


def test_typed_keywords_of_sandbox_commands_are_complete() -> None:
    listed = [kind for kind in vars(sandbox_options).values() if is_typeddict(kind)]
    known = {key for kind in listed for key in kind.__annotations__}
    refused = {"preexec_fn", "shell", "startupinfo", "creationflags", *commands._REFUSED}
    assert known == commands._KEYWORDS - refused - {"args"} | {"limit"}
