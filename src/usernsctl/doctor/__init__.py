"""Diagnosis of a host: facts, probes, and the causes of failures with their remedies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, get_args

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
    """Try each step of starting a sandbox on this host; report the causes of failures.

    Each step is tried in a child process, which leaves no process, namespace or file behind.

    :param purpose: the use of the host: ``"run"``, ``"range"``, ``"docker"`` or ``"kubernetes"``.
        The use decides which findings are blocking.
    :param runsc: whether one of the steps runs a program in gVisor. This step takes longer than all
        others.
    :param root: the directory that contains proc, sys, etc and the other directories to read. The
        steps are always tried on this host.
    :param seconds: the timeout of all steps together, in seconds; by default 30.
    :returns: a report with the findings (each with a cause and remedies), the results of the steps,
        and the facts.
    :raises CommandError: the installation of this package is incomplete.
    :raises ValueError: `purpose` has another value.
    """
    if purpose not in (known := get_args(Purpose)):
        raise ValueError(f"purpose must be one of {', '.join(known)}, not {purpose!r}")
    report, _ = examine(purpose, runsc=runsc, root=root, seconds=seconds)
    return report


def examine(
    purpose: Purpose = "run",
    *,
    runsc: bool = True,
    root: str = "/",
    seconds: float | None = None,
) -> tuple[Report, tuple[Need, ...]]:
    """Return the report of :func:`diagnose`, and the settings that production use requires."""
    # Import these modules only here, because code that only reads the catalogue does not need them.
    from usernsctl.doctor.findings import attributed, findings
    from usernsctl.doctor.needs import needs
    from usernsctl.doctor.probes import DEADLINE, skip_all, try_all, try_own_calls
    from usernsctl.doctor.reading import read_facts

    seconds = DEADLINE if seconds is None else seconds
    deadline = time.monotonic() + seconds
    failed = try_own_calls()
    facts = read_facts(root, only_files=failed is not None, seconds=seconds / 2)
    probes = (
        try_all(facts, runsc=runsc, seconds=max(1.0, deadline - time.monotonic()))
        if failed is None
        else skip_all(facts, failed, runsc=runsc)
    )
    report = Report(
        purpose=purpose,
        findings=findings(facts, probes, purpose),
        probes=attributed(facts, probes),
        facts=facts.plain(),
    )
    return report, needs(facts, probes, purpose)
