"""Test of the package gvisor, which starts runsc itself, in a namespace created by usernsctl.

A separate process imports the package, since the tests have a helper module of the same name.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gvisor
import pytest
from conftest import SCRIPTS
from processes import capture

PROGRAM = """
from gvisor import Sandbox
with Sandbox() as box:
    print(box.exec("cat", "/proc/version"))
"""
# runsc waits until its orphaned children are reaped. With --init, PID 1 of the namespace reaps the
# children. Without --init, the children would be reparented to pytest, which does not reap them.
NAMESPACE = [SCRIPTS / "usernsctl-exec", "-c", "-m", "--init", "--mount-proc", "--"]


def test_gvisor_package_works_in_a_namespace() -> None:
    done = capture([*NAMESPACE, sys.executable, "-I", "-c", PROGRAM], input="", timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert gvisor.BUILD in done.stdout


@pytest.mark.skipif(
    "USERNSCTL_GVISOR_TESTS" not in os.environ, reason="PyPI's package lacks its tests"
)
def test_gvisor_package_passes_its_tests() -> None:
    tests = Path(os.environ["USERNSCTL_GVISOR_TESTS"])
    done = capture([*NAMESPACE, sys.executable, "-I", tests], input="", timeout=300)
    assert done.returncode == 0, done.stderr
