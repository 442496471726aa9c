"""Tests of the causes and remedies in the errors of `usernsctl ns`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SCRIPTS, Program
from processes import check_output

from usernsctl.namespaces import named

pytestmark = pytest.mark.each_user


@pytest.fixture(autouse=True)
def state(runtime: Path) -> Iterator[Path]:
    """Yield the state directory; afterwards, remove the namespaces that the test has left."""
    yield runtime / "usernsctl"
    for left in named.list_named():
        named.remove_named(left.name)


@pytest.mark.parametrize(
    ("name", "mode", "command", "cause"),
    [
        ("web", 0o700, ["exec", "db", "--", "true"], "no-such-namespace"),
        ("web", 0o700, ["create", "web"], "name-taken"),
        ("web", 0o755, ["list"], "state-directory-unusable"),
    ],
)
def test_a_failure_is_named_and_ended_by_the_remedy(
    usernsctl: Program, state: Path, name: str, mode: int, command: list[str], cause: str
) -> None:
    assert usernsctl("ns", "create", name).stderr == ""
    state.chmod(mode)
    failed = usernsctl("ns", *command)
    assert (failed.returncode, failed.stdout) == (125, "")
    assert f" [{cause}]\n" in failed.stderr
    found = re.search(r"^  remedy:\s+(.+)", failed.stderr, re.MULTILINE)
    assert found is not None
    script = f'PATH={SCRIPTS}:$PATH\n{found[1]}\nexec usernsctl ns "$@"'
    check_output(["sh", "-c", script, "sh", *command])


@pytest.mark.parametrize("name", ["a/b", "..", "-x", "", "n" * 65])
def test_an_invalid_name_is_named_as_such(usernsctl: Program, name: str) -> None:
    failed = usernsctl("ns", "create", "--", name)
    assert failed.returncode == 125
    assert "[name-invalid]\n  remedy: # choose another name, such as web-1" in failed.stderr
