"""``usernsctl ps``: list detached sandboxes."""

from __future__ import annotations

import json
import time
from typing import Any

from usernsctl.cli import terminal
from usernsctl.cli.parser import Parser
from usernsctl.gvisor.sandbox.records import DetachedRecord, list_detached


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl ps``."""
    parser = Parser(prog, show)
    parser.add_flag("--json", dest="as_json", help="Print JSON, for programs.")
    return parser


def show(as_json: bool) -> None:
    """List the detached sandboxes of this user: id, pid, status and command.

    The status is the time since the start, as in "up 5m". A sandbox that has ended is not listed.
    The pid is that of gVisor's process: kill PID ends the sandbox. JSON has the time of the start
    as `created`, in seconds since 1970.

        usernsctl ps
        usernsctl ps --json
    """
    found = list_detached()
    if as_json:
        print(json.dumps([_as_json(sandbox) for sandbox in found], indent=2))
        return
    if not found:
        return
    now = time.time()
    rows = [("ID", "PID", "STATUS", "COMMAND")]
    rows += [
        (
            sandbox.id,
            str(sandbox.pid),
            f"up {terminal.age(now - sandbox.created)}",
            " ".join(sandbox.args),
        )
        for sandbox in found
    ]
    for line in terminal.table(rows):
        print(line)


def _as_json(sandbox: DetachedRecord) -> dict[str, Any]:
    return {
        "id": sandbox.id,
        "pid": sandbox.pid,
        "status": "running",
        "created": sandbox.created,
        "args": list(sandbox.args),
    }
