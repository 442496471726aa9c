"""Benchmark of packages that run commands, each with and without usernsctl.

    $(tools/environment clients)/bin/python bench/clients.py [ROUNDS]

Prints the ratio of the medians for each package. Runs with and without usernsctl alternate. Without
usernsctl, most packages run commands without gVisor: inspect_ai by its local provider, llm-sandbox
by bubblewrap, smolagents by its interpreter, Jupyter and PyAirbyte natively. The gvisor package
runs them in gVisor in both cases. PyAirbyte is measured only if USERNSCTL_PYAIRBYTE and
USERNSCTL_CONNECTOR name the virtual environments of PyAirbyte and of the connector, as printed by
tools/environment.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TREE = Path(__file__).parents[1]
EXAMPLES = TREE / "examples" / "clients"
SCRIPTS = Path(sys.executable).parent
GVISOR = "from gvisor import Sandbox\nwith Sandbox() as box: box.exec('true')"
# Program for PyAirbyte's interpreter. Checks the connection with each connector in turn, and prints
# the times.
CHECKS = """
import sys, time
import airbyte, yaml
rounds, manifest, url, *executables = sys.argv[1:]
config = {"url": url, "__injected_declarative_manifest": yaml.safe_load(open(manifest))}
names = enumerate(executables)
sources = [airbyte.get_source(f"source-{i}", config, local_executable=path) for i, path in names]
for _ in range(int(rounds)):
    for source in sources:
        start = time.perf_counter()
        source.check()
        print("seconds:", time.perf_counter() - start)
"""
Call = Callable[[], object]


@contextmanager
def inspect_ai(loop: asyncio.Runner) -> Iterator[tuple[Call, Call]]:
    """Yield two functions that run a command: in a sandbox of usernsctl, and on the host."""
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
    """Yield two functions that run code in a session: with usernsctl, and with bubblewrap."""
    from llm_sandbox.bubblewrap import BubblewrapSession
    from llm_sandbox_session import GvisorSession

    options = {"lang": "python", "skip_environment_setup": True}
    with GvisorSession(**options) as ours, BubblewrapSession(**options) as theirs:
        yield lambda: ours.run("print(1)"), lambda: theirs.run("print(1)")


def gvisor_package() -> tuple[Call, Call]:
    """Return two functions that start a sandbox, run a command in it, and close the sandbox.

    The first function runs the gvisor package under usernsctl-exec, the second without it.
    """
    alone = [sys.executable, "-I", "-c", GVISOR]
    within = [SCRIPTS / "usernsctl-exec", "-c", "-m", "--", *alone]
    return lambda: subprocess.run(within, check=True), lambda: subprocess.run(alone, check=True)


@contextmanager
def smolagents() -> Iterator[tuple[Call, Call]]:
    """Yield two functions that run an agent's step: in gVisor, and in smolagents' interpreter."""
    from smolagents import LocalPythonExecutor
    from smolagents.monitoring import AgentLogger
    from smolagents_executor import GvisorExecutor

    step = "total = sum(range(10000))\nprint(total)"
    ours, theirs = GvisorExecutor([], AgentLogger()), LocalPythonExecutor([])
    theirs.send_tools({})
    yield lambda: ours(step), lambda: theirs(step)
    ours.cleanup()


@contextmanager
def jupyter() -> Iterator[tuple[Call, Call]]:
    """Yield two functions that start a kernel, run a cell and shut the kernel down.

    The first function's kernel runs in gVisor, the second function's natively.
    """
    from jupyter_client.manager import start_new_kernel

    def call(name: str) -> None:
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        manager, client = start_new_kernel(kernel_name=name, **nowhere)
        client.execute_interactive("1 + 1", silent=True)
        client.stop_channels()
        manager.shutdown_kernel()

    with tempfile.TemporaryDirectory() as directory:
        os.environ["JUPYTER_DATA_DIR"] = os.environ["JUPYTER_RUNTIME_DIR"] = directory
        subprocess.run([sys.executable, EXAMPLES / "jupyter_kernel.py", "gvisor"], check=True)
        yield lambda: call("gvisor"), lambda: call("python3")


def report(name: str, times: tuple[list[float], list[float]]) -> None:
    ours, theirs = map(statistics.median, times)
    print(f"{name}: {ours / theirs:.2f} ({ours * 1000:.0f} ms to {theirs * 1000:.0f} ms)")


def measure(name: str, calls: tuple[Call, Call], rounds: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    report(name, times)


def measure_pyairbyte(environment: str, connector: str, rounds: int) -> None:
    """Print how long PyAirbyte takes to check a connection, in gVisor and natively.

    PyAirbyte starts a new connector process for each check.
    """
    sys.path.append(str(TREE / "demo"))
    from stations import serve

    program = f"{connector}/bin/source-declarative-manifest"
    with tempfile.TemporaryDirectory() as directory, serve() as url:
        files, script = Path(directory, "files"), Path(directory, "connector")
        files.mkdir()
        options = ["--network", "host", "--bind", files, "--bind", connector]
        wrap = [SCRIPTS / "usernsctl", "wrap", "-o", script, *options, "--", program]
        subprocess.run(wrap, check=True)
        variables = {
            "AIRBYTE_OFFLINE_MODE": "1",
            "AIRBYTE_LOGGING_ROOT": f"{directory}/logs",
            "AIRBYTE_TEMP_DIR": str(files),
            "DO_NOT_TRACK": "1",
            "HOME": directory,
            "PATH": os.environ["PATH"],
        }
        words = [str(rounds), TREE / "demo" / "manifest.yaml", url, script, program]
        command = [f"{environment}/bin/python", "-c", CHECKS, *words]
        done = subprocess.run(
            command, env=variables, cwd=directory, check=True, capture_output=True, text=True
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("seconds: ")]
    times = [float(line.split()[1]) for line in lines]
    report("PyAirbyte", (times[::2], times[1::2]))


def main(rounds: int) -> None:
    os.environ["PATH"] = f"{SCRIPTS}:{os.environ['PATH']}"
    sys.path.append(str(EXAMPLES))
    measure("gvisor", gvisor_package(), rounds)
    with ExitStack() as stack:
        loop = stack.enter_context(asyncio.Runner())
        measure("inspect_ai", stack.enter_context(inspect_ai(loop)), rounds)
        measure("llm-sandbox", stack.enter_context(llm_sandbox()), rounds)
        measure("smolagents", stack.enter_context(smolagents()), rounds)
        measure("Jupyter", stack.enter_context(jupyter()), rounds)
    environment, connector = map(os.environ.get, ("USERNSCTL_PYAIRBYTE", "USERNSCTL_CONNECTOR"))
    if environment and connector:
        measure_pyairbyte(environment, connector, rounds)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
