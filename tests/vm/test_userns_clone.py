"""Tests of Debian's sysctl kernel.unprivileged_userns_clone at 0."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from logins import Login, blocking, remedy, typed_by_root

CAUSE = "unprivileged-userns-clone-off"

Sysctl = Callable[[str, int], None]


@pytest.mark.parametrize(
    "words",
    [
        ("usernsctl-exec", "-r", "--", "true"),
        ("usernsctl-exec", "-r", "--map-auto", "--", "true"),
        ("usernsctl", "run", "--", "true"),
        ("usernsctl", "run", "--map-auto", "--", "true"),
    ],
)
def test_each_command_names_it(user: Login, sysctl: Sysctl, words: tuple[str, ...]) -> None:
    sysctl("kernel/unprivileged_userns_clone", 0)
    done = user(*words)
    assert done.returncode == 125
    assert f"[{CAUSE}]" in done.stderr


def test_root_is_not_concerned(sysctl: Sysctl) -> None:
    sysctl("kernel/unprivileged_userns_clone", 0)
    assert Login("root")("usernsctl-exec", "-r", "--", "true").returncode == 0


def test_doctor_names_it_and_its_remedy_heals(user: Login, sysctl: Sysctl) -> None:
    sysctl("kernel/unprivileged_userns_clone", 0)
    report = user.diagnose(runsc=False)
    assert blocking(report) == [CAUSE]
    typed_by_root(remedy(report, CAUSE))
    assert user("usernsctl-exec", "-r", "--", "true").returncode == 0
