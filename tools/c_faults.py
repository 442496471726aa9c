"""Run tests/c many times, each time with one failing libc call: c_faults.py [TOOLCHAIN].

Each test first runs without a fault, and must pass. Then each call site in csrc/ fails, with the
errno in tests/c/call_faults.c, in the first TESTS_PER_SITE tests that reach it. With a fault, a
test may pass, fail a check, or hang. It must not crash or make a sanitizer report an error. The
script needs root to run each test in a PID namespace, because after a fault a test may leave
processes behind, or send signals to wrong processes.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import c_tests

TESTS_PER_SITE = 2
# Timeout in seconds for a test with a fault. After that the test counts as hung, and is killed.
SECONDS = 10
# The accepted exit statuses of a test with a fault. None stands for a test that hangs.
PASSED = (0, 1, None)
# The prefix of a command that runs a test in a PID namespace. PID 1 is a shell, so that the test
# does not become the parent of orphans.
APART = (
    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
    *("sh", "-c", '"$@"; exit $?', "sh"),
)
# Size in bytes of each number in struct record (tests/c/call_faults.c).
WORD = 8
SANITIZER_STATUS = 99
SANITIZERS = {
    "ASAN_OPTIONS": f"exitcode={SANITIZER_STATUS}:detect_leaks=0",
    "UBSAN_OPTIONS": f"exitcode={SANITIZER_STATUS}:print_stacktrace=1",
}


@dataclass(frozen=True)
class Site:
    """A call site of a libc function in a program that a test runs.

    :ivar address: the return address of the call.
    :ivar line: the source line of the call.
    :ivar offset: the return address relative to the start of the calling function. Programs link
        the same object files, so the line and the offset identify a call site across programs.
    """

    program: Path
    address: int
    line: str
    offset: int


def numbers(record: Path) -> list[int]:
    data = record.read_bytes()
    words = [int.from_bytes(data[at : at + WORD], "little") for at in range(0, len(data), WORD)]
    return words[2 : 2 + words[1]]


def source_lines(program: Path, addresses: list[int]) -> list[str]:
    """Return the source line of the call before each return address."""
    command = ["addr2line", "-e", program, *(hex(address - 1) for address in addresses)]
    # Discard standard error, on which GNU addr2line prints warnings about clang's line tables.
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line.partition(" (")[0] for line in done.stdout.splitlines()]


def function_offsets(program: Path, addresses: list[int]) -> list[int]:
    """Return the offset of each return address from the start of the function that contains it."""
    command = ["nm", "--defined-only", "--numeric-sort", program]
    symbols = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = [line.split() for line in symbols.splitlines()]
    starts = [int(start, 16) for start, kind, _ in words if kind in "tTwW"]
    return [address - starts[bisect.bisect_left(starts, address) - 1] for address in addresses]


def run(
    command: list[Path | str],
    directory: Path,
    seconds: float,
    accepted: tuple[int | None, ...],
) -> int | None:
    """Run a test with the call site records in a directory.

    Print the output of the test if its exit status is not accepted.

    :param accepted: the accepted exit statuses. None stands for a test that hangs.
    :returns: the exit status of the test, or None if the test hangs.
    """
    environment = os.environ | SANITIZERS | {"USERNSCTL_CALL_FAULTS": str(directory)}
    with tempfile.TemporaryFile() as output:
        test = subprocess.Popen(
            [*APART, c_tests.DEFAULT_SIGNALS, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            status = test.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            test.kill()
            test.wait()
            status = None
        if status not in accepted:
            output.seek(0)
            sys.stderr.buffer.write(output.read())
        return status


@contextlib.contextmanager
def record_directory() -> Iterator[Path]:
    """Yield a directory for call site records, to which all users can write."""
    with tempfile.TemporaryDirectory(dir=c_tests.BUILD) as name:
        directory = Path(name).absolute()
        directory.chmod(0o777)
        yield directory


def sites_of(command: list[Path | str]) -> list[Site] | None:
    """Run a test without faults.

    Return the call sites that the test and the programs it runs reach, or None if the test fails.
    """
    found: list[Site] = []
    with record_directory() as directory:
        if run(command, directory, c_tests.TEST_SECONDS, accepted=(0,)) != 0:
            return None
        for record in sorted(directory.iterdir()):
            program = Path(command[0]).parent / record.name
            addresses = numbers(record)
            lines = source_lines(program, addresses)
            offsets = function_offsets(program, addresses)
            found += map(Site, [program] * len(lines), addresses, lines, offsets)
    return found


def try_site(command: list[Path | str], site: Site) -> str | None:
    """Run a test in which the call at `site` fails; return a description of a defect, or None."""
    with record_directory() as directory:
        record = directory / site.program.name
        record.write_bytes(site.address.to_bytes(WORD, "little"))
        record.chmod(0o666)
        status = run(command, directory, SECONDS, accepted=PASSED)
    if status in PASSED:
        return None
    return f"{Path(command[0]).name} ends with {status} if the call in {site.line} fails"


def choose(
    commands: list[list[Path | str]], reached: list[list[Site] | None]
) -> list[tuple[list[Path | str], Site]]:
    """Return pairs of a test and a call site: up to TESTS_PER_SITE tests for each call site."""
    used: collections.Counter[tuple[str, int]] = collections.Counter()
    chosen = []
    for command, sites in zip(commands, reached, strict=True):
        for site in sites or []:
            used[site.line, site.offset] += 1
            if used[site.line, site.offset] <= TESTS_PER_SITE:
                chosen.append((command, site))
    return chosen


def main(toolchain: str = "faults") -> int:
    if os.geteuid() != 0:
        sys.exit("c_faults.py needs root")
    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
        commands = c_tests.build(c_tests.TOOLCHAINS[toolchain], pool)
        reached = list(pool.map(sites_of, commands))
        chosen = choose(commands, reached)
        found = list(pool.map(lambda one: try_site(*one), chosen))
    defects = [
        f"{Path(command[0]).name} fails without a fault"
        for command, sites in zip(commands, reached, strict=True)
        if sites is None
    ]
    defects += [defect for defect in found if defect]
    print(*defects, sep="\n")
    count = len({(site.line, site.offset) for _, site in chosen})
    print(f"Calls that fail: {count} calls, {len(chosen)} runs, {len(defects)} defects")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
