"""Write the table of environments in docs/doctor.md. With --check, only check it.

The script imports tests/environments/table.py, so the packages that table.py imports must be
installed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import generated

TREE = Path(__file__).parent.parent
sys.path.insert(0, str(TREE / "tests" / "environments"))

from judging import causes, in_range  # noqa: E402
from table import ENVIRONMENTS, HEALED, KINDS, STEP, Environment  # noqa: E402

TARGET = TREE / "docs" / "doctor.md"
BEGIN, END = "<!-- tools/environment_docs.py generates this table. -->\n\n", "\n<!-- End. -->\n"


def document() -> str:
    before, begin, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"{TARGET} has no place for the table: {BEGIN}{END}")
    return f"{before}{begin}{table()}{end}{after}"


def table() -> str:
    head = "| environments | number | run works | ranges work | causes | mended by remedies |\n"
    rows = [row(kind, [e for e in ENVIRONMENTS.values() if e.kind == kind]) for kind in KINDS]
    return f"{head}|---|---|---|---|---|---|\n{''.join(rows)}{row('all', ENVIRONMENTS.values())}"


def row(name: str, environments: Collection[Environment]) -> str:
    found = {cause for one in environments for cause in named(one)} - {STEP}
    cells = (
        name,
        len(environments),
        sum(one.run is None for one in environments),
        sum(in_range(one) is None for one in environments),
        len(found),
        sum(one.name in HEALED for one in environments),
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def named(environment: Environment) -> Iterator[str]:
    """Yield the ids of the causes that commands of usernsctl may report in an environment."""
    for expected in (environment.run, environment.auto, in_range(environment)):
        yield from causes(expected)


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, document))
