"""Benchmark of RayPool: throughput for several numbers of nodes, and CPU time per task.

    $(tools/environment ray)/bin/python bench/on_ray.py [NODES [SVG]]

The nodes are simulated: each has its own raylet, actor and two sandboxes, but all share the CPUs of
the host. So a task sleeps for SECONDS seconds instead of computing, as if each node had its own
CPUs, and the throughput of n nodes is compared with n times the throughput of one node.

The script also prints the CPU time per task of each component, such as the driver or the actors.
The CPU time does not depend on the load of the host. The driver's CPU time limits how many tasks
per second one driver can send, and so how many nodes it can serve.

If SVG is given, a plot is written to the file SVG.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

import ray
from ray.cluster_utils import Cluster

from usernsctl.contrib.ray import RayPool

NODES = 6
PER_NODE = 2
# Time in seconds for which a task sleeps.
SECONDS = 4
# Number of tasks per sandbox.
TASKS = 8
# The number of tasks that only run true(1), to measure the CPU time per task.
SHORT = 200
STORE_BYTES = 80 << 20
TICKS = os.sysconf("SC_CLK_TCK")


def processor_times() -> Counter[str]:
    """Return the CPU time of each component in seconds, including the time of exited processes.

    The processes of a sandbox are found as descendants of the sandbox's actor.
    """
    found: dict[int, tuple[int, str, float]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text(errors="replace").rsplit(") ", 1)[1].split()
            words = (directory / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        # These fields of /proc/PID/stat are utime and stime, then cutime and cstime, the times of
        # the children that the process has waited for (proc_pid_stat(5)).
        found[int(directory.name)] = int(fields[1]), words, sum(map(int, fields[11:15])) / TICKS
    times: Counter[str] = Counter()

    def add(parent: int, part: str) -> None:
        for pid, (ppid, words, seconds) in found.items():
            if ppid == parent:
                own = part_of(words) or part
                times[own] += seconds
                add(pid, "sandboxes" if own in ("actors", "sandboxes") else own)

    times["driver"] += found[os.getpid()][2]
    add(os.getpid(), "others of Ray")
    return times


def part_of(words: str) -> str | None:
    for part, text in (
        ("actors", "ray::SandboxActor"),
        ("gcs", "gcs_server"),
        ("raylets", "raylet/raylet"),
    ):
        if text in words:
            return part
    return None


def bench_nodes(cluster: Cluster, most: int) -> list[float]:
    """Return a list of throughputs in tasks per second, for 1, 2, ... nodes."""
    rates = []
    for nodes in range(1, most + 1):
        cluster.add_node(
            num_cpus=1, object_store_memory=STORE_BYTES, resources={"sandboxes": PER_NODE}
        )
        with RayPool(PER_NODE, max_uses=10_000, start_timeout=600) as pool:
            while pool.progress().actors < nodes:
                time.sleep(0.1)
            # Start all sandboxes before the time is measured.
            list(pool.map([["sleep", "1"]] * (2 * PER_NODE * nodes)))
            start = time.perf_counter()
            list(pool.map_unordered([["sleep", str(SECONDS)]] * (TASKS * PER_NODE * nodes)))
            rates.append(TASKS * PER_NODE * nodes / (time.perf_counter() - start))
        ideal = nodes * PER_NODE / SECONDS
        print(
            f"{nodes:>6} nodes {rates[-1]:>8.2f} tasks a second {rates[-1] / ideal:>8.0%} of ideal"
        )
    return rates


def bench_times() -> None:
    with RayPool(PER_NODE, max_uses=10_000, start_timeout=600) as pool:
        list(pool.map([["true"]] * 20))
        before = processor_times()
        start = time.perf_counter()
        list(pool.map_unordered([["true"]] * SHORT))
        taken = time.perf_counter() - start
        after = processor_times()
    print(f"processor time of a task, ms, of {SHORT} tasks in {taken:.0f} s")
    for part in ("driver", "gcs", "raylets", "others of Ray", "actors", "sandboxes"):
        print(f"    {part:<16}{1000 * (after[part] - before[part]) / SHORT:>8.2f}", flush=True)


WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 440, 300, 56, 250, 24, 420
STYLE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "time.svg"


def plot(rates: list[float]) -> str:
    """Return an SVG plot of the throughput, with a line for linear growth (n times one node)."""
    style = STYLE.read_text()
    style = style[style.index("  <style>") : style.index("</style>\n") + len("</style>\n")]
    count, most = len(rates), rates[0] * len(rates)

    def place(nodes: float, rate: float) -> str:
        x = LEFT + (RIGHT - LEFT) * nodes / count
        return f"{x:.0f},{BOTTOM - (BOTTOM - TOP) * rate / most:.0f}"

    points = [place(number, rate) for number, rate in enumerate(rates, 1)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">\n',
        '  <title id="title">Tasks a second by the number of nodes</title>\n',
        style,
        f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" '
        'rx="8"/>\n',
        f'  <path d="M{LEFT},{TOP} V{BOTTOM} H{RIGHT}" fill="none" stroke="#888"/>\n',
        f'  <path d="M{place(0, 0)} L{place(count, most)}" fill="none" stroke="#888" '
        'stroke-dasharray="4 4"/>\n',
        f'  <polyline points="{place(0, 0)} {" ".join(points)}" fill="none" stroke="#2a7ab9" '
        'stroke-width="2"/>\n',
    ]
    for number, (point, rate) in enumerate(zip(points, rates, strict=True), 1):
        x, _, y = point.partition(",")
        parts.append(f'  <circle cx="{x}" cy="{y}" r="4" fill="#2a7ab9"/>\n')
        parts.append(f'  <text class="small" x="{x}" y="{BOTTOM + 18}">{number}</text>\n')
        parts.append(f'  <text class="small" x="{x}" y="{int(y) + 20}">{rate:.1f}</text>\n')
    for x, y, text in (
        (LEFT, HEIGHT - 12, "nodes; dashed: proportional to the number of nodes"),
        (LEFT + 8, TOP + 6, "tasks a second"),
    ):
        parts.append(f'  <text class="small" x="{x}" y="{y}">{escape(text)}</text>\n')
    return "".join([*parts, "</svg>\n"])


def main(most: int, target: str | None) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as short:
        os.environ["RAY_TMPDIR"] = short
        head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            rates = bench_nodes(cluster, most)
            bench_times()
        finally:
            ray.shutdown()
            cluster.shutdown()
    if target is not None:
        Path(target).write_text(plot(rates))


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else NODES, sys.argv[2] if len(sys.argv) > 2 else None
    )
