"""What the tests in the virtual machine share: root sets the machine up, and a user meets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from logins import USER, Login


@pytest.fixture
def user() -> Login:
    """A user with subordinate ranges."""
    return Login(USER)


@pytest.fixture
def sysctl() -> Iterator[Callable[[str, int], None]]:
    """Sets a sysctl for the time of a test."""
    before: dict[Path, str] = {}

    def write(name: str, value: int) -> None:
        file = Path("/proc/sys") / name
        before.setdefault(file, file.read_text())
        file.write_text(str(value))

    yield write
    for file, value in before.items():
        file.write_text(value)
