"""Benchmark of programs that start many commands or sandboxes: rates, memory and leaks.

    python bench/sandboxes.py [COMMANDS [SANDBOXES]]

The rate of commands is compared with subprocess and nsenter(1), the rate of sandboxes with ``runsc
--rootless``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import usernsctl as un
from usernsctl.gvisor import oci

COMMANDS = 10_000
SANDBOXES = 100
THREADS = 8
AT_ONCE = 8
# The number of sandboxes that run while the memory per sandbox is measured.
RUNNING = 5


def in_threads(call: Callable[[], object], count: int) -> float:
    """Call `call` about `count` times in THREADS threads; return the calls per second."""
    share = max(count // THREADS, 1)

    def work() -> None:
        for _ in range(share):
            call()

    with ThreadPoolExecutor(THREADS) as pool:
        start = time.perf_counter()
        for result in [pool.submit(work) for _ in range(THREADS)]:
            result.result()
        return share * THREADS / (time.perf_counter() - start)


def left_open() -> tuple[int, int, int]:
    """Return how many open descriptors, children and mounts this process has."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return len(os.listdir("/proc/self/fd")), len(children), len(mounts)


def memory() -> int:
    """Return the peak of this process's resident memory, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bench_commands(count: int) -> None:
    with un.Namespace.create() as namespace:
        with namespace.popen(["sleep", "infinity"]) as target:
            nsenter = ["nsenter", "-U", "--preserve-credentials", "-t", str(target.pid), "true"]
            theirs = in_threads(lambda: subprocess.run(nsenter, check=True), count // 10)
            target.kill()
        in_threads(lambda: namespace.run(["true"], check=True), count // 10)
        before, memory_before = left_open(), memory()
        ours = in_threads(lambda: namespace.run(["true"], check=True), count)
        left = [now - then for now, then in zip(left_open(), before, strict=True)]
        grown = memory() - memory_before
    print(f"commands in a kept namespace, {THREADS} threads")
    print(f"    subprocess + nsenter: {theirs:8.0f} a second")
    print(f"    ns.run:               {ours:8.0f} a second")
    print("    left after {} of them: {} descriptors, {} children, {} mounts".format(count, *left))
    print(f"    most memory: {grown:+d} KiB", flush=True)


def pids_of(words: str) -> list[int]:
    """Return the pids of the processes whose command line contains `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def proportional_size(pids: Iterable[int]) -> int:
    """Return the sum of the processes' proportional set sizes (Pss in smaps_rollup), in KiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


def tell_running(title: str, pids: list[int], count: int) -> None:
    size = proportional_size(pids) / count / 1024
    print(f"    {title:<24}{len(pids) / count:.1f} processes, {size:.1f} MiB", flush=True)


async def start_and_close(host: un.SandboxHost, count: int) -> float:
    slots = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with slots, await host.start_async(["true"]) as sandbox:
            assert await sandbox.wait_async() == 0

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return count / (time.perf_counter() - start)


class Rootless:
    """Starter of sandboxes that runs ``runsc --rootless run``, without usernsctl."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def start(self, *command: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        self._count += 1
        name = f"bench-{os.getpid()}-{self._count}"
        bundle = self._directory / name
        one = [un.Extent(0, 0, 1)]
        options = oci.BuildOptions(
            args=command, rootfs="/", uid_map=one, gid_map=one, env={"PATH": "/usr/bin:/bin"}
        )
        oci.create(bundle, oci.build(options))
        runsc = ["runsc", "--rootless", "--ignore-cgroups", "--network=none"]
        runsc += ["--overlay2=root:memory", f"--root={self._directory}/state"]
        return subprocess.Popen([*runsc, "run", f"--bundle={bundle}", name], stdout=stdout)

    def run(self) -> None:
        assert self.start("true").wait() == 0


class Exec:
    """Caller of ``runsc exec``, which runs a command in a sandbox without usernsctl's agent."""

    def __init__(self, box: un.Sandbox) -> None:
        self._box = box

    def __call__(self, *command: str) -> None:
        with self._box._get().runsc("exec", self._box.id, *command) as (words, needed):
            un.run(words, **needed, stdin=un.DEVNULL, capture_output=True, check=True)

    async def start(self, *command: str) -> None:
        with self._box._get().runsc("exec", self._box.id, *command) as (words, needed):
            process = await un.create_subprocess_exec(
                *words, **needed, stdin=un.DEVNULL, stdout=un.PIPE
            )
        await process.communicate()


def median_of(call: Callable[[], object], count: int) -> float:
    """Call `call` `count` times; return the median time in milliseconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


async def in_tasks(call: Callable[[], Awaitable[object]], count: int) -> float:
    """Call `call` about `count` times in AT_ONCE asyncio tasks; return the calls per second."""
    share = max(count // AT_ONCE, 1)

    async def work() -> None:
        for _ in range(share):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return share * AT_ONCE / (time.perf_counter() - start)


def bench_further(count: int) -> None:
    """Compare the time of a command started by a sandbox's agent with that of ``runsc exec``."""
    print("other commands in a sandbox, medians in ms")
    with un.SandboxHost() as host, host.start(["sleep", "1000"]) as box:
        by_runsc = Exec(box)

        def by_agent(*command: str) -> None:
            box.run(command, stdin=un.DEVNULL, capture_output=True, check=True)

        async def start(*command: str) -> None:
            process = await box.create_subprocess_exec(*command, stdin=un.DEVNULL, stdout=un.PIPE)
            await process.communicate()

        static = shutil.which("busybox")
        for command in ([static, "echo"] if static else [], ["/bin/echo"]):
            if command:
                by_agent(*command)
                ours = median_of(lambda c=command: by_agent(*c), count)
                theirs = median_of(lambda c=command: by_runsc(*c), max(count // 4, 5))
                name = " ".join(map(os.path.basename, command))
                print(f"    {name:<14} runsc exec {theirs:6.1f}    box.run {ours:6.1f}"
                      f"    {ours / theirs:.2f}")  # fmt: skip
                more = asyncio.run(in_tasks(lambda c=command: start(*c), 4 * count))
                fewer = asyncio.run(in_tasks(lambda c=command: by_runsc.start(*c), count))
                print(f"    {'':<14} {AT_ONCE} at once from asyncio, a second: "
                      f"{fewer:.0f}, {more:.0f}    {more / fewer:.1f}", flush=True)  # fmt: skip


def family(pid: int) -> list[int]:
    """Return the pids of a process and its descendants."""
    found = [pid]
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text().split():
            found += family(int(child))
    return found


def await_stock(pool: un.SandboxPool) -> None:
    """Wait until the pool is full and no used sandbox is left."""
    while pool.stats().idle < RUNNING or pool.stats().leased:
        time.sleep(0.01)
    time.sleep(0.2)


def bench_pool(count: int) -> None:
    """Compare the time to acquire a sandbox from a pool with the time to start one.

    Both times include the first command in the sandbox, until its output is complete.
    """

    def until_answer(wish: Callable[[], contextlib.AbstractContextManager[un.Sandbox]]) -> float:
        start = time.perf_counter()
        with wish() as box:
            box.run(["true"], stdin=un.DEVNULL, capture_output=True, check=True)
            return time.perf_counter() - start

    with un.SandboxHost() as host:
        theirs = [until_answer(lambda: host.start(["sleep", "1000"])) for _ in range(count)]
        ours = []
        before = set(family(os.getpid()))
        with host.pool(RUNNING) as pool:
            for _ in range(count):
                await_stock(pool)
                ours.append(until_answer(pool.acquire))
            await_stock(pool)
            waiting = sorted(set(family(os.getpid())) - before)
            slow, fast = (1000 * statistics.median(times) for times in (theirs, ours))
            print("a sandbox and a command in it, medians in ms")
            print(f"    start + box.run {slow:6.1f}    acquire + box.run {fast:6.1f}"
                  f"    {fast / slow:.3f}")  # fmt: skip
            tell_running("waiting in a pool:", waiting, RUNNING)


def bench_left(count: int) -> None:
    """Print by how much descriptors, processes and memory grow if a sandbox runs many commands."""
    with un.SandboxHost() as host, host.start(["sleep", "1000"]) as box:

        def by_agent() -> None:
            box.run(["true"], stdin=un.DEVNULL, capture_output=True, check=True)

        async def start() -> None:
            process = await box.create_subprocess_exec("true", stdin=un.DEVNULL)
            await process.communicate()

        for name, run in (
            (f"{THREADS} threads", lambda count: in_threads(by_agent, count)),
            ("asyncio", lambda count: asyncio.run(in_tasks(start, count))),
        ):
            run(max(count // 10, 1))
            inside = box.check_output(["ps", "-e"]).count(b"\n")
            before, memory_before = left_open(), memory()
            rate = run(count)
            left = [now - then for now, then in zip(left_open(), before, strict=True)]
            inside = box.check_output(["ps", "-e"]).count(b"\n") - inside
            print(f"    {name}: {rate:.0f} a second; left after {count}: {left[0]} descriptors, "
                  f"{left[1]} children, {inside} processes inside, "
                  f"{memory() - memory_before:+d} KiB", flush=True)  # fmt: skip


def bench_sandboxes(count: int) -> None:
    print(f"sandboxes, {AT_ONCE} at a time")
    with tempfile.TemporaryDirectory() as scratch, un.SandboxHost() as host:
        peer = Rootless(Path(scratch))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            start = time.perf_counter()
            for result in [pool.submit(peer.run) for _ in range(count)]:
                result.result()
            theirs = count / (time.perf_counter() - start)
        ours = asyncio.run(start_and_close(host, count))
        print(f"    runsc --rootless run:   {theirs:5.1f} a second")
        print(f"    un.Sandbox:             {ours:5.1f} a second", flush=True)
        bench_running(host, peer)


def bench_running(host: un.SandboxHost, peer: Rootless) -> None:
    print(f"a sandbox that runs, mean of {RUNNING}")
    command = ("sh", "-c", "echo runs; exec sleep 1000")
    started = [peer.start(*command, stdout=subprocess.PIPE) for _ in range(RUNNING)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
    tell_running("runsc --rootless run:", pids_of(f"bench-{os.getpid()}-"), RUNNING)
    for process in started:
        process.terminate()
        process.communicate()
    boxes = [host.start(["sleep", "1000"], id=f"ours-{os.getpid()}-{n}") for n in range(RUNNING)]
    tell_running("un.Sandbox:", pids_of(f"ours-{os.getpid()}-"), RUNNING)
    start = time.perf_counter()
    for box in boxes:
        box.close()
    print(f"    closed in {1000 * (time.perf_counter() - start) / RUNNING:.0f} ms each")
    detached = [
        host.start(["sleep", "1000"], id=f"detached-{os.getpid()}-{n}", detach=True)
        for n in range(RUNNING)
    ]
    tell_running("un.Sandbox, detached:", pids_of(f"detached-{os.getpid()}-"), RUNNING)
    for box in detached:
        box.close()


def main() -> int:
    commands, sandboxes = [*map(int, sys.argv[1:]), *(COMMANDS, SANDBOXES)[len(sys.argv) - 1 :]]
    bench_commands(commands)
    bench_sandboxes(sandboxes)
    bench_further(sandboxes)
    bench_pool(sandboxes)
    bench_left(commands)
    return 0


if __name__ == "__main__":
    sys.exit(main())
