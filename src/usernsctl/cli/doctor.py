"""``usernsctl doctor``: find the causes of failures on this host, and their remedies."""

from __future__ import annotations

import json
import select
from typing import TYPE_CHECKING

from usernsctl import _core
from usernsctl.cli.parser import Parser, integer
from usernsctl.cli.terminal import can_draw
from usernsctl.errors import UsernsError

if TYPE_CHECKING:
    from usernsctl.explain.model import Purpose


_BLOCKED, _WRONG_USAGE = 1, 2


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl doctor``."""
    parser = Parser(prog, examine, wrong_usage=_WRONG_USAGE)
    parser.add_option(
        "--json", dest="form", action="store_const", const="json", help="Print JSON, for programs."
    )
    parser.add_option(
        "--script",
        dest="form",
        action="store_const",
        const="script",
        help="Print the remedies as a shell script.",
    )
    parser.add_flag("--no-runsc", help="Don't try runsc, which takes the most time.")
    parser.add_option(
        "--for",
        dest="purpose",
        choices=["run", "range", "docker", "kubernetes"],
        default="run",
        help="Your purpose. run: run a command in gVisor. range: map more than one id. docker, "
        "kubernetes: run a command in gVisor in a container of Docker or Kubernetes.",
    )
    parser.add_option(
        "--within",
        dest="seconds",
        parse=integer(1, 86400),
        metavar="SECONDS",
        default=30,
        help="The timeout of all probes together, 1 to 86400. doctor skips probes that have not "
        "ended when the timeout expires.",
    )
    return parser


def examine(form: str | None, no_runsc: bool, purpose: Purpose, seconds: int) -> int:
    """Find out whether this machine can run programs in gVisor; print causes and remedies if not.

    doctor tries each step of a start in a separate process, and leaves nothing behind.

    Exit status: 0 the machine can run programs, 1 at least one cause prevents it, 2 wrong usage.
    """
    try:
        _core.check_filter(of_doctor=True)
    except UsernsError:
        # A seccomp filter may kill the caller of epoll_create1(2) or poll(2). doctor imports
        # subprocess, and subprocess imports selectors, which tries these calls. So hide the calls
        # from selectors. They are not needed: under such a filter, doctor starts no process.
        for name in ("epoll", "poll"):
            vars(select).pop(name, None)
    from usernsctl import doctor

    report, needs = doctor.examine(purpose, runsc=not no_runsc, seconds=seconds)
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
