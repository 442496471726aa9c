"""Measure the coverage of csrc/ by tests, and write bench/coverage.json: coverage.py DIRECTORY.

DIRECTORY is the environment whose programs count (`tools/environment counted`). The tests in C and
the fuzz targets with their seeds run first, then tests/kernel and tests/runsc. Failures of these
are printed but do not matter: LLVM's runtime adds environment variables, descriptors and system
calls. Needs clang and llvm.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import c_tests
import layout

TARGET = Path(__file__).parent.parent / "bench" / "coverage.json"
BUILD = c_tests.BUILD / "coverage"
TESTS = ["tests/kernel", "tests/runsc", "-q", f"-n{os.cpu_count()}"]
TESTS += ["-m", "not as_root and not thorough"]


def run_python_tests(environment: Path) -> str:
    """Run the tests in Python; return the summary of pytest, such as "2 failed, 40 passed"."""
    name = getpass.getuser()
    if name == "root":
        name = "usernsctl-test"
        subprocess.run(["tools/user", name, "ranges"], check=True)
    python = environment / "bin" / "python"
    command = ["tools/pytest-as", name, "--", python, *TESTS]
    summary = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pytest:
        assert pytest.stdout
        for line in pytest.stdout:
            print(line, end="", flush=True)
            summary = line.strip(" =\n").partition(" in ")[0]
    return summary


def programs(environment: Path) -> list[Path]:
    """Return all programs with counters."""
    built = sorted(path for path in BUILD.iterdir() if path.is_file() and os.access(path, os.X_OK))
    installed = next(environment.glob("lib/python3*/site-packages/usernsctl/_bin"))
    return [
        *built,
        *(path for path in sorted(installed.iterdir()) if path.name in layout.PROGRAMS),
        environment / "bin" / "usernsctl-entrypoint",
    ]


def count_lines(environment: Path, profiles: list[Path]) -> dict[str, tuple[int, int]]:
    """Return the number of lines, and of executed ones, of each file of csrc/."""
    merged = BUILD / "all.profdata"
    merge = ["llvm-profdata", "merge", "--sparse", "--failure-mode=all", *profiles, "-o", merged]
    subprocess.run(merge, check=True)
    objects = [word for path in programs(environment) for word in ("--object", path)]
    export = ["llvm-cov", "export", "--summary-only", f"--instr-profile={merged}", *objects[1:]]
    done = subprocess.run(export, check=True, stdout=subprocess.PIPE)
    root = c_tests.CSRC.absolute()
    lines = {}
    for file in json.loads(done.stdout)["data"][0]["files"]:
        path = Path(file["filename"]).absolute()
        counts = file["summary"]["lines"]
        if path.is_relative_to(root) and counts["count"]:
            lines[str(path.relative_to(root))] = (counts["count"], counts["covered"])
    return lines


def main(environment: Path) -> int:
    profiles = [c_tests.PROFILES, environment / "profiles"]
    for directory in profiles:
        for path in directory.glob("*.profraw"):
            path.unlink()
    status = c_tests.main(["coverage"])
    summary = run_python_tests(environment)
    lines = count_lines(environment, profiles)
    for name, (count, covered) in sorted(lines.items()):
        print(f"{100 * covered / count:5.1f} % of {count:4} lines  csrc/{name}")
    count, covered = (sum(numbers) for numbers in zip(*lines.values(), strict=True))
    print(f"{100 * covered / count:5.1f} % of {count} lines")
    found = {"tests": summary, "lines": lines}
    TARGET.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
