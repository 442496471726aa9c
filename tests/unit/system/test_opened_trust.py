"""Test of is_trusted(), which decides by a symbolic link's owner whether to follow the link.

tests/c/launch/test_follow.c tests the decision in a namespace where root is not mapped.
"""

from __future__ import annotations

import os

import pytest

from usernsctl import _core

pytestmark = pytest.mark.also_root


def test_only_links_of_the_caller_and_root_are_trusted() -> None:
    for uid in (0, os.geteuid()):
        assert _core.is_trusted(uid, "/tmp/x/y")
    assert not _core.is_trusted(12345, "/tmp/x/y")
