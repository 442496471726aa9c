"""Running a real program in gVisor."""

from __future__ import annotations

import dataclasses
import re

from usernsctl import isolated
from usernsctl.doctor.model import Probe
from usernsctl.doctor.probes import Step, try_steps

NAME = "runsc"

# How our commands name a cause: "  why: ... [id]" or "  cause: id".
_CAUSE = re.compile(r"^  (?:why: .*\[([a-z0-9-]+)\]|cause: ([a-z0-9-]+))$", re.MULTILINE)

# The end of what is said is where the reason is.
_SAID_MAX = 2000


def try_runsc(deadline: float) -> Probe:
    """Run a trivial program as ``usernsctl run`` does, which says itself why runsc fails.

    :param deadline: as :func:`time.monotonic` counts.
    """
    command = isolated.command("usernsctl", "run", "--no-terminal", "--", "true")
    probe = try_steps([Step(name=NAME, words=tuple(command))], deadline)[NAME]
    if probe.outcome == "ok":
        return dataclasses.replace(probe, detail="")
    named = _CAUSE.findall(probe.detail)
    # The rest is what we say of that cause ourselves.
    said = "\n".join(line for line in probe.detail.split("\n") if not line.startswith("  "))
    return dataclasses.replace(
        probe, detail=said[-_SAID_MAX:], cause="".join(named[-1]) if named else None
    )
