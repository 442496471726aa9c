"""Benchmark of an Airbyte connector's `spec` command from a cold start, in gVisor and natively.

    USERNSCTL_CONNECTOR=$(tools/environment connector) python bench/connector.py [ROUNDS]

The connector is started directly, and through usernsctl.bigframe (docs/bigframe.md), both in gVisor
and natively. The four commands alternate. Only ratios within one run are comparable.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from connector import Connector

ROUNDS = 11
VERB = "spec"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> int:
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    with tempfile.TemporaryDirectory() as files:
        connector = Connector(Path(os.environ["USERNSCTL_CONNECTOR"]), Path(files), "")
        plain, big = connector.command(VERB), connector.in_big_frame(VERB)
        sandbox = connector.sandbox("none")
        commands = {
            "natively": plain,
            "natively, from a big frame": big,
            "in gVisor": [*sandbox, *plain],
            "in gVisor, from a big frame (aim: 1.9)": [*sandbox, *big],
        }
        # Run one round more than requested, because the times of the first round, with cold caches,
        # are discarded.
        taken = [[seconds(command) for command in commands.values()] for _ in range(rounds + 1)]
    medians = [statistics.median(times) for times in zip(*taken[1:], strict=True)]
    print(f"{f'the connector, {VERB}: median of {rounds} rounds':<58}{'s':>9}{'share':>8}")
    for title, median in zip(commands, medians, strict=True):
        print(f"    {title:<54}{median:>9.2f}{median / medians[0]:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
