"""Display of doctor's report on a terminal, with colours and tables."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from usernsctl._text import shown
from usernsctl.doctor import render
from usernsctl.doctor.needs import Need
from usernsctl.doctor.remedies import remedy
from usernsctl.explain.model import Finding, Report

_LABEL = 7
_STYLES = {
    "ok": "green",
    "met": "green",
    "failed": "red",
    "advice": "bright_black",
    "unmet": "red",
    "skipped": "yellow",
    "open": "yellow",
}


def show(report: Report, needs: Sequence[Need]) -> None:
    """Print the report and the required settings on standard output."""
    # If NO_COLOR is set, disable all styles: Rich itself would still print bold type, which users
    # may take for a colour.
    console = Console(highlight=False, color_system=None if "NO_COLOR" in os.environ else "auto")
    console.print(Text(render.headline(report), "bold green" if report.ready else "bold red"))
    for number, finding in enumerate(report.findings, 1):
        _show_finding(console, number, finding, report)
    console.print()
    tried = _table("tried", "", "")
    for probe in report.probes.values():
        outcome = render.outcome(probe, report.purpose)
        tried.add_row(probe.name, Text(outcome, _STYLES[outcome]), _text(render.reason(probe)))
    console.print(tried)
    console.print()
    settings = _table("setting", "", "found")
    # Do not wrap the names of settings if they fit, so that users can search for and copy them.
    longest = max((len(need.name) for need in needs), default=0)
    settings.columns[0].no_wrap = longest < console.width * 2 // 3
    for need in needs:
        # If no finding blocks the purpose, print unmet settings in the colour of advice, not red.
        style = "advice" if report.ready and need.state == "unmet" else need.state
        state = Text(need.state, _STYLES[style])
        settings.add_row(_text(need.name), state, _text(need.found))
        if need.state != "met":
            settings.add_row("", "", _text(f"wanted: {need.wanted}"))
    console.print(settings)


def _text(text: str, style: str = "") -> Text:
    return Text(shown(text), style)


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _show_finding(console: Console, number: int, finding: Finding, report: Report) -> None:
    kind, style = ("blocks", "red") if finding.blocks else ("warning", "yellow")
    console.print()
    console.print(_text(f"{number}. {render.title(finding)} ({kind})", f"bold {style}"))
    body = Table.grid(padding=(0, 2, 0, 0))
    body.add_column(style="dim", min_width=_LABEL)
    body.add_column(overflow="fold")
    for evidence in finding.evidence:
        body.add_row("   seen", Text("\n").join(map(_text, evidence.split("\n"))))
    if finding.cause is not None:
        body.add_row("   why", _text(finding.cause.why))
        body.add_row("   see", _text(finding.cause.reference))
    console.print(body)
    if finding.cause is not None:
        console.print(Text("   remedy", "dim"))
        # Print commands below the table, because table cells would wrap them.
        for line in remedy(report, finding.cause, render.place(report)).split("\n"):
            console.print(_text(f"   {line}", "bold"), soft_wrap=True)
