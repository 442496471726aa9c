"""Functions that time runs of usernsctl and equivalent runs of other tools.

The runs alternate, so that the load of the host affects all of them alike. Only ratios within one
benchmark are comparable. On a busy host, root can run a benchmark with real-time priority: chrt -r
20 tools/as-user USER bench demo -- python ....
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import usernsctl as un

WARM_UP = 20
PRELUDE = str(Path(sysconfig.get_path("scripts"), "usernsctl-exec"))
USERNSCTL = str(Path(PRELUDE).with_name("usernsctl"))
TINY = """
void _start(void)
{
    __asm__ volatile("syscall" : : "a"(231), "D"(0));
}
"""

Call = Callable[[], object]


def native(*command: str, environ: Mapping[str, str] | None = None) -> Call:
    """Return a function that starts a command with posix_spawn(3) and waits for it."""

    def once() -> None:
        pid = os.posix_spawnp(command[0], command, os.environ if environ is None else environ)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise RuntimeError(f"{command}: wait status {status}")

    return once


def classic_wrapper(program: str) -> Call:
    """Return a function that starts a program by unshare(1), newuidmap and newgidmap.

    The program starts only after both maps are written: the processes wait for each other on pipes.
    """
    uid, gid = un.plan(un.IdMap.auto()).uid, un.plan(un.IdMap.auto()).gid

    def helper(name: str, pid: int, extents: tuple[un.Extent, ...]) -> None:
        subprocess.run([name, str(pid), *(str(n) for e in extents for n in e)], check=True)

    def once() -> None:
        script = 'echo; read go; exec "$0"'
        command = ["unshare", "--user", "sh", "-c", script, program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            helper("newuidmap", child.pid, uid)
            helper("newgidmap", child.pid, gid)
            child.stdin.write(b"\n")
        if child.returncode:
            raise RuntimeError(f"{command}: status {child.returncode}")

    return once


def spawner(namespace: un.Namespace, program: str) -> Call:
    def once() -> None:
        child = namespace.spawn([program])
        os.close(child.pidfd)
        os.waitpid(child.pid, 0)

    return once


def medians(*calls: Call, rounds: int) -> list[float]:
    """Return the median time of each call, in milliseconds."""
    warm_up = min(WARM_UP, rounds // 4 + 1)
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(warm_up + rounds):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[warm_up:]) for times in taken]


def print_header(title: str) -> None:
    print(f"{title:<58}{'theirs':>10}{'ours':>10}{'share':>8}{'aim':>7}")
    print(f"{'':<58}{'ms':>10}{'ms':>10}", flush=True)


def print_row(title: str, theirs: float, ours: float, aim: str) -> None:
    print(f"{title:<58}{theirs:>10.3f}{ours:>10.3f}{ours / theirs:>8.2f}{aim:>7}", flush=True)


def compare(title: str, aim: str, theirs: Call, ours: Call, *, rounds: int) -> None:
    print_row(title, *medians(theirs, ours, rounds=rounds), aim)


def tiny_program(directory: Path) -> str:
    """Build a static program that only exits, to measure nothing but the start; return its path."""
    source, program = directory / "tiny.c", directory / "tiny"
    source.write_text(TINY)
    subprocess.run(["cc", "-static", "-nostdlib", "-O2", source, "-o", program], check=True)
    return str(program)


def may_map_ranges() -> bool:
    """Return whether the caller has subordinate ids. If not, print which benchmarks are skipped."""
    try:
        un.plan(un.IdMap.auto())
    except un.PlanError as error:
        print(f"left out, maps of more than one id: {error}")
        return False
    return True
