"""Measure usernsctl against its peers, side by side: the rounds take turns, so that what else the
machine does meets both alike. Only the shares of one run mean anything.
"""

from __future__ import annotations

import gc
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
HEAP_BYTES = 4 << 30
TINY = """
void _start(void)
{
    __asm__ volatile("syscall" : : "a"(231), "D"(0));
}
"""

Call = Callable[[], object]


def native(*command: str) -> Call:
    """Start a command in the cheapest way, and wait for it."""

    def once() -> None:
        pid = os.posix_spawnp(command[0], command, os.environ)
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise RuntimeError(f"{command}: wait status {status}")

    return once


def classic_wrapper(program: str) -> Call:
    """What wrappers do for each sandbox: unshare(1), the helpers, and a pipe to wait for them."""
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


def medians(*calls: Call, rounds: int = ROUNDS) -> list[float]:
    """The median time of each call, in milliseconds."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(WARM_UP + rounds):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
    return [statistics.median(times[WARM_UP:]) for times in taken]


def print_row(title: str, theirs: float, ours: float, aim: str) -> None:
    print(f"{title:<58}{theirs:>9.3f}{ours:>9.3f}{ours / theirs:>8.2f}{aim:>7}", flush=True)


def compare(title: str, aim: str, theirs: Call, ours: Call) -> None:
    print_row(title, *medians(theirs, ours), aim)


def python_pair(program: str) -> tuple[Call, Call]:
    return (
        lambda: subprocess.run(["unshare", "-Ur", program], check=True),
        lambda: un.run([program], check=True),
    )


def bench_one_id(tiny: str) -> None:
    for name, program, aim in (("/bin/true", "/bin/true", "0.75"), ("tiny", tiny, "0.55")):
        ours = native(PRELUDE, "-r", "--", program)
        compare(
            f"unshare -Ur / usernsctl-exec -r: {name}", aim, native("unshare", "-Ur", program), ours
        )
    bwrap = ("bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--dev-bind", "/", "/", tiny)
    ours = native(PRELUDE, "-r", "-m", "--", tiny)
    compare("bwrap / usernsctl-exec -r -m: tiny", "", native(*bwrap), ours)
    compare("subprocess + unshare -Ur / un.run: tiny", "0.25", *python_pair(tiny))


def bench_ranges(tiny: str) -> None:
    theirs = native("unshare", "-U", "--map-auto", "-r", tiny)
    ours = native(PRELUDE, "--map-auto", "-r", "--", tiny)
    compare("unshare --map-auto -r / usernsctl-exec: tiny", "0.55", theirs, ours)
    with un.Namespace.create(un.IdMap.auto()) as namespace:
        title = "unshare + newuidmap + newgidmap / ns.run: tiny"
        compare(title, "", classic_wrapper(tiny), lambda: namespace.run([tiny], check=True))
        compare(
            title.replace("run", "spawn"), "0.06", classic_wrapper(tiny), spawner(namespace, tiny)
        )


def spawner(namespace: un.Namespace, program: str) -> Call:
    def once() -> None:
        child = namespace.spawn([program])
        os.close(child.pidfd)
        os.waitpid(child.pid, 0)

    return once


def bench_heap(tiny: str) -> None:
    """The same call with a small heap and with a large one: not side by side, since there is no
    giving the memory back and taking it again between two rounds."""
    with un.Namespace.create() as namespace:
        call = spawner(namespace, tiny)
        [small] = medians(call)
        heap = bytearray(HEAP_BYTES)
        for at in range(0, HEAP_BYTES, 4096):
            heap[at] = 1
        [large] = medians(call)
        del heap
    gc.collect()
    print_row(
        f"ns.spawn with an empty heap / with {HEAP_BYTES >> 30} GiB: tiny", small, large, "1.5"
    )


def bench_doctor() -> None:
    """Beside a Python that does nothing: what of it is doctor's own."""
    command = [str(Path(PRELUDE).with_name("usernsctl")), "doctor", "--no-runsc"]
    nothing, ours = medians(
        native(sys.executable, "-c", ""),
        lambda: subprocess.run(command, stdout=subprocess.DEVNULL),
        rounds=20,
    )
    print_row("python -c '' / usernsctl doctor --no-runsc (aim: 300 ms)", nothing, ours, "")


def tiny_program(directory: Path) -> str:
    """A static program that only exits: what starting it costs is the starter's."""
    source, program = directory / "tiny.c", directory / "tiny"
    source.write_text(TINY)
    subprocess.run(["cc", "-static", "-nostdlib", "-O2", source, "-o", program], check=True)
    return str(program)


def main() -> int:
    print(
        f"{'median of ' + str(ROUNDS) + ' rounds: theirs / ours':<58}{'theirs':>9}{'ours':>9}",
        end="",
    )
    print(f"{'share':>8}{'aim':>7}\n{'':<58}{'ms':>9}{'ms':>9}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        tiny = tiny_program(Path(scratch))
        bench_one_id(tiny)
        try:
            un.plan(un.IdMap.auto())
        except un.PlanError as error:
            print(f"left out, maps of more than one id: {error}")
        else:
            bench_ranges(tiny)
        bench_heap(tiny)
        bench_doctor()
    return 0


if __name__ == "__main__":
    sys.exit(main())
