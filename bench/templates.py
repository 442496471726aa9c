"""Benchmark of starts from a template, against cold starts in gVisor and natively.

    USERNSCTL_CONNECTOR=$(tools/environment connector) python bench/templates.py [ROUNDS]

One of the measured programs imports numpy from the virtual environment of the Airbyte connector. If
the argument is `restores=N` instead of ROUNDS, the script only restores one template N times. After
each tenth of the restores, it prints how many descriptors and threads its process has, how many
sandbox directories exist, and the resident memory of the process in KiB. These numbers should not
grow.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from connector import Connector
from measuring import compare, print_header

import usernsctl as un

ROUNDS = 11
CLI = "airbyte_cdk.cli.source_declarative_manifest"


def finish(box: un.Sandbox) -> None:
    with box:
        box.communicate()
        if box.wait():
            raise RuntimeError(f"{box.args}: status {box.returncode}")


def connector(rounds: int) -> None:
    environment = Path(os.environ["USERNSCTL_CONNECTOR"])
    python = str(environment / "bin" / "python")
    with tempfile.TemporaryDirectory() as files, un.SandboxHost(binds=[environment]) as host:
        plain = Connector(environment, Path(files), "").command("spec")
        quiet = {"stdout": subprocess.DEVNULL, "check": True}
        with host.python_template(python=python, preload=[CLI]) as template:
            compare(
                "the connector's spec: natively, from a template",
                "0.60",
                lambda: subprocess.run(plain, **quiet),
                lambda: finish(template.start(plain, stdout=un.PIPE)),
                rounds=rounds,
            )
        with host.python_template(python=python, preload=["numpy"]) as template:
            command = ["-c", "import numpy"]
            compare(
                "python -c 'import numpy' in gVisor: cold, from a template",
                "0.25",
                lambda: finish(host.start([python, *command], stdout=un.PIPE)),
                lambda: finish(template.start(command, stdout=un.PIPE)),
                rounds=rounds,
            )


def small(rounds: int) -> None:
    with un.SandboxHost() as host:
        ready = ["sh", "-c", "echo READY; read line; exit 0"]
        with host.template(ready, ready="READY") as template, host.template() as agent:
            compare(
                "sh in gVisor: cold, from a template",
                "",
                lambda: finish(host.start(["sh", "-c", "exit 0"])),
                lambda: finish(template.start()),
                rounds=rounds,
            )

            def cold() -> None:
                with host.start(["sleep", "100"]) as box:
                    box.run(["true"], check=True)

            def warm() -> None:
                with agent.start() as box:
                    box.run(["true"], check=True)

            compare(
                "a sandbox and box.run: cold, from an agent's template",
                "",
                cold,
                warm,
                rounds=rounds,
            )


def resident() -> int:
    """Return this process's resident memory in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise LookupError("VmRSS")


def restores(count: int) -> None:
    script = ["sh", "-c", "echo READY; read line; echo $line"]
    with un.SandboxHost() as host, host.template(script, ready="READY") as template:

        def look() -> tuple[int, int, int, int]:
            files = len(os.listdir(f"/proc/self/fd/{host.directory}"))
            return len(os.listdir("/proc/self/fd")), files, threading.active_count(), resident()

        print(f"{'restores':>10}{'descriptors':>13}{'directories':>13}{'threads':>9}{'KiB':>9}")
        begin = time.monotonic()
        for number in range(count + 1):
            if number % max(1, count // 10) == 0:
                fds, files, threads, memory = look()
                print(f"{number:>10}{fds:>13}{files:>13}{threads:>9}{memory:>9}", flush=True)
            word = str(number).encode()
            with template.start(stdin=un.PIPE, stdout=un.PIPE) as box:
                if box.communicate(word + b"\n")[0] != word + b"\n":
                    raise RuntimeError(f"restore {number} answered something else")
        print(f"{(time.monotonic() - begin) / (count + 1):.3f} s each")


def main() -> int:
    given = sys.argv[1] if sys.argv[1:] else str(ROUNDS)
    if given.startswith("restores="):
        restores(int(given.partition("=")[2]))
        return 0
    rounds = int(given)
    print_header("templates")
    small(rounds)
    connector(rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
