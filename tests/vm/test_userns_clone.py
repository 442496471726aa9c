"""Tests with Debian's sysctl kernel.unprivileged_userns_clone set to 0."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from logins import Login, blocking, remedy, run_as_root

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
def test_each_command_fails_with_unprivileged_userns_clone_off(
    user: Login, sysctl: Sysctl, words: tuple[str, ...]
) -> None:
    sysctl("kernel/unprivileged_userns_clone", 0)
    done = user(*words)
    assert done.returncode == 125
    assert f"[{CAUSE}]" in done.stderr


def test_sysctl_does_not_affect_root(sysctl: Sysctl) -> None:
    sysctl("kernel/unprivileged_userns_clone", 0)
    assert Login("root")("usernsctl-exec", "-r", "--", "true").returncode == 0


def test_remedy_of_doctor_enables_namespaces(user: Login, sysctl: Sysctl) -> None:
    sysctl("kernel/unprivileged_userns_clone", 0)
    report = user.diagnose(runsc=False)
    assert blocking(report) == [CAUSE]
    run_as_root(remedy(report, CAUSE))
    assert user("usernsctl-exec", "-r", "--", "true").returncode == 0
