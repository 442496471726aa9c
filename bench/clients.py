"""Measure each client with and without usernsctl, in turns; print the ratios of the medians.

    $(tools/environment clients)/bin/python bench/clients.py [ROUNDS]

The other packages run commands without gVisor (inspect_ai's local provider, llm-sandbox with
bubblewrap), or in gVisor without usernsctl (gvisor).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples" / "clients"
SCRIPTS = Path(sys.executable).parent
GVISOR = "from gvisor import Sandbox\nwith Sandbox() as box: box.exec('true')"
Call = Callable[[], object]


@contextmanager
def inspect_ai(loop: asyncio.Runner) -> Iterator[tuple[Call, Call]]:
    """Yield calls that run a command in an existing sandbox."""
    from inspect_ai.util._sandbox.local import LocalSandboxEnvironment
    from inspect_provider import GvisorSandbox

    kinds = (GvisorSandbox, LocalSandboxEnvironment)
    boxes = [loop.run(kind.sample_init("task", None, {})) for kind in kinds]
    ours, theirs = (box["default"] for box in boxes)
    yield lambda: loop.run(ours.exec(["true"])), lambda: loop.run(theirs.exec(["true"]))
    for kind, box in zip(kinds, boxes, strict=True):
        loop.run(kind.sample_cleanup("task", None, box, False))


@contextmanager
def llm_sandbox() -> Iterator[tuple[Call, Call]]:
    """Yield calls that run code in a session."""
    from llm_sandbox.bubblewrap import BubblewrapSession
    from llm_sandbox_session import GvisorSession

    options = {"lang": "python", "skip_environment_setup": True}
    with GvisorSession(**options) as ours, BubblewrapSession(**options) as theirs:
        yield lambda: ours.run("print(1)"), lambda: theirs.run("print(1)")


def gvisor_package() -> tuple[Call, Call]:
    """Return calls that start a sandbox, run a command in it and end it."""
    alone = [sys.executable, "-I", "-c", GVISOR]
    within = [SCRIPTS / "usernsctl-exec", "-c", "-m", "--", *alone]
    return lambda: subprocess.run(within, check=True), lambda: subprocess.run(alone, check=True)


def report(name: str, calls: tuple[Call, Call], rounds: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    ours, theirs = map(statistics.median, times)
    print(f"{name}: {ours / theirs:.2f} ({ours * 1000:.0f} ms to {theirs * 1000:.0f} ms)")


def main(rounds: int) -> None:
    os.environ["PATH"] = f"{SCRIPTS}:{os.environ['PATH']}"
    sys.path.append(str(EXAMPLES))
    report("gvisor", gvisor_package(), rounds)
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner())
        report("inspect_ai", stack.enter_context(inspect_ai(loop)), rounds)
        report("llm-sandbox", stack.enter_context(llm_sandbox()), rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
