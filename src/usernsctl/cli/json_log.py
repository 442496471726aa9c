"""Messages of ``usernsctl run --log json`` on standard error: one JSON object per line.

csrc/programs/shared/report.c prints the messages of native programs in the same form.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from usernsctl import _core
from usernsctl._text import shown, shown_lines
from usernsctl.cli import print_or_drop
from usernsctl.cli.parser import UsageError
from usernsctl.errors import UsernsError


def notice(text: str) -> None:
    """Print a notice, that is, a message that is not an error."""
    _print("notice", message=shown(text))


def usage_error(reason: str) -> None:
    """Print an error in the options of ``usernsctl run``."""
    _print("error", step="usage", message=shown(reason))


def reporting(function: Callable[[], object]) -> int:
    """Call a function, print the error that it raises, and return the exit status (0: no error)."""
    try:
        function()
    except UsageError as error:
        usage_error(str(error))
    except UsernsError as error:
        known = _core.cause(error.cause)
        remedy = error.remedy or (known.remedy if known else None)
        print_or_drop(
            _print,
            "error",
            step=error.step,
            message=shown(error.reason),
            cause=error.cause,
            why=known.why if known else None,
            remedy=shown_lines(remedy) if remedy else None,
        )
        return error.exit_status
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _print("error", message=shown(f"{where}{error.strerror or error}"))
    else:
        return 0
    return 125


def _print(level: str, **members: str | None) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = {"time": now, "level": level, "program": "usernsctl", **members}
    given = {name: value for name, value in message.items() if value is not None}
    # Write the line with a single write(2), so that output of other processes can't split it.
    sys.stderr.write(json.dumps(given, ensure_ascii=False) + "\n")
    sys.stderr.flush()
