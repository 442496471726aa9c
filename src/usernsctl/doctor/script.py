"""The remedies of a report as a shell script, to be read, completed and run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from usernsctl.doctor import render
from usernsctl.doctor.model import Finding, Place, Report
from usernsctl.shown import shown

_WIDTH = 78

_HEAD = """#!/bin/sh
# What mends what usernsctl doctor found. Read it before you run it: words in capital letters are
# for you to replace, and a command without a comment is run as it is.
set -eu
"""


def as_script(report: Report) -> str:
    """A script for sh(1). What is no command is a comment in it."""
    lines = [_HEAD.rstrip("\n"), f"# {render.headline(report)}"]
    for finding in report.findings:
        lines += ["", *_finding(finding, render.place(report))]
    return "\n".join(lines) + "\n"


def _finding(finding: Finding, where: Place) -> Iterator[str]:
    kind = "blocks" if finding.blocks else "warning"
    yield from _comment(f"{render.title(finding)} ({kind})")
    for evidence in finding.evidence:
        for line in evidence.split("\n"):
            yield from _comment(f"seen: {line}")
    if finding.cause is None:
        yield from _comment("nothing is known that mends it")
        return
    yield from _comment(f"why: {finding.cause.why}")
    text = render.remedy(finding.cause, where)
    if render.is_prose(finding.cause, text):
        yield from _comment(f"remedy: {text}")
    else:
        yield from text.split("\n")


def _comment(text: str) -> list[str]:
    lines = textwrap.wrap(shown(text), _WIDTH, break_on_hyphens=False)
    return [f"# {line}" for line in lines]
