"""Who uses the virtual machine, and what doctor tells them there."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from dataclasses import dataclass
from typing import Any

SCRIPTS = sysconfig.get_path("scripts")
USER = "usernsctl-test"
# The machine is emulated: what takes a tenth of a second elsewhere takes ten seconds here.
PATIENCE = 900
WITHIN = "300"


@dataclass(frozen=True)
class Login:
    """A user of the machine."""

    name: str

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Have the user run a command, one of usernsctl's by its name."""
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
        """What doctor says; `before` is what starts it."""
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


def typed_by_root(text: str) -> None:
    """What a remedy says, word by word."""
    subprocess.run(["sh", "-e", "-c", text], check=True, capture_output=True, timeout=PATIENCE)
