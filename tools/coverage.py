"""Measure how much of csrc/ the tests cover, and write bench/coverage.json: coverage.py DIRECTORY.

DIRECTORY is the virtual environment whose extension and programs are instrumented for coverage
(`tools/environment counted`). The script first runs the C tests, the fuzz targets with their seeds,
and the C tests again while libc calls fail (tools/c_faults.py). Then it runs the Python tests: as
root and as the user usernsctl-test if root calls the script, otherwise only as the caller. Failed
Python tests are printed, but ignored, because LLVM's runtime adds environment variables,
descriptors and system calls. The script needs clang and llvm.
"""

from __future__ import annotations

import collections
import getpass
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import c_faults
import c_tests
import layout

TARGET = Path(__file__).parent.parent / "bench" / "coverage.json"
BUILD = c_tests.BUILD / "coverage"
# Arguments of pytest: for the Python tests that run in parallel, and for the other tests.
TESTS = (
    ["tests/kernel", "tests/runsc", "tests/environments", f"-n{os.cpu_count()}"],
    ["tests/faults"],
)
# Users, each with the expression (pytest -m) that selects its tests, as in tools/test-as.
USERS = {
    "usernsctl-test": "not as_root",
    "root": "(each_user or also_root or as_root) and not unprivileged",
}


def run_python_tests(environment: Path) -> str:
    """Run the Python tests; return the sum of pytest's summaries ("2 failed, 40 passed")."""
    results: collections.Counter[str] = collections.Counter()
    users = USERS
    if os.geteuid() == 0:
        subprocess.run(["tools/user", "usernsctl-test", "ranges"], check=True)
    else:
        users = {getpass.getuser(): "not as_root"}
    for (user, marks), tests in itertools.product(users.items(), TESTS):
        results += run_pytest(environment, user, [*tests, "-q", "-m", f"{marks} and not thorough"])
    return ", ".join(f"{number} {result}" for result, number in sorted(results.items()))


def run_pytest(environment: Path, user: str, options: list[str]) -> collections.Counter[str]:
    """Run pytest as `user`; return the number of tests for each outcome, such as "passed"."""
    python = environment / "bin" / "python"
    summary = ""
    with subprocess.Popen(
        ["tools/pytest-as", user, "--", python, *options], stdout=subprocess.PIPE, text=True
    ) as pytest:
        assert pytest.stdout
        for line in pytest.stdout:
            print(line, end="", flush=True)
            summary = line
    found = re.findall(r"(\d+) (failed|passed|skipped|error)", summary)
    return collections.Counter({result: int(number) for number, result in found})


def programs(environment: Path) -> list[Path]:
    """Return the paths of the extension and programs that are instrumented for coverage."""
    built = sorted(path for path in BUILD.iterdir() if path.is_file() and os.access(path, os.X_OK))
    package = next(environment.glob("lib/python3*/site-packages/usernsctl"))
    return [
        *built,
        *package.glob("_native*.so"),
        *(path for path in sorted((package / "_bin").iterdir()) if path.name in layout.PROGRAMS),
        environment / "bin" / "usernsctl-entrypoint",
    ]


def create_profiles(environment: Path) -> None:
    """Create an empty profile for each program, to which processes of all users can write."""
    for program in programs(environment):
        if program.parent != BUILD:
            command = [program, "--help"]
            if program.suffix == ".so":
                command = [environment / "bin" / "python", "-c", "import usernsctl._native"]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    for profile in (environment / "profiles").iterdir():
        profile.chmod(0o666)


def count_lines(environment: Path, profiles: list[Path]) -> dict[str, tuple[int, int]]:
    """Return for each file in csrc/ how many lines it has, and how many of them were executed."""
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
    status = c_tests.main(["coverage"]) if os.geteuid() else c_faults.main("coverage")
    create_profiles(environment)
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
