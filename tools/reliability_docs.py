"""Write the tables in docs/reliability.md. With --check, only check them.

The numbers come from bench/faults.json, bench/fuzz.json and bench/coverage.json, which are written
by `make faults`, `make fuzz` and `make coverage`.
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
Inputs have at most 4,096 bytes; in most of the executions of `fuzz_runsc`, `fuzz_runsc_logs` and
`fuzz_search`, at most 512 bytes.

"""

COVERAGE = """
## Coverage

`make coverage` counts the lines of the C core and the native programs, except
`csrc/programs/verify`, that are executed by

- `tests/c`, also while calls fail (below), and the seeds of the fuzz targets;
- `tests/kernel`, `tests/runsc`, `tests/environments` and `tests/faults`, as a user with subordinate
  ranges and as root. LLVM's runtime adds environment variables, descriptors and system calls, so
  some of these tests fail.

If root calls `make coverage`, `tools/c_faults.py` makes each call of libc in the core and the agent
fail, once, in two of the tests in `tests/c` that reach the call. No process may crash.

The other lines are executed elsewhere, without being counted, or belong to errors that no test
provokes:

- most handle a system call that fails in a native program: `make faults` injects such failures;
- some retry a call that a signal has interrupted, or handle a race, such as a process that ends
  between two calls;
- some name the cause of a failure that an earlier check usually names first, such as a caller
  without a user name, whom newuidmap rejects;
- `tests/hostile` executes some, such as the search for a child that root inside has stopped;
- `facts/group_place.c` and `programs/shared/sandbox_group.c` have code for version 2 of control
  groups, which `make vm` executes; the machine of this count had version 1;
- the agent has no libc in sandboxes, so its lines can't be counted there: `tests/c` runs most of
  them.

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


def coverage_row(name: str, files: list[list[int]]) -> list[object]:
    lines, covered = (sum(numbers) for numbers in zip(*files, strict=True))
    return [name, lines, f"{100 * covered / lines:.1f} %"]


def coverage_table() -> str:
    """Return a table of how much of each directory in csrc/ is covered by tests, as Markdown."""
    found = json.loads((TREE / "bench" / "coverage.json").read_text(encoding="utf-8"))
    counts = found["lines"]
    directories: dict[str, list[list[int]]] = {}
    for name, numbers in counts.items():
        directories.setdefault(f"`csrc/{Path(name).parent}`", []).append(numbers)
    rows = [coverage_row(name, files) for name, files in sorted(directories.items())]
    rows.append(coverage_row("all", [*counts.values()]))
    tests = f"The tests in Python had these results: {found['tests']}.\n"
    return f"{tests}\n{table('directory | lines | covered', rows)}"


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
    return text + NOT_REACHED + exceptions + FUZZING + fuzzed + COVERAGE + coverage_table()


def document() -> str:
    before, begin, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END.strip())[2]
    return f"{before}{begin}{tables()}{END.rstrip()}{after}"


if __name__ == "__main__":
    sys.exit(generated.run(sys.argv[1:], TARGET, document))
