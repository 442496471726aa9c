"""Benchmark of start times against other tools. Prints a table with a target for each ratio.

    python bench/aims.py [ROUNDS]

"runsc by hand" means `runsc --rootless run` with a prepared config.json, and with the host's / as
the root filesystem. The Airbyte connector is measured only if USERNSCTL_CONNECTOR names its virtual
environment. bench/docker.py measures `docker run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "demo"))

from measuring import (
    PRELUDE,
    USERNSCTL,
    Call,
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
from usernsctl.gvisor import oci
from usernsctl.gvisor.runsc.find import find_runsc

ROUNDS = 400
# The number of rounds for sandboxes. It is lower than ROUNDS, because a sandbox takes about a
# hundred times as long to start as a command.
SANDBOX_ROUNDS = 60
CONNECTOR_ROUNDS = 5


def by_hand(directory: Path, *command: str) -> Call:
    """Return a function that runs `command` with runsc alone, from a bundle prepared in advance."""
    one = [un.Extent(0, 0, 1)]
    options = oci.BuildOptions(
        args=command, rootfs="/", uid_map=one, gid_map=one, env={"PATH": "/usr/bin:/bin"}
    )
    oci.create(directory / "bundle", oci.build(options))
    words = [find_runsc(os.environ), "--rootless", "--overlay2=root:memory", "--network=none"]
    words += ["--ignore-cgroups", f"--root={directory}/state"]
    return native(*words, "run", f"--bundle={directory}/bundle", "by-hand")


def bench_sandboxes(scratch: Path, rounds: int) -> None:
    launch = str(scratch / "true.launch")
    subprocess.run([USERNSCTL, "freeze", "-o", launch, "--", "true"], check=True)
    calls = {
        "usernsctl run -- true": ("1.00", native(USERNSCTL, "run", "--", "true")),
        "usernsctl-exec --launch": ("0.85", native(PRELUDE, "--launch", launch)),
    }
    theirs = by_hand(scratch, "true")
    hand, *ours = medians(theirs, *(call for _, call in calls.values()), rounds=rounds)
    for (name, (aim, _)), taken in zip(calls.items(), ours, strict=True):
        print_row(f"runsc by hand / {name}", hand, taken, aim)
    hand, host = medians(theirs, lambda: un.SandboxHost().close(), rounds=rounds)
    print_row("runsc by hand / SandboxHost() (aim: 40 ms)", hand, host, "")


def bench_connector(rounds: int) -> None:
    environment = os.environ.get("USERNSCTL_CONNECTOR")
    if not environment:
        print("left out, the connector: USERNSCTL_CONNECTOR names no environment")
        return
    from connector import Connector

    with tempfile.TemporaryDirectory() as files:
        connector = Connector(Path(environment), Path(files), "")

        def quiet(command: list[str]) -> Call:
            return lambda: subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
            )

        inside = quiet([*connector.sandbox("none"), *connector.in_big_frame("spec")])
        title = "the connector's spec, cold: natively / in gVisor"
        compare(title, "1.90", quiet(connector.command("spec")), inside, rounds=rounds)


def bench_commands(tiny: str, rounds: int) -> None:
    for name, program, aim in (("/bin/true", "/bin/true", "0.70"), ("tiny", tiny, "0.52")):
        theirs, ours = native("unshare", "-Ur", program), native(PRELUDE, "-r", "--", program)
        title = f"unshare -Ur / usernsctl-exec -r: {name}"
        compare(title, aim, theirs, ours, rounds=rounds)
    compare(
        "subprocess + unshare -Ur / un.run: tiny",
        "0.30",
        lambda: subprocess.run(["unshare", "-Ur", tiny], check=True),
        lambda: un.run([tiny], check=True),
        rounds=rounds,
    )
    if not may_map_ranges():
        return
    theirs = native("unshare", "-U", "--map-auto", "-r", tiny)
    ours = native(PRELUDE, "--map-auto", "-r", "--", tiny)
    title = "unshare --map-auto -r / usernsctl-exec --map-auto -r: tiny"
    compare(title, "0.55", theirs, ours, rounds=rounds)
    with un.Namespace.create(un.IdMap.auto()) as namespace:
        title = "unshare + newuidmap + newgidmap / ns.spawn: tiny"
        ours = spawner(namespace, tiny)
        compare(title, "0.07", classic_wrapper(tiny), ours, rounds=rounds)


def main() -> int:
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    print_header(f"the aims: theirs / ours, medians of {rounds} rounds or less")
    with tempfile.TemporaryDirectory() as scratch:
        bench_sandboxes(Path(scratch), min(rounds, SANDBOX_ROUNDS))
        bench_connector(min(rounds, CONNECTOR_ROUNDS))
        bench_commands(tiny_program(Path(scratch)), rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
