"""Output formats of doctor's report for pipes: plain text, a shell script, and JSON."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Any

from usernsctl._lean import asdict
from usernsctl._text import quoted
from usernsctl.doctor.findings import STANDS_IN_THE_WAY_OF
from usernsctl.doctor.needs import Need
from usernsctl.doctor.remedies import FOR_SHELL, by_hand, is_sentence, remedy, typed
from usernsctl.explain.model import Finding, Place, Probe, Purpose, Report
from usernsctl.explain.printing import wrapped
from usernsctl.gvisor.launch.network import PROGRAMS

_LABEL = 9

WHAT: dict[Purpose, str] = {
    "run": "a command in gVisor",
    "range": "a map of more than one id",
    "docker": "a command in gVisor, in a Docker container",
    "kubernetes": "a command in gVisor, in a Kubernetes Pod",
}

_PLACES: dict[str, Place] = {"docker": "docker", "podman": "podman", "kubernetes": "kubernetes"}


def place(report: Report) -> Place:
    """Return the place for which the report shows remedies: a container engine or the host.

    The engine of the container in which this process runs takes precedence over the engine that the
    report's purpose names.
    """
    container = report.facts.get("container")
    engine = container.get("engine") if isinstance(container, dict) else None
    return _PLACES.get(str(engine)) or _PLACES.get(report.purpose) or "host"


def headline(report: Report) -> str:
    """Return a one-line summary of a report."""
    what = WHAT[report.purpose]
    blocking = sum(finding.blocks for finding in report.findings)
    warnings = len(report.findings) - blocking
    also = f", {_count(warnings, 'warning')}" if warnings else ""
    if blocking:
        return f"Not ready for {what}: {_count(blocking, 'cause')}{also}"
    return f"Ready for {what}{also}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def title(finding: Finding) -> str:
    """Return the id and the title of a finding's cause, in one line."""
    if finding.cause is None:
        return "unknown: nothing in the catalogue matches"
    return f"{finding.id}: {finding.cause.title}"


def plain(report: Report, needs: Sequence[Need]) -> str:
    """Return the report as text, wrapped at 80 columns except for commands."""
    lines = [headline(report)]
    for number, finding in enumerate(report.findings, 1):
        lines += ["", *_finding(number, finding, report)]
    lines += ["", "Tried:"]
    for probe in report.probes.values():
        lines += _probe(probe, report.purpose)
    lines += ["", "Settings:"]
    for need in needs:
        lines += _need(need)
    return "\n".join(lines) + "\n"


def _finding(number: int, finding: Finding, report: Report) -> Iterator[str]:
    kind = "blocks" if finding.blocks else "warning"
    yield from wrapped(f"{number}. {title(finding)} ({kind})", "   ")
    for evidence in finding.evidence:
        for index, line in enumerate(evidence.split("\n")):
            yield from _labelled("" if index else "seen", line)
    if finding.cause is None:
        yield from _labelled("next", "usernsctl doctor --json prints all facts and probe results")
        return
    yield from _labelled("why", finding.cause.why)
    lines = remedy(report, finding.cause, place(report)).split("\n")
    yield f"   {'remedy':<{_LABEL}}" + f"\n   {'':<{_LABEL}}".join(lines)
    yield from _labelled("see", finding.cause.reference)


def _labelled(label: str, text: str) -> list[str]:
    return wrapped(f"   {label:<{_LABEL}}{text}", " " * (_LABEL + 3))


def outcome(probe: Probe, purpose: Purpose) -> str:
    """Return the outcome of a probe, or "advice" if its failure does not block `purpose`."""
    blocks = purpose in STANDS_IN_THE_WAY_OF.get(probe.name, ())
    return "advice" if probe.outcome == "failed" and not blocks else probe.outcome


def reason(probe: Probe) -> str:
    """Return, in one line, the reason for a failed or skipped probe, or a program's version."""
    if probe.outcome == "ok":
        return probe.detail if probe.name in PROGRAMS else ""
    parts = [f"[{probe.cause}]"] if probe.cause else []
    return " ".join([*parts, probe.detail.split("\n")[0]])


def _probe(probe: Probe, purpose: Purpose) -> Iterator[str]:
    line = f"   {outcome(probe, purpose):<8}{probe.name:<16} {reason(probe)}"
    yield from wrapped(line.rstrip(), " " * 28)


