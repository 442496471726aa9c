"""Run each fuzz target for SECONDS seconds: fuzz.py SECONDS.

Adds the number of executions of each target to bench/fuzz.json. Needs clang. If ``$ONLY`` is set,
only the targets whose names contain its value are run. Inputs that libFuzzer finds are kept in
build/c/clang/NAME.corpus, the initial corpus of the next run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import c_tests

TARGET = Path(__file__).parent.parent / "bench" / "fuzz.json"


def fuzz(command: list[Path | str], seconds: int) -> tuple[int, str]:
    """Run a fuzz target; return its number of executions, and its output if it fails."""
    options = [f"-max_total_time={seconds}", "-print_final_stats=1", "-verbosity=1"]
    done = subprocess.run(
        [*command[:1], *options, *(word for word in command[1:] if word != "-verbosity=0")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=seconds + c_tests.TEST_SECONDS,
        env=os.environ | {"UBSAN_OPTIONS": "print_stacktrace=1"},
        check=False,
    )
    found = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    if done.returncode or not found:
        return 0, done.stderr
    return int(found[1]), ""


def main(seconds: int) -> int:
    failed = 0
    counts = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else {}
    for name, command in sorted(c_tests.build_fuzzers().items()):
        # Remove the time limit of c_tests.py: libFuzzer uses the last of several limits, and fuzz()
        # inserts its own limit first.
        short = [word for word in command if not str(word).startswith("-max_total_time")]
        executions, output = fuzz(short, seconds)
        print(f"{name}: {executions} executions in {seconds} s", flush=True)
        if output:
            print(output[-4000:])
            failed += 1
        # Add the executions to those of earlier runs.
        counts[name] = executions + counts.get(name, 0)
        TARGET.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
