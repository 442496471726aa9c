"""A report for programs; schema.json describes it."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Sequence
from typing import Any

from usernsctl.doctor import render
from usernsctl.doctor.findings_needs import Need
from usernsctl.doctor.model import Finding, Place, Probe, Report

#: Of the form, not of the program: it grows when something is taken away or changes its meaning.
VERSION = 1


def as_json(report: Report, needs: Sequence[Need]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "purpose": report.purpose,
        "ready": report.ready,
        "place": render.place(report),
        "findings": [_finding(finding, render.place(report)) for finding in report.findings],
        "probes": {name: _probe(probe) for name, probe in report.probes.items()},
        "settings": [dataclasses.asdict(need) for need in needs],
        "facts": dict(report.facts),
    }


def _finding(finding: Finding, where: Place) -> dict[str, Any]:
    cause = finding.cause
    return {
        "id": finding.id,
        "blocks": finding.blocks,
        "evidence": list(finding.evidence),
        "title": cause and cause.title,
        "why": cause and cause.why,
        "remedy": cause and render.remedy(cause, where),
        "reference": cause and cause.reference,
    }


def _probe(probe: Probe) -> dict[str, Any]:
    return {
        "outcome": probe.outcome,
        "errno": probe.errno,
        "error": errno.errorcode.get(probe.errno),
        "detail": probe.detail,
        "cause": probe.cause,
        "seconds": round(probe.seconds, 6),
    }
