"""Whose files may lead us anywhere, also where root has no id."""

from __future__ import annotations

import os

import pytest

from usernsctl._system import opened

pytestmark = pytest.mark.each_user

OVERFLOW = 65534


def test_the_caller_and_root_are_trusted_everywhere() -> None:
    for uid in (0, os.geteuid()):
        assert opened.is_trusted(uid, "/tmp/x/y")
    assert not opened.is_trusted(12345, "/tmp/x/y")


@pytest.mark.parametrize(
    ("path", "trusted"),
    [
        ("/", True),
        ("/bin", True),
        ("/tmp", True),
        ("/usr/lib/x", True),
        ("/etc/alternatives/x", True),
        ("/var/tmp", True),
        ("/run/user", True),
        ("/tmp/x", False),
        ("/home/user", False),
        ("/var/tmp/x", False),
        ("/run/user/1000", False),
        ("/opt/x", False),
    ],
)
def test_where_root_has_no_id_only_its_own_places_are(
    path: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others who have none show the same id."""
    real = os.stat

    def stat(name: object, *args: object, **kwargs: object) -> object:
        found = real(name, *args, **kwargs)  # type: ignore[call-overload]
        if name != "/":
            return found
        return os.stat_result([*found[:4], OVERFLOW, *found[5:10]])

    monkeypatch.setattr(os, "stat", stat)
    assert opened.is_trusted(OVERFLOW, path) == trusted
