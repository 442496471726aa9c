"""Who has not imported typing pays nothing for annotations; who has, can read them."""

from __future__ import annotations

import subprocess
import sys
import typing

import usernsctl as un
from usernsctl import maps

WITHOUT = """
import sys
import usernsctl.cli.run, usernsctl.gvisor.launch
assert "typing" not in sys.modules
import typing, usernsctl.maps
assert typing.get_type_hints(usernsctl.maps.IdMap)["fill_users"] is str
"""


def test_annotations_can_be_read() -> None:
    hints = typing.get_type_hints(un.IdMap)
    assert hints["fill_users"] is maps.Fill
    assert "subids" in typing.get_args(maps.Fill)


def test_typing_is_not_imported_for_nobody() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
