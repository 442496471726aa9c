"""Logins of the virtual machine's users, and doctor's reports to these users."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from dataclasses import dataclass
from typing import Any

SCRIPTS = sysconfig.get_path("scripts")
USER = "usernsctl-test"
# Timeout in seconds. The virtual machine is emulated, about a hundred times slower than the host.
PATIENCE = 900
WITHIN = "300"


@dataclass(frozen=True)
class Login:
    """Login of a user of the virtual machine; calling it runs a command as that user."""

    name: str

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, with usernsctl's programs in PATH."""
        become = ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups", "--"]
        done = subprocess.run(
            [*become, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": f"{SCRIPTS}:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"},
            timeout=PATIENCE,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def diagnose(self, *before: str, runsc: bool = True) -> dict[str, Any]:
        """Run doctor as the user, with the command prefix `before`; return its report."""
        words = ["usernsctl", "doctor", "--json", "--within", WITHIN]
        if not runsc:
            words.append("--no-runsc")
        done = self(*before, *words)
        assert done.returncode in (0, 1), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if found["ready"] else 1)
        return found


def blocking(report: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in report["findings"] if finding["blocks"]]


def remedy(report: dict[str, Any], cause_id: str) -> str:
    return next(one["remedy"] for one in report["findings"] if one["id"] == cause_id)


def run_as_root(text: str) -> None:
    """Run a remedy's command `text` as root, exactly as it was printed."""
    subprocess.run(["sh", "-e", "-c", text], check=True, capture_output=True, timeout=PATIENCE)
