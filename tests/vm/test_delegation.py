"""Tests of cgroups v2 that systemd delegates to a user."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from logins import USER, Login

TREE = Path(__file__).parent.parent.parent


NOT_DELEGATED = "cgroup-not-delegated"

#: Command prefix with which a user's systemd starts a command in a delegated control group.
DELEGATED = ["systemd-run", f"--machine={USER}@.host", "--user", "--quiet", "--pipe", "--wait"]
DELEGATED += ["--collect", "-p", "Delegate=yes", "--setenv=PATH", "--setenv=LANG", "--", "env"]


def test_doctor_sees_a_delegated_control_group(user: Login) -> None:
    probe = Login("root").diagnose(*DELEGATED, runsc=False)["probes"]["cgroup"]
    assert probe["outcome"] == "ok", probe
    assert user.diagnose(runsc=False)["probes"]["cgroup"]["cause"] == NOT_DELEGATED


def test_commands_start_in_control_groups_created_by_a_user() -> None:
    """Check that tests/kernel/test_cgroup.py passes in a user's delegated control group."""
    pytest_ = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    at = [f"--chdir={TREE}"]
    words = [*pytest_, "-o", "timeout=600", "-rs", "tests/kernel/test_cgroup.py"]
    done = Login("root")(*DELEGATED, *at, *words)
    print(done.stdout)
    assert done.returncode == 0
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 20  # type: ignore[index]
    reasons = set(re.findall(r"^SKIPPED .*: (.*)$", done.stdout, re.MULTILINE))
    # Accepted reasons for skipped tests. Tests that create control groups for other users as root
    # need no delegation, and so may be skipped.
    allowed = {"only root, outside of containers, may map any id"}
    # Some tests need controllers in child groups, which a control group that contains processes,
    # such as the tests' own, can't enable.
    allowed.add("no controller is enabled for the groups here")
    assert reasons <= allowed
