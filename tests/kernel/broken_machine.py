"""Commands that run with misconfigurations applied by causes/broken.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from callers import may_map_any_id
from processes import capture

BROKEN = Path(__file__).parent / "causes" / "broken.py"
SCRIPTS = Path(sysconfig.get_path("scripts"))
PRELUDE = str(SCRIPTS / "usernsctl-exec")
USERNSCTL = str(SCRIPTS / "usernsctl")

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
UNSUPPORTED = 77


def run_broken(
    ways: Sequence[str], command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with the misconfigurations `ways`; return the result.

    If root runs the tests, the command runs as NOBODY. The test is skipped if the misconfigurations
    are impossible on this host.
    """
    if os.geteuid() == 0 and not may_map_any_id():
        pytest.skip("root of a container can neither mount nor become everybody")
    done = capture(
        [sys.executable, BROKEN, *ways, "--", *command], env=ENVIRONMENT if env is None else env
    )
    if done.returncode == UNSUPPORTED:
        pytest.skip(done.stderr.strip())
    assert "Traceback" not in done.stderr, done.stderr
    return done


# Raise doctor's timeout: on an emulated CPU, doctor would exceed the default timeout and skip
# probes.
DOCTOR = [USERNSCTL, "doctor", "--within", "300"]


class Diagnosis:
    """Report of doctor on a host with the misconfigurations `ways`."""

    def __init__(self, ways: Sequence[str], purpose: str = "run", *options: str) -> None:
        command = [*DOCTOR, "--json", "--for", purpose, *options]
        done = run_broken(ways, command)
        assert done.stderr == ""
        self.status = done.returncode
        self.report: dict[str, Any] = json.loads(done.stdout)

    @property
    def ids(self) -> list[str]:
        return [finding["id"] for finding in self.report["findings"]]

    @property
    def blocking(self) -> list[str]:
        return [finding["id"] for finding in self.report["findings"] if finding["blocks"]]


def diagnose(ways: Sequence[str], purpose: str = "run") -> Diagnosis:
    return Diagnosis(ways, purpose, "--no-runsc")


def named_by_command(ways: Sequence[str], *options: str) -> str:
    """Return the cause that usernsctl-exec reports on a host with the misconfigurations `ways`."""
    done = run_broken(ways, [PRELUDE, *options, "--", "true"])
    assert done.returncode == 125, done
    named = re.findall(r"^  why: .* \[([a-z0-9-]+)\]$", done.stderr, re.MULTILINE)
    assert len(named) == 1, done.stderr
    return str(named[0])
