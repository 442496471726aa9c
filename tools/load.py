"""Run operations of usernsctl many times, and check that nothing grows.

    load.py [--spawns N] [--threads N] [--kept N] [--pooled N] [--restored N] [--detached N]
            [--races N] [--pairs PATTERN] [--seed TEXT] [--memory-growth MIB]

After a warm-up, the script counts what its process has: descriptors, memory, threads, children,
zombies, mounts, and files in the state directory. The process adopts orphans, so they count as
children. Namespaces need not be counted, because each lives only as long as a process, a descriptor
or a mount.

After each load, the counts must be the same as before. Only the memory may grow, by --memory-growth
MiB, because the heap of Python and libc never becomes quite stable.

--races N runs pairs of operations on one object, each pair N times, in two threads. Delays,
processors and switch intervals are drawn at random with --seed. Each operation must succeed or
raise a documented error, within a minute.

The script prints a line for each load. It exits with status 1 if a count has grown or an operation
has failed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fnmatch
import gc
import itertools
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import usernsctl as un

WARM_UP = 50
SETTLE_SECONDS = 20
RACE_SECONDS = 60
MIB = 1 << 20
# Option of prctl(2) that makes orphans children of this process.
PR_SET_CHILD_SUBREAPER = 36

Counts = dict[str, int]


def memory() -> int:
    """Return the size of this process's resident anonymous memory, in bytes."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("Anonymous:"))
    return int(line.split()[1]) << 10


def children() -> list[str]:
    """Return the states of this process's children, each as a letter of proc_pid_stat(5)."""
    found = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
                    found.append(stat.rpartition(")")[2].split()[0])
    return found


def count(state: Path) -> Counts:
    gc.collect()
    found = children()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(found),
        "zombies": found.count("Z"),
        "mounts": len(Path("/proc/self/mountinfo").read_bytes().splitlines()),
        "files": len(list(state.rglob("*"))),
    }


class Load:
    """Runner of loads that share a state directory; records whether all loads have succeeded."""

    def __init__(self, state: Path, growth: int) -> None:
        self.state, self.growth, self.is_good = state, growth, True

    def run(self, name: str, number: int, many: Callable[[int], None]) -> None:
        """Run `number` operations after a warm-up; print how memory and counts have grown."""
        if not number:
            return
        many(min(number, WARM_UP))
        before, memory_before = count(self.state), memory()
        start = time.monotonic()
        many(number)
        seconds = time.monotonic() - start
        deadline = time.monotonic() + SETTLE_SECONDS
        # Wait, because for a moment a killed process is still a zombie, whose namespaces exist.
        while (after := count(self.state)) != before and time.monotonic() < deadline:
            time.sleep(0.1)
        grown = {key: after[key] - before[key] for key in before if after[key] != before[key]}
        more = (memory() - memory_before) / MIB
        self.is_good = self.is_good and not grown and more <= self.growth
        print(f"{name}: {number} in {seconds:.0f} s; memory {more:+.1f} MiB; grown: {grown}")
        sys.stdout.flush()


def spawn(number: int, threads: int) -> None:
    numbers = iter(range(number))

    def run() -> None:
        for _ in numbers:
            un.run(["true"], check=True)

    # Create a future for each thread, not for each command: the futures of all commands would need
    # ever more memory.
    with ThreadPoolExecutor(threads) as executor:
        for done in [executor.submit(run) for _ in range(threads)]:
            done.result()


def keep(number: int) -> None:
    """Create `number` namespaces, as many at a time as the limit of descriptors allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left, most = number, (soft - 200) // 2
    while left > 0:
        with contextlib.ExitStack() as stack:
            for _ in range(min(left, most)):
                stack.enter_context(un.Namespace.create())
        left -= most


def lease(number: int) -> None:
    with un.SandboxHost() as host, host.pool(4) as pool:
        for _ in range(number):
            with pool.acquire() as box:
                box.run(["true"], check=True)


def restore(number: int) -> None:
    with un.SandboxHost() as host, host.template() as template:
        for _ in range(number):
            with template.start() as box:
                box.run(["true"], check=True)


def detach(number: int) -> None:
    """Start `number` detached sandboxes, which then run at the same time, and end them."""
    names = [f"load-{os.getpid()}-{index}" for index in range(number)]
    started = []
    try:
        with un.SandboxHost() as host:
            for name in names:
                host.start(None, id=name, detach=True).release()
                started.append(name)
    finally:
        for name in started:
            un.Sandbox.attach(name).close()
        reap_orphans()


def reap_orphans() -> None:
    """Reap orphans of this process: the processes that watched detached sandboxes."""
    deadline = time.monotonic() + SETTLE_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)


def command_operations() -> tuple[Callable[[], None], dict[str, Callable[[], object]]]:
    """Start a command.

    Return a function that ends the command, and a dict that maps names to operations on the
    command.
    """
    popen = un.Popen(["sleep", "1000"], pid=True, init=True)

    def end() -> None:
        popen.kill()
        popen.wait(RACE_SECONDS)

    return end, {
        "poll": popen.poll,
        "kill": popen.kill,
        "terminate": popen.terminate,
        "wait": lambda: popen.wait(0.01),
        "fork": fork,
        "start": lambda: un.run(["true"]),
        "interrupt": interrupt,
    }


def namespace_operations() -> tuple[Callable[[], None], dict[str, Callable[[], object]]]:
    """Create a namespace.

    Return a function that closes the namespace, and a dict that maps names to operations on the
    namespace.
    """
    namespace = un.Namespace.create()
    return namespace.close, {
        "run": lambda: namespace.run(["true"]),
        "close": namespace.close,
        "fork": fork,
        "interrupt": interrupt,
    }


def sandbox_operations() -> tuple[Callable[[], None], dict[str, Callable[[], object]]]:
    """Start a sandbox, in a SandboxHost that all races share.

    Return a function that ends the sandbox, and a dict that maps names to operations on the
    sandbox.
    """
    box = HOST[0].start(None)
    return box.close, {
        "run": lambda: box.run(["true"], timeout=RACE_SECONDS / 2),
        "kill": box.kill,
        "poll": box.poll,
        "close": box.close,
        "fork": fork,
        "interrupt": interrupt,
    }


HOST: list[un.SandboxHost] = []


def fork() -> None:
    """Fork a child that drops all usernsctl objects that it has inherited.

    The child blocks SIGINT. A KeyboardInterrupt would make the child continue the loads, as a
    second process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        pid = os.fork()
        if pid == 0:
            try:
                gc.collect()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, as Ctrl-C does."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGINT)


