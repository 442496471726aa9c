"""Running a real program in gVisor, and what runsc says if that fails."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from usernsctl.doctor.model import Probe
from usernsctl.doctor.probes import Step, try_steps

NAME = "runsc"

# How our commands name a cause: "  why: ... [id]" or "  cause: id".
_CAUSE = re.compile(r"^  (?:why: .*\[([a-z0-9-]+)\]|cause: ([a-z0-9-]+))$", re.MULTILINE)

# The end of what is said is where the reason is.
_SAID_MAX = 2000


def try_runsc(deadline: float) -> Probe:
    """Run a trivial program as ``usernsctl run`` does.

    :param deadline: as :func:`time.monotonic` counts.
    """
    with _debug_log() as log:
        command = [sys.executable, "-m", "usernsctl", "run"]
        command += ["--debug-log", log] if log else []
        step = Step(name=NAME, words=(*command, "--", "true"))
        probe = try_steps([step], deadline)[NAME]
        if probe.outcome == "ok":
            return dataclasses.replace(probe, detail="")
        named = _CAUSE.findall(probe.detail)
        said = [probe.detail[-_SAID_MAX:], *(_root_failures(log) if log else [])]
        return dataclasses.replace(
            probe, detail="\n".join(said), cause="".join(named[-1]) if named else None
        )


@contextlib.contextmanager
def _debug_log() -> Iterator[str | None]:
    """A directory for runsc's logs; ``None`` where none can be made, as on a read-only system."""
    try:
        directory = tempfile.TemporaryDirectory(prefix="usernsctl-doctor-")
    except OSError:
        yield None
        return
    with directory as path:
        yield path


def _root_failures(log: str) -> list[str]:
    """What runsc's processes wrote to their logs, and not to standard error, of known failures."""
    # Only who is in trouble should wait for all known messages to be read.
    from usernsctl.doctor.explain import explain

    lines: dict[str, None] = {}
    for entry in sorted(os.scandir(log), key=lambda entry: entry.name):
        with open(entry.path, "rb") as file:
            for candidate in explain(file).candidates:
                lines.update(dict.fromkeys(candidate.seen))
    return list(lines)
