"""Benchmarks of starts and commands that have no target ratio; bench/aims.py has the others."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import (
    PRELUDE,
    USERNSCTL,
    classic_wrapper,
    compare,
    may_map_ranges,
    medians,
    native,
    print_header,
    print_row,
    spawner,
    tiny_program,
)

import usernsctl as un

ROUNDS = 400
HEAP_BYTES = 4 << 30


def bench_peers(tiny: str) -> None:
    bwrap = ("bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--dev-bind", "/", "/", tiny)
    ours = native(PRELUDE, "-r", "-m", "--", tiny)
    title = "bwrap / usernsctl-exec -r -m: tiny"
    compare(title, "", native(*bwrap), ours, rounds=ROUNDS)
    if may_map_ranges():
        with un.Namespace.create(un.IdMap.auto()) as namespace:
            title = "unshare + newuidmap + newgidmap / ns.run: tiny"
            run = lambda: namespace.run([tiny], check=True)  # noqa: E731
            compare(title, "", classic_wrapper(tiny), run, rounds=ROUNDS)


def bench_heap(tiny: str) -> None:
    """Compare the time of a call with a small heap and with a large heap.

    The measurements don't alternate, because the heap can't shrink and grow again between rounds.
    """
    with un.Namespace.create() as namespace:
        call = spawner(namespace, tiny)
        [small] = medians(call, rounds=ROUNDS)
        heap = bytearray(HEAP_BYTES)
        for at in range(0, HEAP_BYTES, 4096):
            heap[at] = 1
        [large] = medians(call, rounds=ROUNDS)
        del heap
    gc.collect()
    print_row(
        f"ns.spawn with an empty heap / with {HEAP_BYTES >> 30} GiB: tiny", small, large, "1.5"
    )


def bench_doctor() -> None:
    """Compare the time of `usernsctl doctor` with that of a Python process that does nothing."""
    command = [USERNSCTL, "doctor", "--no-runsc"]
    nothing, ours = medians(
        native(sys.executable, "-c", ""),
        lambda: subprocess.run(command, stdout=subprocess.DEVNULL),
        rounds=20,
    )
    print_row("python -c '' / usernsctl doctor --no-runsc (aim: 300 ms)", nothing, ours, "")


def main() -> int:
    print_header(f"median of {ROUNDS} rounds: theirs / ours")
    with tempfile.TemporaryDirectory() as scratch:
        tiny = tiny_program(Path(scratch))
        bench_peers(tiny)
        bench_heap(tiny)
        bench_doctor()
    return 0


if __name__ == "__main__":
    sys.exit(main())
