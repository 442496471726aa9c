"""Why it fails here: facts, probes, the catalogue of causes, and what mends each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from usernsctl.explain.model import Cause, Finding, Probe, Purpose, Report

if TYPE_CHECKING:
    from usernsctl.doctor.needs import Need


__all__ = ["Cause", "Finding", "Probe", "Purpose", "Report", "diagnose", "examine"]


def diagnose(
    purpose: Purpose = "run",
    *,
    runsc: bool = True,
    root: str = "/",
    seconds: float | None = None,
) -> Report:
    """Find out what works here, and why what does not.

    Each step of the set-up is tried in a child that is thrown away; nothing is left behind.

    :param purpose: what somebody wants to do; it decides what of all that is wrong blocks.
    :param runsc: whether a program is run in gVisor too, which takes the most time.
    :param root: the directory whose proc, sys and etc the facts are read from. The steps are always
        tried on this machine.
    :param seconds: how long all trials may take together; by default 30.
    :raises CommandError: the installation of this package is incomplete.
    """
    report, _ = examine(purpose, runsc=runsc, root=root, seconds=seconds)
    return report


def examine(
    purpose: Purpose = "run",
    *,
    runsc: bool = True,
    root: str = "/",
    seconds: float | None = None,
) -> tuple[Report, tuple[Need, ...]]:
    """The same, and which settings of the machine, and of its containers, are as they must be."""
    # Whoever wants the catalogue only should not wait for these.
    from usernsctl.doctor.findings import attributed, findings
    from usernsctl.doctor.needs import needs
    from usernsctl.doctor.probes import DEADLINE, try_all
    from usernsctl.doctor.reading import read_facts

    deadline = time.monotonic() + (DEADLINE if seconds is None else seconds)
    facts = read_facts(root)
    probes = try_all(facts, runsc=runsc, seconds=max(1.0, deadline - time.monotonic()))
    report = Report(
        purpose=purpose,
        findings=findings(facts, probes, purpose),
        probes=attributed(facts, probes),
        facts=facts.plain(),
    )
    return report, needs(facts, probes, purpose)