def _need(need: Need) -> Iterator[str]:
    yield from wrapped(f"   {need.state:<8}{need.name}: {need.found}", " " * 11)
    if need.state != "met":
        yield from wrapped(f"{'':<11}wanted: {need.wanted}", " " * 11)


_HEAD = """#!/bin/sh
# Remedies for the findings of usernsctl doctor. Read this script before you run it, and replace
# words in capital letters.
set -eu
"""


def as_script(report: Report) -> str:
    """Return the report as a script for sh(1), in which all lines but commands are comments."""
    lines = [_HEAD.rstrip("\n"), f"# {headline(report)}"]
    if any(_asked(report, finding) for finding in report.findings):
        lines += ["", _ASK.rstrip("\n")]
    for finding in report.findings:
        lines += ["", *_script_finding(finding, report)]
    return "\n".join(lines) + "\n"


# An empty answer, or end of file on standard input, counts as no, so that nothing is changed.
_ASK = """
ask() {
    printf '%s [y/N] ' "$1"
    read -r answer || answer=
    [ "$answer" = y ]
}
"""


def _asked(report: Report, finding: Finding) -> str:
    """Return the commands that the script offers to run for a finding, or "" if there are none."""
    if finding.cause is None:
        return ""
    found = remedy(report, finding.cause, place(report))
    # Leave out commands that must run in the user's own shell: the script runs in another shell.
    is_read = is_sentence(finding.cause, found) or by_hand(finding.cause, found)
    return found if not (found.startswith(FOR_SHELL) or is_read) and typed(found) else ""


def _script_finding(finding: Finding, report: Report) -> Iterator[str]:
    kind = "blocks" if finding.blocks else "warning"
    yield from _comment(f"{title(finding)} ({kind})")
    for evidence in finding.evidence:
        for line in evidence.split("\n"):
            yield from _comment(f"seen: {line}")
    if finding.cause is None:
        yield from _comment("no remedy is known")
        return
    yield from _comment(f"why: {finding.cause.why}")
    text = remedy(report, finding.cause, place(report))
    if asked := _asked(report, finding):
        question = quoted(f"{title(finding)}. Type {'; '.join(typed(asked))}?")
        yield f"if ask {question}; then"
        yield from (f"    {line}" for line in asked.splitlines())
        yield "fi"
    elif text.startswith(FOR_SHELL):
        yield from _comment(f"remedy, in the shell that starts the command: {text}")
    elif is_sentence(finding.cause, text) or by_hand(finding.cause, text):
        reason = by_hand(finding.cause, text)
        yield from _comment(f"by hand, since {reason}:" if reason else "by hand:")
        for line in text.split("\n"):
            yield from _comment(line.removeprefix("# "))
    else:
        yield from text.split("\n")


def _comment(text: str) -> list[str]:
    return wrapped(f"# {text}", "# ")


#: Version of the JSON format, incremented when a member is removed or changes its meaning.
VERSION = 1


def as_json(report: Report, needs: Sequence[Need]) -> dict[str, Any]:
    """Return the report in the JSON format that ``doctor/schema.json`` describes."""
    return {
        "version": VERSION,
        "purpose": report.purpose,
        "ready": report.ready,
        "place": place(report),
        "findings": [_json_finding(finding, report) for finding in report.findings],
        "probes": {name: _json_probe(probe) for name, probe in report.probes.items()},
        "settings": [asdict(need) for need in needs],
        "facts": dict(report.facts),
    }


def _json_finding(finding: Finding, report: Report) -> dict[str, Any]:
    cause = finding.cause
    return {
        "id": finding.id,
        "blocks": finding.blocks,
        "evidence": list(finding.evidence),
        "title": cause and cause.title,
        "why": cause and cause.why,
        "remedy": cause and remedy(report, cause, place(report)),
        "reference": cause and cause.reference,
    }


def _json_probe(probe: Probe) -> dict[str, Any]:
    return {
        "outcome": probe.outcome,
        "errno": probe.errno,
        "error": errno.errorcode.get(probe.errno),
        "detail": probe.detail,
        "cause": probe.cause,
        "seconds": round(probe.seconds, 6),
    }
