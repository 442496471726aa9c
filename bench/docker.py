"""Benchmark of `docker run`: time until a command in gVisor writes a byte, and image sizes.

Run as root after `make docker`: python bench/docker.py [ROUNDS]

The baseline is `runsc --rootless` with a prepared config.json, without usernsctl, in the same image
and on the same files. Only ratios to the baseline are comparable between runs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from docker.engine import TREE, Engine, started

BASE, PRELUDE = "usernsctl-test/base", "usernsctl-test/prelude"
PRELUDE_PYTHON, CONNECTOR = "usernsctl-test/prelude-python", "usernsctl-test/connector"
OPTIONS = ["--rm", "--security-opt=seccomp=docker/seccomp.json", "--network=none"]
VERSION = ["cat", "/proc/version"]
SPEC = ["/opt/airbyte/bin/source-declarative-manifest", "spec"]

LAUNCH = ["--launch", "/etc/usernsctl/launch.no-network", "--"]
EXEC, IN_GVISOR = "--entrypoint=/usr/local/bin/usernsctl-exec", "--entrypoint=in-gvisor"
RUN = ["run", "--expose-root", "--"]

BY_HAND = (
    "exec runsc --rootless --ignore-cgroups --network=none --root=/tmp/state --overlay2=root:memory"
    " run --bundle=/bundle by-hand"
)


def config(command: list[str]) -> str:
    """Return a config.json that runs `command` with the container's / as its root filesystem."""
    mounts = [
        {"destination": f"/{name}", "type": kind, "source": kind}
        for name, kind in (("proc", "proc"), ("dev", "tmpfs"), ("sys", "sysfs"), ("tmp", "tmpfs"))
    ]
    process = {
        "user": {"uid": 0, "gid": 0},
        "args": command,
        "cwd": "/",
        "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
    }
    namespaces = [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]
    return json.dumps(
        {
            "ociVersion": "1.0.0",
            "process": process,
            "root": {"path": "/", "readonly": True},
            "mounts": mounts,
            "linux": {"namespaces": namespaces},
        }
    )


def first_byte(engine: Engine, arguments: list[str]) -> float:
    """Return the seconds from the start of `docker run` to the first byte of output."""
    before = time.monotonic()
    with subprocess.Popen(
        engine.command("run", *OPTIONS, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=TREE,
        env=engine.environ,
    ) as process:
        assert process.stdout
        got = process.stdout.read(1)
        seconds = time.monotonic() - before
        process.stdout.read()
    if process.returncode != 0 or not got:
        raise SystemExit(f"docker run {' '.join(arguments)}: exit {process.returncode}")
    return seconds


def ways_to(image: str, command: list[str]) -> dict[str, list[str]]:
    """Return the `docker run` arguments for each measured way to run `command`, keyed by title."""
    ways = {
        "a launch": [EXEC, image, *LAUNCH, *command],
        "in-gvisor": [IN_GVISOR, image, "--network=none", "--", *command],
        "without gVisor": [f"--entrypoint={command[0]}", image, *command[1:]],
    }
    if image == PRELUDE:
        ways["usernsctl run, in prelude-python"] = [PRELUDE_PYTHON, *RUN, *command]
    return ways


def measure(engine: Engine, image: str, command: list[str], rounds: int) -> dict[str, float]:
    """Return the median of first_byte(), in seconds, for each way to run `command`, by title.

    The first way is the baseline.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-bench-") as bundle:
        os.chmod(bundle, 0o755)
        Path(bundle, "config.json").write_text(config(command))
        hand = [f"--volume={bundle}:/bundle:ro", "--entrypoint=sh", image, "-c", BY_HAND]
        ways = {"runsc by hand": hand, **ways_to(image, command)}
        found: dict[str, list[float]] = {title: [] for title in ways}
        for _ in range(rounds + 1):
            for title, arguments in ways.items():
                found[title].append(first_byte(engine, arguments))
    # Discard the first round, in which the caches were cold.
    return {title: statistics.median(seconds[1:]) for title, seconds in found.items()}


def sizes(engine: Engine, image: str) -> tuple[float, float]:
    """Return the size of an image on disk, and its compressed size, both in megabytes."""
    disk = int(engine.must("image", "inspect", "--format={{.Size}}", image))
    with subprocess.Popen(
        engine.command("save", image), stdout=subprocess.PIPE, env=engine.environ
    ) as saving:
        packed = subprocess.run(["gzip", "-c"], stdin=saving.stdout, capture_output=True).stdout
    return disk / 1e6, len(packed) / 1e6


def main(arguments: list[str]) -> None:
    rounds = int(arguments[0]) if arguments else 9
    with started("plain") as engine:
        base = sizes(engine, BASE)
        for name in (PRELUDE, PRELUDE_PYTHON, CONNECTOR):
            disk, packed = (a - b for a, b in zip(sizes(engine, name), base, strict=True))
            print(f"{name}: {disk:.0f} MB more than its base, {packed:.0f} MB compressed")
        for title, image, command in (
            ("cat /proc/version", PRELUDE, VERSION),
            ("the connector's spec", CONNECTOR, SPEC),
        ):
            medians = measure(engine, image, command, rounds)
            by_hand = next(iter(medians.values()))
            print(f"{title}, load {os.getloadavg()[0]:.1f}:")
            for way, seconds in medians.items():
                print(f"    {way}: {seconds:.3f} s, ratio {seconds / by_hand:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
