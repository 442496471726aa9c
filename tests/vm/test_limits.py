"""Tests of hard limits (getrlimit(2)), which only a process with CAP_SYS_RESOURCE can raise."""

from __future__ import annotations

import json
import subprocess

import pytest
from logins import SCRIPTS, USER, WITHIN, blocking, remedy, run_as_root

#: Shell script that the user executes. It runs doctor, waits until root has applied the remedy, and
#: then runs a command in gVisor.
SHELL = f"""
usernsctl doctor --json --within {WITHIN} | tr -d '\\n'
echo
read -r line
exec usernsctl run -- echo ran
"""


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (["--nofile=64:64"], "descriptor-limit"),
        # --as sets the soft and the hard limit, and only root can raise the hard limit. --data sets
        # only the soft limit.
        (["--as=1073741824:1073741824", "--data=1073741824:"], "address-space-limit"),
    ],
)
def test_remedy_typed_by_root_raises_the_limits_of_the_shell(limits: list[str], cause: str) -> None:
    become = ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", "--"]
    shell = subprocess.Popen(
        [*become, "prlimit", *limits, "--", "sh", "-c", SHELL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={"PATH": f"{SCRIPTS}:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"},
    )
    try:
        report = json.loads(shell.stdout.readline())
        assert blocking(report) == [cause]
        typed = remedy(report, cause)
        assert typed.startswith(f"prlimit --pid {shell.pid} ")
        run_as_root(typed)
        output, errors = shell.communicate("\n")
    finally:
        shell.kill()
    assert (shell.returncode, output, errors) == (0, "ran\n", "")
