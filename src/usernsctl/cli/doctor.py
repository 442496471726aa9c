"""``usernsctl doctor``: why it would fail here, and what mends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from usernsctl.cli.terminal import can_draw
from usernsctl.cli.verdict import VerdictCommand, tolerate_any_text

if TYPE_CHECKING:
    from usernsctl.explain.model import Purpose


_BLOCKED = 1


@click.command(
    "doctor", cls=VerdictCommand, short_help="Find out what keeps programs from running here."
)
@click.option("--json", "form", flag_value="json", help="Print JSON, for programs.")
@click.option("--script", "form", flag_value="script", help="Print the remedies as a shell script.")
@click.option("--no-runsc", is_flag=True, help="Don't try runsc, which takes the most time.")
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["run", "range", "docker", "kubernetes"]),
    default="run",
    show_default=True,
    help="What you want to do. run: run a command in gVisor. range: map more than one id. docker, "
    "kubernetes: run a command in gVisor in a container of theirs.",
)
@click.option(
    "--within",
    "seconds",
    type=click.IntRange(1, 86400),
    metavar="SECONDS",
    default=30,
    show_default=True,
    help="How long all trials may take together; what has not ended by then is skipped.",
)
def doctor_command(form: str | None, no_runsc: bool, purpose: Purpose, seconds: int) -> int:
    """Find out whether programs can be run here, and if not, why not and how to mend it.

    doctor tries each step in a process of its own that ends afterwards. It leaves nothing behind.

    Exit status: 0 programs can be run, 1 at least one cause blocks, 2 wrong usage.
    """
    from usernsctl.doctor import examine

    tolerate_any_text()
    report, needs = examine(purpose, runsc=not no_runsc, seconds=seconds)
    if form == "json":
        from usernsctl.doctor.render import as_json

        print(json.dumps(as_json(report, needs), indent=2))
    elif form == "script":
        from usernsctl.doctor.render import as_script

        print(as_script(report), end="")
    elif can_draw():
        from usernsctl.doctor.render_rich import show

        show(report, needs)
    else:
        from usernsctl.doctor.render import plain

        print(plain(report, needs), end="")
    return 0 if report.ready else _BLOCKED
