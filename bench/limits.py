"""Test of limits with programs that exceed them, and of the CPU time that watching a sandbox costs.

    python bench/limits.py [RUNS [PROGRAM...]]
    python bench/limits.py --price

Prints the table of docs/limits.md for the calling user. Control groups enforce the limits if the
script runs as root and usernsctl can create them. --price prints the CPU time of usernsctl-init,
which watches the limits of a sandbox, for idle sandboxes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measuring import USERNSCTL

import usernsctl as un

RUNS = 50
MIB = 1 << 20
# WITHIN is the number of seconds within which a sandbox must end after it reaches its limit.
# PATIENCE is the timeout of a run in seconds.
WITHIN, PATIENCE = 2, 120
# Number of bytes by which a sandbox may exceed its memory limit. A limit of more than ten times as
# many bytes may be exceeded by a tenth.
EXCESS = 64 * MIB

# Definitions that precede the code of each Python program that exceeds a limit (class Hog). The
# program prints lines as its usage grows, so the last line shows about when it reached the limit.
NAMES = """
import mmap, os, sys, time
size = 1 << 20
block = b"x" * size
held = []
def said(n=[0], every=32):
    if n[0] % every == 0: os.write(1, b"%d\\n" % n[0])
    n[0] += 1
"""
FILES = "fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\nwhile True: said(); os.write(fd, block)"
MAPPED = """
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 1 << 33)
all = mmap.mmap(fd, 1 << 33)
while True: said(); all.write(block)
"""
BOTH = """
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
while True:
    said(); os.write(fd, block[: size // 2]); held.append(bytearray(block[: size // 2]))
"""
FORKS = "while True:\n said(every=1)\n if os.fork() == 0: time.sleep(100)"
# The fork bomb is a shell function b, which prints its lines to descriptor 3, a copy of the shell's
# standard output, because b's own standard output is a pipe in `b | b`.
SHELL_BOMB = "exec 3>&1; b() { echo 0 >&3; b | b & }; b; sleep 100"
MEMORY = {"--memory": "256M"}


@dataclass(frozen=True)
class Hog:
    """A program that exceeds a limit.

    :ivar limits: the options of ``usernsctl run`` that set the limits.
    :ivar code: the source code of a Python program, or a command and its arguments.
    :ivar reason: the expected reason for the end of the sandbox.
    :ivar file: the argument of the Python program.
    """

    limits: dict[str, str]
    code: str | list[str]
    reason: str
    file: str = ""

    @property
    def command(self) -> list[str]:
        if isinstance(self.code, str):
            return ["python3", "-c", NAMES + self.code, self.file]
        return self.code


HOGS = {
    "heap": Hog(MEMORY, "while True: said(); held.append(bytearray(block))", "memory-limit"),
    "mmap": Hog(
        MEMORY,
        "while True:\n said(); held.append(mmap.mmap(-1, size)); held[-1].write(block)",
        "memory-limit",
    ),
    "threads that fill memory": Hog(
        MEMORY,
        "import threading\ndef fill():\n"
        " while True: said(every=1); held.append(mmap.mmap(-1, 16 * size));"
        " held[-1].write(16 * block)\n"
        "for _ in range(4): threading.Thread(target=fill).start()",
        "memory-limit",
    ),
    "memfd_create": Hog(
        MEMORY, "while True: said(); os.write(os.memfd_create('x'), block)", "memory-limit"
    ),
    "a file of the root filesystem": Hog(MEMORY, FILES, "memory-limit", "/root/x"),
    "/tmp, and a heap": Hog(MEMORY, BOTH, "memory-limit", "/tmp/x"),
    "/dev/shm, and a heap": Hog(MEMORY, BOTH, "memory-limit", "/dev/shm/x"),
    "mmap of a file": Hog(MEMORY, MAPPED, "memory-limit", "/root/x"),
    "processes of 10 MB": Hog(
        MEMORY,
        "while True:\n said(every=3)\n if os.fork() == 0: held = b'x' * 10**7; time.sleep(100)\n"
        " time.sleep(0.02)",
        "memory-limit",
    ),
    "fork bomb of Python": Hog({"--pids": "100"}, FORKS, "pids-limit"),
    "fork bomb of the shell": Hog({"--pids": "100"}, ["sh", "-c", SHELL_BOMB], "pids-limit"),
    "processor, four processes": Hog(
        # Without control groups, --cpus accepts only a whole number of processors.
        {"--cpus": "1" if os.geteuid() else "0.5"},
        "os.fork(), os.fork()\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\n"
        "os.write(1, b'0\\n')",
        "exited",
    ),
    "output": Hog(
        {"--max-output": "1M", "--on-overflow": "kill"}, ["sh", "-c", "exec yes"], "output-limit"
    ),
    "disk": Hog(
        {"--disk": "64M"},
        "n = 0\nfd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\ntry:\n"
        " while True: n += os.write(fd, block)\nexcept OSError: print(n)",
        "exited",
        "/root/x",
    ),
    "time": Hog({"--timeout": "2"}, ["sleep", "100"], "timeout"),
}


@dataclass(frozen=True)
class Run:
    """A run of a program that exceeds a limit (:class:`Hog`).

    :ivar result: the content of the result file of ``usernsctl run``.
    :ivar seconds: the seconds from the last line of output to the end of the run.
    :ivar wall: the duration of the run in seconds.
    """

    result: dict[str, float | str | None]
    seconds: float
    wall: float
    output: bytes

    def use(self, hog: Hog) -> tuple[float, float]:
        """Return how much of the limited resource the run used, and the limit, in the same unit."""
        if "--cpus" in hog.limits:
            usage: dict[str, float] = self.result["rusage"]  # type: ignore[assignment]
            return (usage["utime"] + usage["stime"]) / self.wall, float(hog.limits["--cpus"])
        if "--disk" in hog.limits:
            return int(self.output), 64 * MIB
        if hog.reason == "output-limit":
            return len(self.output), MIB
        return float(self.result["used"] or 0), float(self.result["limit"] or 0)

    def is_bounded(self, hog: Hog) -> bool:
        used, limit = self.use(hog)
        excess = EXCESS if "--memory" in hog.limits else 0
        return used <= max(limit * 1.1, limit + excess)


def run(hog: Hog) -> Run:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "result")
        options = [word for pair in hog.limits.items() for word in pair]
        if "--timeout" not in hog.limits:
            options += ["--timeout", str(PATIENCE)]
        command = [USERNSCTL, "run", *options, "--result", str(file), "--", *hog.command]
        start = last = time.monotonic()
        output = b""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            assert child.stdout is not None
            while chunk := os.read(child.stdout.fileno(), 1 << 16):
                output += chunk
                last = time.monotonic()
            child.wait()
        end = time.monotonic()
        if hog.reason == "timeout":
            last = start + float(hog.limits["--timeout"])
        return Run(json.loads(file.read_text()), end - last, end - start, output)


def shown(name: str, used: float) -> str:
    if name in ("--memory", "--disk", "--max-output"):
        return f"{used / MIB:.0f} MiB"
    return f"{used:.3g}"


def measure(name: str, hog: Hog, runs: int) -> str:
    """Run the program `hog` several times; return its row of the table in docs/limits.md."""
    done = [run(hog) for _ in range(runs)]
    counts = [
        sum(one.seconds <= WITHIN for one in done),
        sum(one.is_bounded(hog) for one in done),
        sum(one.result["reason"] == hog.reason for one in done),
    ]
    uses = [one.use(hog)[0] for one in done]
    option, limit = next(iter(hog.limits.items()))
    most = f"{shown(option, min(uses))} to {shown(option, max(uses))}"
    longest = max(one.seconds for one in done)
    told = " | ".join(f"{count}" for count in counts)
    for one in done:
        if one.result["reason"] != hog.reason or not one.is_bounded(hog):
            print("  ", one.result, file=sys.stderr)
    return f"| {name} | `{option} {limit}` | {told} | {most} | {longest:.1f} s |"


def price(memory: str | None, count: int = 10, seconds: int = 30) -> float:
    """Return the CPU seconds that usernsctl-init uses per second for `count` idle sandboxes."""
    limits = {} if memory is None else {"memory": memory}
    with un.SandboxHost(**limits) as host:  # type: ignore[arg-type]
        boxes = [host.start(None) for _ in range(count)]

        time.sleep(2)
        before = watchers()
        time.sleep(seconds)
        after = watchers()
        for box in boxes:
            box.close()
    return sum(after[pid] - before[pid] for pid in before if pid in after) / seconds


def watchers() -> dict[str, float]:
    """Return the CPU times of this user's usernsctl-init processes in seconds, by pid."""
    found: dict[str, float] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "comm").read_text()
            is_own = process.stat().st_uid == os.geteuid()
            if name.startswith("usernsctl-init") and is_own:
                found[process.name] = int((process / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue
    return found


def main() -> None:
    if sys.argv[1:] == ["--price"]:
        for memory in (None, "1G", "512M", "256M", "64M"):
            print(f"{memory}: {price(memory):.2%}")
        return
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    print("| program | limit | in 2 s | bounded | reason | used | longest |")
    print("|---|---|---|---|---|---|---|")
    for name, hog in HOGS.items():
        if len(sys.argv) < 3 or name in sys.argv[2:]:
            print(measure(name, hog, runs), flush=True)
    print(f"{runs} runs each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
