"""Write the tables in docs/reliability.md, or with --check, check that they are up to date.

The counts are those of bench/faults.json and bench/fuzz.json, which `make faults` and `make fuzz`
write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import generated

TREE = Path(__file__).parent.parent
TARGET = TREE / "docs" / "reliability.md"
BEGIN, END = "<!-- tools/reliability_docs.py generates these tables. -->\n\n", "\n<!-- End. -->\n"
sys.path.append(str(TREE / "tests" / "faults"))
import errnos  # noqa: E402

REPORTED = ("documented error", "OSError of the call", "MemoryError")
ENDED = ("killed by the signal", "killed by SIGKILL", "killed by SIGTERM", "KeyboardInterrupt")

OPEN = """
Known defects, as PATH: `PROCESS: CALL NUMBER: FAULT: RESULT`:

"""

NOT_REACHED = """
*Not reached*: the run made fewer calls than the run before, since its threads and processes ran in
another order.

No errors are injected into these calls, but signals are sent there, too:

"""


FUZZING = """
## Fuzzing

`make fuzz SECONDS=N` runs each libFuzzer target of `tests/c` for N seconds, with ASan and UBSan;
`make test-all` runs each for two seconds, and the nightly workflow for 60.
`tests/fuzz` has the property tests of the Python parsers. The table has the sum of the
executions of all runs that were recorded; none has failed.

"""


def table(head: str, rows: Iterable[Iterable[object]]) -> str:
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def faults_row(outcome: dict[str, Any]) -> list[object]:
    ends = outcome["ends"]
    return [
        outcome["path"],
        outcome["sites"],
        outcome["pairs"],
        sum(outcome["tried"].values()),
        ends.get("success", 0),
        sum(ends.get(end, 0) for end in REPORTED),
        sum(ends.get(end, 0) for end in ENDED),
        ends.get("not reached", 0),
        len(outcome["defects"]),
    ]


def tables() -> str:
    outcomes = json.loads((TREE / "bench" / "faults.json").read_text(encoding="utf-8"))
    head = "path | sites | faults | tried | succeeded | reported an error | ended by a signal"
    text = table(f"{head} | not reached | defects", map(faults_row, outcomes))
    exceptions = table(
        "call | reason", ([f"`{call}`", why] for call, why in errnos.EXCEPTIONS.items())
    )
    counts = json.loads((TREE / "bench" / "fuzz.json").read_text(encoding="utf-8"))
    fuzzed = table("target | executions", sorted(counts.items()))
    defects = [f"- {one['path']}: `{defect}`\n" for one in outcomes for defect in one["defects"]]
    text += OPEN + "".join(defects) if defects else ""
    return text + NOT_REACHED + exceptions + FUZZING + fuzzed


def document() -> str:
    before, begin, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END.strip())[2]
    return f"{before}{begin}{tables()}{END.rstrip()}{after}"


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, document))
