"""Run tests/faults/matrix.py for each kind of user, and write bench/faults.json.

    faults.py [--rounds N] [--path PATTERN] [--seed TEXT]

Injects N faults, which the seed determines, into each code path. By default, N is 0: the script
injects all faults, which takes hours. Prints each defect, and exits with status 1 if there is any.
The script needs root, because only root can trace newuidmap. It also needs a virtual environment in
which usernsctl is installed from this tree.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TREE = Path(__file__).parent.parent
FAULTS = TREE / "tests" / "faults"
TARGET = TREE / "bench" / "faults.json"
USER = "usernsctl-test"
# The code paths that root runs as well: as root, usernsctl uses other code to write maps of several
# ids and to enforce the limits of sandboxes.
AS_ROOT = ["exec, map by the parent", "spawn, map by the parent", "run with control groups"]


def run(directory: Path, user: str, options: list[str]) -> list[dict[str, Any]]:
    """Inject faults into all code paths as one user, and return the outcomes."""
    # Run in a new mount namespace, where mounts of other programs can't be mistaken for leftovers.
    apart = ["unshare", "--mount", "--propagation", "private"]
    # A private network needs /dev/net/tun.
    apart += [str(TREE / "tools" / "with-tun"), str(directory)]
    traced = [str(directory / "injector"), "-u", user, sys.executable, "-B", "matrix.py"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C.UTF-8"}
    outcomes = []
    with subprocess.Popen(
        [*apart, *traced, *options],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as popen:
        assert popen.stdout is not None
        for line in popen.stdout:
            outcome = json.loads(line)
            print(f"{user}: {outcome['path']}: {outcome['ends']}", *outcome["defects"], sep="\n  ")
            sys.stdout.flush()
            outcomes.append(outcome)
    if popen.returncode:
        raise SystemExit(f"matrix.py ended with {popen.returncode}")
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", default="0")
    parser.add_argument("--path", default="*")
    parser.add_argument("--seed", default="0")
    given = parser.parse_args()
    subprocess.run([TREE / "tools" / "user", USER, "ranges"], check=True)
    options = [f"--{name}={value}" for name, value in vars(given).items()]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        flags = ["-Wall", "-Wextra", "-Werror", "-O1"]
        injector = directory / "injector"
        subprocess.run(["cc", *flags, FAULTS / "injector.c", "-o", injector], check=True)
        for file in ("errnos.py", "matrix.py", "paths.py"):
            shutil.copy(FAULTS / file, directory)
        outcomes = run(directory, USER, options)
        as_root = [f"--path={one}" for one in AS_ROOT if fnmatch.fnmatch(one, given.path)]
        if as_root:
            outcomes += run(directory, "root", [*options[:1], *as_root, options[2]])
    # Keep earlier outcomes of the code paths that this run did not try.
    old = json.loads(TARGET.read_text(encoding="utf-8")) if TARGET.exists() else []
    merged = {(one["user"], one["path"]): one for one in [*old, *outcomes]}
    TARGET.write_text(json.dumps([*merged.values()], indent=1) + "\n", encoding="utf-8")
    return 1 if any(outcome["defects"] for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
