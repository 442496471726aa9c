"""A report for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from usernsctl.doctor import render
from usernsctl.doctor.findings_needs import Need
from usernsctl.doctor.model import Finding, Place, Report

_STYLES = {
    "ok": "green",
    "met": "green",
    "failed": "red",
    "unmet": "red",
    "skipped": "yellow",
    "open": "yellow",
}


def show(report: Report, needs: Sequence[Need]) -> None:
    """Print it to standard output."""
    console = Console(highlight=False)
    console.print(Text(render.headline(report), "bold green" if report.ready else "bold red"))
    for finding in report.findings:
        console.print(_finding(finding, render.place(report)))
    tried = _table("tried", "", "")
    for probe in report.probes.values():
        outcome = Text(probe.outcome, _STYLES[probe.outcome])
        tried.add_row(probe.name, outcome, Text(render.said(probe)))
    console.print(tried)
    settings = _table("setting", "", "found", "wanted")
    for need in needs:
        wanted = "" if need.state == "met" else need.wanted
        state = Text(need.state, _STYLES[need.state])
        settings.add_row(Text(need.name), state, Text(need.found), Text(wanted))
    console.print(settings)


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading)
    return table


def _finding(finding: Finding, where: Place) -> Panel:
    body = Table.grid(padding=(0, 2, 0, 0))
    body.add_column(style="dim")
    body.add_column()
    for evidence in finding.evidence:
        body.add_row("seen", Text(evidence))
    if finding.cause is not None:
        body.add_row("why", Text(finding.cause.why))
        body.add_row("remedy", Text(render.remedy(finding.cause, where), "bold"))
        body.add_row("see", Text(finding.cause.reference))
    kind, style = ("blocks", "red") if finding.blocks else ("warning", "yellow")
    heading = Text(f"{render.title(finding)} ({kind})")
    return Panel(body, title=heading, title_align="left", border_style=style)
