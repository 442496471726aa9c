"""Counts of the system calls and instructions that the start of a command takes.

`make counts` writes the counts to bench/counts.json. They do not depend on the host's load.

The counts omit what differs between hosts or between two runs:

- system calls that wait, whose number depends on timing;
- system calls that allocate memory, or read files of /etc, which may be long;
- instructions of Python, of newuidmap and newgidmap, and of the programs that read /etc;
- instructions of libc's startup: those of a program that does nothing are subtracted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

from processes import capture

PRELUDE = Path(sysconfig.get_path("scripts"), "usernsctl-exec")
# Fixed environment; its PATH contains the directory of newuidmap and newgidmap.
ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
WAITING = {"poll", "ppoll", "nanosleep", "clock_nanosleep", "restart_syscall", "sched_yield"}
MEMORY = {"brk", "mmap", "munmap", "mremap", "madvise", "mprotect", "futex"}
# System calls that read files, and are not counted. The number of newfstatat calls depends on
# timing: usernsctl polls /proc until a new namespace's holder is dumpable (csrc/ns/namespace.c).
READING = {"read", "newfstatat"}
SECONDS = 120
TINY = "void _start(void) { for (;;) %s; }"
EXIT = {
    "x86_64": '__asm__ volatile("syscall" : : "a"(231), "D"(0))',
    "aarch64": '__asm__ volatile("mov x8, 94; mov x0, 0; svc 0" : : : "x0", "x8")',
}
# Program that starts a command N times. The cost of one start is the difference between the counts
# for two values of N, divided by the difference of those values.
SPAWNING = """
import sys, usernsctl as un
times, program = int(sys.argv[1]), sys.argv[2]
{make}
for _ in range(times):
    {once}
"""
IN_PYTHON = {
    "un.run, fresh": ("", "un.run([program], check=True)"),
    "ns.spawn": (
        "import os; ns = un.Namespace.create()",
        "child = ns.spawn([program]); os.close(child.pidfd); os.waitpid(child.pid, 0)",
    ),
}


def compile_c(text: str, target: Path, *flags: str, compiler: str = "cc") -> Path:
    """Compile the C source `text` to the program `target`; return `target`."""
    source = target.with_suffix(".c")
    source.write_text(text)
    subprocess.run([compiler, "-O2", *flags, source, "-o", target], check=True)
    return target


def tiny_program(directory: Path) -> Path:
    """Compile a program whose only system call is exit_group(2)."""
    text = TINY % EXIT[os.uname().machine]
    return compile_c(text, directory / "tiny", "-static", "-nostdlib")


def trace(*command: str | Path, follow: bool = False) -> dict[int, list[str]]:
    """Return a dict that maps the pid of each process to the names of its system calls, in order.

    The process that executes `command` comes first. Without `follow`, only that process is traced,
    and its key is 0. execve(2) of a traced program ignores the set-user-ID bit and file
    capabilities.
    """
    with tempfile.NamedTemporaryFile() as log:
        options = ["-qqq", "-e", "signal=none", "-o", log.name, *(["-f"] if follow else [])]
        subprocess.run(
            ["strace", *options, "--", *command], check=True, env=ENVIRONMENT, timeout=SECONDS
        )
        lines = log.read().decode(errors="replace").splitlines()
    calls: dict[int, list[str]] = {}
    for line in lines:
        found = re.match(r"(\d+ +)?(\w+)\(", line)
        if found:
            calls.setdefault(int(found[1] or 0), []).append(found[2])
    return calls


def own_calls(names: list[str]) -> list[str]:
    """Return usernsctl-exec's system calls between libc's startup and the command's execve(2).

    :raises ValueError: usernsctl-exec has not executed the command.
    """
    end = names.index("execve", 1) + 1
    names = names[1:end]
    # Omit musl's startup, whose last system call is set_tid_address.
    return names[names.index("set_tid_address") + 1 :]


def trace_prelude(program: Path, *options: str) -> list[str]:
    (names,) = trace(PRELUDE, *options, "--", program).values()
    return own_calls(names)


def count_in_python(make: str, once: str, program: Path) -> Counter[str]:
    """Count the system calls of the Python statements `once` and of the child that they start."""
    script = SPAWNING.format(make=make, once=once)

    def total(times: int) -> Counter[str]:
        command = [sys.executable, "-c", script, str(times), str(program)]
        traced = trace(*command, follow=True)
        return Counter(name for names in traced.values() for name in names)

    few, many = total(5), total(15)
    return Counter({name: round((many[name] - few[name]) / 10) for name in many})


def stable(names: Counter[str]) -> int:
    return sum(names[name] for name in names.keys() - WAITING - MEMORY - READING)


def instructions(*command: str | Path) -> int:
    """Count the instructions that a program executes, with callgrind."""
    with tempfile.TemporaryDirectory() as scratch:
        done = capture(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=callgrind.out", *command],
            cwd=scratch,
            env=ENVIRONMENT,
            timeout=SECONDS,
        )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if not found:
        raise RuntimeError(f"callgrind printed no number of instructions: {done.stderr}")
    return int(found[1].replace(",", ""))


def may_map_ranges() -> bool:
    done = subprocess.run(
        [PRELUDE, "--map-auto", "-r", "--", "true"], capture_output=True, env=ENVIRONMENT
    )
    return done.returncode == 0


def count(directory: Path) -> dict[str, int]:
    """Count the system calls and instructions of each measured way to start a command.

    Omit the start with subordinate ids if this user may not map any.
    """
    tiny = tiny_program(directory)
    text = "int main(void) { return 0; }"
    nothing = compile_c(text, directory / "nothing", "-static-pie", compiler="musl-gcc")
    start = instructions(nothing)
    counts = {}
    for options in ("-r", "-rmniuC"):
        counts[f"usernsctl-exec {options}: calls"] = len(trace_prelude(tiny, options))
        # Use a command that does not exist, so that only usernsctl-exec's instructions are counted.
        failing = [PRELUDE, options, "--", "/nonexistent/command"]
        counts[f"usernsctl-exec {options}: instructions"] = instructions(*failing) - start
    if may_map_ranges():
        calls = Counter(trace_prelude(tiny, "--map-auto", "-r"))
        counts["usernsctl-exec --map-auto -r: calls"] = stable(calls)
    for name, (make, once) in IN_PYTHON.items():
        counts[f"{name}: calls"] = stable(count_in_python(make, once, tiny))
    return counts


def kind_of_user() -> str:
    """Return "root" if this process runs as root, otherwise "user".

    The counts of root and of other users differ, because a program with capabilities makes other
    system calls.
    """
    return "root" if os.geteuid() == 0 else "user"


def main() -> int:
    """Read counts as JSON from standard input; print them with this user's counts updated."""
    known = json.loads(sys.stdin.read() or "{}")
    with tempfile.TemporaryDirectory() as scratch:
        known[kind_of_user()] = count(Path(scratch))
    print(json.dumps(known, indent=4, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
