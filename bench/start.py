"""Benchmark of how long usernsctl's commands take to start, compared with an empty Python program.

    python bench/start.py [ROUNDS]

Each round runs every command once, as in bench/measuring.py. `usernsctl run` has arguments that
make it fail after its imports, before it creates a namespace.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from measuring import USERNSCTL, Call, medians

ROUNDS = 100
NOTHING = [sys.executable, "-c", "pass"]
CALLS = {
    "python -c 'import usernsctl'": [sys.executable, "-c", "import usernsctl"],
    "... and the use of a name": [sys.executable, "-c", "import usernsctl; usernsctl.run"],
    "... and of SandboxHost": [sys.executable, "-c", "import usernsctl; usernsctl.SandboxHost"],
    "usernsctl --version": [USERNSCTL, "--version"],
    "usernsctl plan --help": [USERNSCTL, "plan", "--help"],
    "usernsctl run, refused": [USERNSCTL, "run", "--user", "7", "--", "true"],
}
# Targets in milliseconds. For --version, the target applies to the total time; for any other
# command, to the time in excess of that of an empty Python program.
AIMS = {
    "python -c 'import usernsctl'": "+12",
    "... and of SandboxHost": "+50",
    "usernsctl --version": "30",
}


def quiet(command: list[str]) -> Call:
    """Return a function that runs a command with /dev/null as stdio and ignores its exit status."""
    streams = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]

    def once() -> None:
        os.waitpid(os.posix_spawn(command[0], command, os.environ, file_actions=streams), 0)

    return once


def isolated(command: list[str]) -> list[str]:
    """Return the command with Python's option -I (no PYTHON* variables, no user packages)."""
    python = [] if command[0] == sys.executable else [sys.executable]
    return [*(python or command[:1]), "-I", *(command if python else command[1:])]


def print_shares(
    title: str, commands: dict[str, list[str]], nothing: list[str], count: int
) -> None:
    times = medians(quiet(nothing), *map(quiet, commands.values()), rounds=count)
    print(f"{title:<40}{'ms':>9}{'over':>9}{'share':>8}{'aim':>7}")
    print(f"{'python -c pass':<40}{times[0]:>9.2f}")
    for name, taken in zip(commands, times[1:], strict=True):
        over, share = taken - times[0], taken / times[0]
        print(f"{name:<40}{taken:>9.2f}{over:>9.2f}{share:>8.2f}{AIMS.get(name, ''):>7}")


def print_import_time(count: int) -> None:
    """Print the time to import usernsctl, as the interpreter reports it (``-X importtime``)."""
    command = [sys.executable, "-X", "importtime", "-c", "import usernsctl"]
    found = []
    for _ in range(count):
        told = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr
        line = next(ln for ln in told.splitlines() if ln.split("|")[-1].strip() == "usernsctl")
        found.append(int(line.split("|")[1]) / 1000)
    print(f"{'import usernsctl, by -X importtime':<40}{statistics.median(found):>9.2f}")


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print_shares(f"median of {count} rounds", CALLS, NOTHING, count)
    print_import_time(count)
    apart = {name: isolated(command) for name, command in CALLS.items()}
    print_shares("the same with python -I", apart, isolated(NOTHING), count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
