"""Helper functions for the tests of Namespace and of named namespaces."""

from __future__ import annotations

import os
import sys

import pytest
from inside import PATIENCE
from processes import capture

import usernsctl as un

ROOT = os.geteuid() == 0
LINK = ["readlink", "/proc/self/ns/user"]
WHO = ["sh", "-c", "id -u; id -g; id -G"]


# An id map without the caller's ids.
MAP_WITHOUT_US = (
    un.IdMap.extents(["0:100000:10"], ["0:200000:10"])
    if ROOT
    else un.IdMap(fill_users="auto", fill_groups="auto")
)
# Mark of tests that use MAP_WITHOUT_US.
without_us = pytest.mark.userns_requires("userns" if ROOT else "subid")


def in_python(script: str, *arguments: str, status: int = 0) -> str:
    """Run a script in a new, single-threaded Python process; return its output."""
    done = capture(
        [sys.executable, "-c", "import os, sys\nimport usernsctl as un\n" + script, *arguments],
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (status, ""), done.stderr
    return done.stdout