Make = Callable[[], tuple[Callable[[], None], dict[str, Callable[[], object]]]]


class Race:
    """Two concurrent operations on one object. The first operation runs in the main thread."""

    def __init__(self, make: Make, first: str, second: str, seed: str) -> None:
        self.make, self.first, self.second = make, first, second
        self.draw = random.Random(seed)
        self.failures: set[str] = set()
        self.processors = sorted(os.sched_getaffinity(0))

    def run(self, rounds: int) -> None:
        interval = sys.getswitchinterval()
        for _ in range(rounds):
            sys.setswitchinterval(self.draw.choice((1e-6, 1e-5, interval)))
            self._run_once()
        sys.setswitchinterval(interval)
        os.sched_setaffinity(0, self.processors)

    def _run_once(self) -> None:
        end, operations = self.make()
        barrier = threading.Barrier(2)

        def run(name: str, delay: float, processor: int) -> None:
            os.sched_setaffinity(0, {processor})
            barrier.wait()
            time.sleep(delay)
            try:
                # The other thread may have closed the object, so ignore documented errors.
                with contextlib.suppress(un.UsernsError, ValueError, un.TimeoutExpired):
                    operations[name]()
            except Exception as error:
                self.failures.add(f"{name}: {error!r}")

        thread = threading.Thread(target=run, args=(self.second, *self._draw()), daemon=True)
        try:
            thread.start()
            run(self.first, *self._draw())
            thread.join(RACE_SECONDS)
        except KeyboardInterrupt:
            thread.join(RACE_SECONDS)
        if thread.is_alive():
            raise SystemExit(f"{self.second} does not end beside {self.first}")
        try:
            end()
        except (un.UsernsError, un.TimeoutExpired) as error:
            self.failures.add(f"end: {error!r}")

    def _draw(self) -> tuple[float, int]:
        delay = self.draw.choice((0.0, 0.0, self.draw.random() * 0.003))
        return delay, self.draw.choice(self.processors)


def races(load: Load, rounds: int, seed: str, only: str) -> None:
    """Run a race for each pair of operations whose names contain `only`."""
    kinds: dict[str, Make] = {
        "command": command_operations,
        "namespace": namespace_operations,
        "sandbox": sandbox_operations,
    }
    with un.SandboxHost() as host:
        HOST[:] = [host]
        for kind, make in kinds.items():
            end, operations = make()
            end()
            for first, second in itertools.combinations_with_replacement(operations, 2):
                name = f"{kind}: {first}, {second}"
                if first == "interrupt" or not fnmatch.fnmatch(name, only):
                    continue
                race = Race(make, first, second, f"{seed} {name}")
                load.run(name, rounds, race.run)
                if race.failures:
                    load.is_good = False
                    print("  failures:", *sorted(race.failures), sep="\n    ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, number in (
        ("spawns", 100_000),
        ("threads", 8),
        ("kept", 10_000),
        ("pooled", 10_000),
        ("restored", 1_000),
        ("detached", 50),
        ("races", 1_000),
        ("memory-growth", 4),
    ):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--pairs", default="*", help="a pattern of pairs, such as 'command: *'")
    parser.add_argument("--seed", default="0")
    given = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_RUNTIME_DIR"] = name
        load = Load(Path(name), given.memory_growth)
        load.run("spawns", given.spawns, lambda number: spawn(number, given.threads))
        load.run("kept namespaces", given.kept, keep)
        load.run("sandboxes of a pool", given.pooled, lease)
        load.run("restored sandboxes", given.restored, restore)
        load.run("detached sandboxes", given.detached, detach)
        if given.races:
            races(load, given.races, given.seed, given.pairs)
    return 0 if load.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
