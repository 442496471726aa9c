"""Measure usernsctl against unshare(1), side by side: the rounds take turns, so that what else the
machine does meets both alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import usernsctl as un

ROUNDS = 400
WARM_UP = 20
PRELUDE = str(Path(sysconfig.get_path("scripts"), "usernsctl-exec"))
TINY = """
void _start(void)
{
    __asm__ volatile("syscall" : : "a"(231), "D"(0));
}
"""


def native(*command: str) -> Callable[[], None]:
    """Start a command in the cheapest way, and wait for it."""

    def once() -> None:
        pid = os.posix_spawnp(command[0], command, os.environ)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise RuntimeError(f"{command}: wait status {status}")

    return once


def compare(title: str, aim: float, theirs: Callable[[], None], ours: Callable[[], None]) -> None:
    """Tell both medians in milliseconds, and our share of their time."""
    taken: dict[Callable[[], None], list[float]] = {theirs: [], ours: []}
    for _ in range(WARM_UP + ROUNDS):
        for call, times in taken.items():
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
    their_time, our_time = (statistics.median(times[WARM_UP:]) for times in taken.values())
    share = our_time / their_time
    print(f"{title:<42}{their_time:>9.2f}{our_time:>9.2f}{share:>8.2f}{aim:>7.2f}", flush=True)


def compare_python(title: str, program: str) -> None:
    compare(
        title,
        0.25,
        lambda: void(subprocess.run(["unshare", "-Ur", program], check=True)),
        lambda: void(un.run([program], check=True)),
    )


def void(_: object) -> None:
    """Drop a result."""


def tiny_program(directory: Path) -> str:
    """A static program that only exits: what starting it costs is the starter's."""
    source, program = directory / "tiny.c", directory / "tiny"
    source.write_text(TINY)
    subprocess.run(["cc", "-static", "-nostdlib", "-O2", source, "-o", program], check=True)
    return str(program)


def main() -> int:
    print(f"{'median of ' + str(ROUNDS) + ' rounds':<42}{'unshare':>9}{'ours':>9}", end="")
    print(f"{'share':>8}{'aim':>7}\n{'':<42}{'ms':>9}{'ms':>9}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        tiny = tiny_program(Path(scratch))
        for name, program, aim in (
            ("/bin/true", "/bin/true", 0.75),
            ("a tiny static program", tiny, 0.55),
        ):
            ours = native(PRELUDE, "-r", "--", program)
            compare(f"usernsctl-exec: {name}", aim, native("unshare", "-Ur", program), ours)
        compare_python("un.run: a tiny static program", tiny)
        heap = bytearray(b"x") * (512 * 1024 * 1024)
        compare_python(f"the same, with a heap of {len(heap) >> 20} MiB", tiny)
    return 0


if __name__ == "__main__":
    sys.exit(main())
