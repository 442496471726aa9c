"""Fixtures for tests in the virtual machine: a user's login, and sysctls that can be set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logins import USER, Login


@pytest.fixture
def user() -> Login:
    """Return the login of a user with subordinate id ranges."""
    return Login(USER)


@pytest.fixture
def sysctl() -> Iterator[Callable[[str, int], None]]:
    """Yield a function that sets a sysctl; then restore the old values."""
    before: dict[Path, str] = {}

    def write(name: str, value: int) -> None:
        file = Path("/proc/sys") / name
        before.setdefault(file, file.read_text())
        file.write_text(str(value))

    yield write
    for file, value in before.items():
        file.write_text(value)
